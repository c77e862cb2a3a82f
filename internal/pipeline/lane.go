package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// complainEvery bounds how often one exporter's trouble is logged.
const complainEvery = 30 * time.Second

// stuckGrace is how long shutdown waits for an exporter that was told to stop.
const stuckGrace = 100 * time.Millisecond

// lane is one exporter with its queue and its goroutine.
type lane struct {
	name      string
	exp       exporter.Exporter
	log       *slog.Logger
	metrics   *selfmetrics.Registry
	delay     time.Duration
	timeout   time.Duration
	batchSize int
	onGone    func()

	mu       sync.Mutex
	queue    []*telemetry.Operation // ring
	head, n  int
	pushed   uint64 // spans accepted so far
	finished uint64 // spans of those that were exported or given up
	closed   bool   // accept nothing more
	gone     bool   // exporter.ErrGone was seen
	waiters  []flushWaiter
	tried    time.Time // when a batch was exported last, well or not
	failing  error     // of that batch

	kick    chan struct{} // there is something to look at
	urgent  chan struct{} // do not wait for the batch to fill
	ctx     context.Context
	cancel  context.CancelFunc
	stopped chan struct{}

	losses             map[lossKey]*selfmetrics.Counter // under mu; as many as there are probes
	exported, failures *selfmetrics.Counter
	complaint          complaint
}

type lossKey struct {
	place selfmetrics.Place
	probe string
}

type flushWaiter struct {
	upTo uint64
	done chan struct{}
}

func newLane(e exporter.Exporter, o Options, onGone func()) *lane {
	l := &lane{
		name: e.Name(), exp: e, log: o.Log.With("exporter", e.Name()), metrics: o.Metrics,
		delay: o.ScheduleDelay, timeout: o.ExportTimeout, batchSize: o.BatchSize, onGone: onGone,
		queue: make([]*telemetry.Operation, o.QueueSize),
		kick:  make(chan struct{}, 1), urgent: make(chan struct{}, 1),
		stopped: make(chan struct{}),
		losses:  map[lossKey]*selfmetrics.Counter{},
	}
	if p, ok := e.(exporter.Prompt); ok {
		l.delay = min(l.delay, p.MaxDelay())
	}
	// The context outlives any caller: it ends at shutdown's deadline.
	l.ctx, l.cancel = context.WithCancel(context.Background())
	label := selfmetrics.L("exporter", l.name)
	l.exported = o.Metrics.Counter(selfmetrics.NameSpans, label)
	l.failures = o.Metrics.Counter(selfmetrics.NameExportErrors, label)
	return l
}

// push queues op or drops it.
func (l *lane) push(op *telemetry.Operation) {
	l.mu.Lock()
	if l.closed || l.n == len(l.queue) {
		defer op.Release()
		place := selfmetrics.QueueFull
		if l.gone {
			place = selfmetrics.ExportFailure
		}
		l.lost(place, op.Probe)
		l.mu.Unlock()
		return
	}
	i := l.head + l.n
	if i >= len(l.queue) {
		i -= len(l.queue)
	}
	l.queue[i] = op
	l.n++
	l.pushed++
	first, full := l.n == 1, l.n == l.batchSize
	l.mu.Unlock()
	if first {
		signal(l.kick)
	}
	if full {
		signal(l.urgent)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// report says how the exporter fares.
func (l *lane) report() ExporterState {
	l.mu.Lock()
	s := ExporterState{Name: l.name, Waiting: l.n, Tried: l.tried, Failing: l.failing}
	l.mu.Unlock()
	s.Exported = l.exported.Value()
	if n, ok := l.exp.(exporter.Noter); ok {
		s.Note = n.Note()
	}
	return s
}

func (l *lane) length() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// take moves up to one batch out of the queue into buf.
func (l *lane) take(buf []*telemetry.Operation) []*telemetry.Operation {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.n > 0 && len(buf) < l.batchSize {
		buf = append(buf, l.queue[l.head])
		l.queue[l.head] = nil
		if l.head++; l.head == len(l.queue) {
			l.head = 0
		}
		l.n--
	}
	return buf
}

// run is the lane's goroutine: it ends when the lane is closed and empty.
func (l *lane) run() {
	defer close(l.stopped)
	buf := make([]*telemetry.Operation, 0, l.batchSize)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		n, hurry, closed := l.state()
		switch {
		case n == 0 && closed:
			return
		case n == 0:
			<-l.kick
			continue
		case n < l.batchSize && !hurry:
			timer.Reset(l.delay)
			select {
			case <-timer.C:
			case <-l.urgent:
			}
		}
		buf = l.take(buf[:0])
		if len(buf) > 0 {
			l.export(buf)
			clear(buf)
		}
	}
}

// state says how much is queued and whether somebody waits for it.
func (l *lane) state() (n int, hurry, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n, l.closed || len(l.waiters) > 0, l.closed
}

func (l *lane) export(ops []*telemetry.Operation) {
	ctx, cancel := context.WithTimeout(l.ctx, l.timeout)
	err := l.exp.ExportSpans(ctx, ops)
	cancel()
	l.mu.Lock()
	l.tried, l.failing = time.Now(), err
	l.mu.Unlock()
	l.account(ops, err)
	for _, op := range ops {
		op.Release()
	}
	l.done(len(ops))
}

// account counts a batch's spans by what became of them.
func (l *lane) account(ops []*telemetry.Operation, err error) {
	var rejected *exporter.RejectedError
	switch {
	case err == nil:
		l.exported.Add(uint64(len(ops)))
		if lost, ok := l.complaint.resolve(); ok {
			l.log.Info("exporting again", "spans_lost", lost)
		}
		return
	case errors.As(err, &rejected):
		// Which ones were refused is not said; the first ones stand for them.
		n := min(max(0, int(rejected.Spans)), len(ops))
		l.exported.Add(uint64(len(ops) - n))
		l.loseAll(ops[:n])
		l.complain("spans refused by destination", n, err)
	default:
		l.failures.Inc()
		l.loseAll(ops)
		l.complain("spans lost on export", len(ops), err)
	}
	if errors.Is(err, exporter.ErrGone) {
		l.giveUp()
	}
}

// giveUp closes the lane because its destination will not come back.
func (l *lane) giveUp() {
	l.mu.Lock()
	first := !l.gone
	l.gone, l.closed = true, true
	l.mu.Unlock()
	for rest := l.take(nil); len(rest) > 0; rest = l.take(nil) {
		l.loseAll(rest)
		l.done(len(rest))
	}
	if first {
		l.onGone()
	}
}

func (l *lane) loseAll(ops []*telemetry.Operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, op := range ops {
		l.lost(selfmetrics.ExportFailure, op.Probe)
	}
}

// lost counts one span; l.mu is held. The counters are kept because a dead
// collector makes this the path of every span.
func (l *lane) lost(place selfmetrics.Place, probe string) {
	key := lossKey{place, probe}
	c := l.losses[key]
	if c == nil {
		c = l.metrics.Lost(place, probe, selfmetrics.L("exporter", l.name))
		l.losses[key] = c
	}
	c.Inc()
}

// done marks n spans as dealt with and wakes whoever waited for them.
func (l *lane) done(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finished += uint64(n)
	rest := l.waiters[:0]
	for _, w := range l.waiters {
		if l.finished >= w.upTo {
			close(w.done)
		} else {
			rest = append(rest, w)
		}
	}
	l.waiters = rest
}

func (l *lane) flush(ctx context.Context) error {
	l.mu.Lock()
	if l.finished == l.pushed {
		l.mu.Unlock()
		return nil
	}
	w := flushWaiter{upTo: l.pushed, done: make(chan struct{})}
	l.waiters = append(l.waiters, w)
	l.mu.Unlock()
	signal(l.kick)
	signal(l.urgent)
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush %s: %w", l.name, ctx.Err())
	}
}

// shutdown drains the queue, then the exporter.
func (l *lane) shutdown(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	signal(l.kick)
	signal(l.urgent)
	defer l.cancel()
	var late error
	select {
	case <-l.stopped:
	case <-ctx.Done():
		late = fmt.Errorf("flush %s: %w", l.name, ctx.Err())
		// From here on every export fails at once, and the queue runs dry. An
		// exporter that cannot be interrupted (a terminal stopped by Ctrl-S) is
		// left behind.
		l.cancel()
		select {
		case <-l.stopped:
		case <-time.After(stuckGrace):
			for rest := l.take(nil); len(rest) > 0; rest = l.take(nil) {
				l.loseAll(rest)
			}
			return fmt.Errorf("%w; exporter does not return", late)
		}
	}
	if err := l.exp.Shutdown(ctx); err != nil && late == nil {
		return fmt.Errorf("shut down %s: %w", l.name, err)
	}
	return late
}

// complaint limits how often an exporter's failures are logged.
type complaint struct {
	last   time.Time
	lost   int  // since exporting last went well
	voiced bool // a warning stands that has not been taken back
}

// resolve says what was lost when a warning has to be taken back.
func (c *complaint) resolve() (lost int, voiced bool) {
	lost, voiced = c.lost, c.voiced
	c.lost, c.voiced = 0, false
	return lost, voiced
}

func (l *lane) complain(msg string, spans int, err error) {
	l.complaint.lost += spans
	if time.Since(l.complaint.last) < complainEvery {
		return
	}
	l.complaint.last, l.complaint.voiced = time.Now(), true
	l.log.Warn(msg, "spans_lost", l.complaint.lost, "err", err)
}
