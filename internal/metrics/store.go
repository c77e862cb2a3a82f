package metrics

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Defaults and bounds.
const (
	DefaultInterval = time.Minute
	DefaultTimeout  = 30 * time.Second
	// DefaultLimit is the SDK's: series of one metric of one process.
	DefaultLimit = 2000
	// maxEntities is as many processes as can be watched, and the agent.
	maxEntities = 8192 + 1
	// lateGrace is how long measurements of a process that ended are still taken: its
	// last records may be in the ring buffer.
	lateGrace = 10 * time.Second
	// unannounced is how long a process is kept that has measurements and was never
	// announced by Add.
	unannounced = 2 * time.Minute
)

// Agent is the key of the agent itself, whose resource also has the host's metrics.
var Agent = telemetry.ProcessKey{}

// Source shows values of processes at collection time.
type Source interface {
	// Open returns what reads the values of one process (or of the Agent), and since
	// when its counters count; nil when the source has nothing to say about it. It is
	// called once for each destination, so that a Reading may keep what it saw last.
	Open(key telemetry.ProcessKey) (r Reading, since time.Time)
}

// Reading reports the values of this moment.
type Reading func(telemetry.Observe)

// Options are what a Store needs.
type Options struct {
	Log     *slog.Logger
	Metrics *selfmetrics.Registry
	// Push are sent to every Interval, Pull ask by themselves.
	Push []exporter.Metrics
	Pull []exporter.MetricsPull
	// Sources show values of processes.
	Sources []Source
	// Version is the agent's.
	Version           string
	Interval, Timeout time.Duration
	// Apdex is the duration that satisfies; see Scores. Zero: DefaultApdex.
	Apdex time.Duration
	// Limit bounds the series of one metric of one process.
	Limit int
}

// Store holds the metrics of all processes. Use New.
type Store struct {
	o        Options
	began    time.Time
	refused  *selfmetrics.Counter
	failures map[string]*selfmetrics.Counter // by destination
	sent     map[string]*selfmetrics.Counter
	overflow *overflow
	scores   *Scores

	mu       sync.RWMutex
	entities map[telemetry.ProcessKey]*entity
	services map[string]*budget
	closed   bool

	exporting sync.Mutex // one at a time

	stop    chan struct{}
	stopped chan struct{}
	voiced  time.Time // of the last complaint
}

// New starts a store. With no destination it is still valid, and does nothing.
func New(o Options) *Store {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Limit <= 0 {
		o.Limit = DefaultLimit
	}
	if o.Apdex <= 0 {
		o.Apdex = DefaultApdex
	}
	scores := NewScores(o.Apdex)
	o.Sources = append(slices.Clone(o.Sources), scores)
	s := &Store{
		scores: scores,
		o:      o, began: time.Now(), entities: map[telemetry.ProcessKey]*entity{},
		services: map[string]*budget{},
		failures: map[string]*selfmetrics.Counter{}, sent: map[string]*selfmetrics.Counter{},
		refused: o.Metrics.Counter(nameRefused), overflow: newOverflow(o.Metrics),
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	for _, e := range o.Push {
		label := selfmetrics.L("exporter", e.Name())
		s.failures[e.Name()] = o.Metrics.Counter(nameFailures, label)
		s.sent[e.Name()] = o.Metrics.Counter(nameSent, label)
	}
	registerHelp(o.Metrics, s)
	go s.run()
	return s
}

// Enabled says that somebody wants metrics. A nil Store is not enabled.
func (s *Store) Enabled() bool { return s != nil && len(s.o.Push)+len(s.o.Pull) > 0 }

// Record adds the measurements of an operation, whose resource and, unless it is
// MetricsOnly, times are set.
func (s *Store) Record(op *telemetry.Operation) {
	if len(op.Measurements) == 0 || !s.Enabled() {
		return
	}
	var at moment
	if !op.MetricsOnly {
		at = moment{atNs: max(op.End.UnixNano(), 1), trace: op.TraceID, span: op.SpanID}
	}
	s.measure(at, op.Process, op.Resource, op.Measurements, true)
}

// Measure adds measurements that belong to no operation.
func (s *Store) Measure(key telemetry.ProcessKey, r *telemetry.Resource, ms ...telemetry.Measurement) {
	if s.Enabled() {
		s.measure(moment{}, key, r, ms, false)
	}
}

func (s *Store) measure(at moment, key telemetry.ProcessKey, r *telemetry.Resource, ms []telemetry.Measurement, scored bool) {
	s.mu.RLock()
	e := s.entities[key]
	s.mu.RUnlock()
	if e == nil {
		if e = s.open(key, r, false); e == nil {
			s.refused.Add(uint64(len(ms)))
			return
		}
	}
	e.record(at, ms, scored)
}

// Add announces a process: from now on its sources are read. A resource that was
// given before is replaced.
func (s *Store) Add(key telemetry.ProcessKey, r *telemetry.Resource) {
	if s.Enabled() {
		s.open(key, r, true)
	}
}

// open finds or makes an entity; nil when there is no room or the store is closed.
func (s *Store) open(key telemetry.ProcessKey, r *telemetry.Resource, announced bool) *entity {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entities[key]; e != nil {
		if announced {
			e.announce(r)
		}
		return e
	}
	if r == nil || s.closed || len(s.entities) >= maxEntities {
		return nil
	}
	e, err := newEntity(s, key, r)
	if err != nil {
		s.o.Log.Warn("metrics of a process not kept", "pid", key.PID, "error", err)
		return nil
	}
	s.entities[key] = e
	if announced {
		e.announce(r)
	}
	return e
}

// Remove says that a process has ended: its sources are read no more, and its
// series end after one more export.
func (s *Store) Remove(key telemetry.ProcessKey) {
	if !s.Enabled() {
		return
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.entities[key]; e != nil {
		e.end(time.Now())
	}
}

// Processes is how many processes have metrics.
func (s *Store) Processes() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.entities)
}

func (s *Store) run() {
	defer close(s.stopped)
	// Also without anybody to push to: processes that ended are looked for.
	t := time.NewTicker(min(s.o.Interval, DefaultInterval))
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
			ctx, cancel := context.WithTimeout(context.Background(), s.o.Timeout)
			_ = s.export(ctx, time.Now()) // counted where it happens
			cancel()
		}
	}
}

// Flush exports what there is now.
func (s *Store) Flush(ctx context.Context) error { return s.export(ctx, time.Now()) }

// Shutdown exports what there is once more and ends the destinations.
func (s *Store) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	close(s.stop)
	select {
	case <-s.stopped:
	case <-ctx.Done():
		return errors.Join(errors.New("flush metrics"), ctx.Err())
	}
	err := s.export(ctx, time.Now())
	s.mu.Lock()
	for key, e := range s.entities {
		e.close()
		delete(s.entities, key)
	}
	s.mu.Unlock()
	for _, p := range s.o.Push {
		err = errors.Join(err, p.Shutdown(ctx))
	}
	for _, p := range s.o.Pull {
		err = errors.Join(err, p.Shutdown(ctx))
	}
	return err
}
