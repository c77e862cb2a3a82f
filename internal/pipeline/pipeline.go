package pipeline

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Defaults of Options.
const (
	DefaultQueueSize     = 8192
	DefaultBatchSize     = 512
	DefaultScheduleDelay = time.Second
	DefaultExportTimeout = 30 * time.Second
)

// Resources finds what a process is. ResourceOf is a pure lookup: it never
// blocks and returns nil for a process it does not know.
type Resources interface {
	ResourceOf(telemetry.ProcessKey) *telemetry.Resource
}

// Recorder adds up the measurements of operations; see internal/metrics.
type Recorder interface {
	// Record is called with the resource and, unless it is MetricsOnly, the times set,
	// from several goroutines.
	Record(op *telemetry.Operation)
}

// Options are what a pipeline needs. Only Exporters has no usable zero value;
// without any, every operation is discarded.
type Options struct {
	Exporters []exporter.Exporter
	Resources Resources
	// Recorder may be nil.
	Recorder Recorder
	Log      *slog.Logger
	Metrics  *selfmetrics.Registry
	// QueueSize bounds, per exporter, the spans that wait (not those in the
	// batch under way).
	QueueSize int
	// BatchSize is the most spans handed to an exporter at once.
	BatchSize int
	// ScheduleDelay is how long a span may wait for its batch to fill.
	ScheduleDelay time.Duration
	// ExportTimeout bounds one ExportSpans call, retries included.
	ExportTimeout time.Duration
	// Clock is the system's when nil.
	Clock Clock
}

// Pipeline is the way from the decoders to the exporters. Use New.
type Pipeline struct {
	resources  Resources
	recorder   Recorder
	unknown    *telemetry.Resource
	noResource *selfmetrics.Counter

	mu       sync.Mutex // timeline; closed
	timeline *timeline
	closed   bool

	lanes []*lane
	// transient: no exporter keeps operations, whose memory is used again.
	transient bool
	live      atomic.Int32
	dead      chan struct{}
}

// New starts a pipeline. Shutdown ends it.
func New(o Options) *Pipeline {
	if o.QueueSize <= 0 {
		o.QueueSize = DefaultQueueSize
	}
	if o.BatchSize <= 0 {
		o.BatchSize = DefaultBatchSize
	}
	o.BatchSize = min(o.BatchSize, o.QueueSize)
	if o.ScheduleDelay <= 0 {
		o.ScheduleDelay = DefaultScheduleDelay
	}
	if o.ExportTimeout <= 0 {
		o.ExportTimeout = DefaultExportTimeout
	}
	if o.Clock == nil {
		o.Clock = SystemClock
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Pipeline{
		resources: o.Resources,
		recorder:  o.Recorder,
		unknown: &telemetry.Resource{Attributes: []attribute.KeyValue{
			attribute.String("service.name", "unknown_service"),
		}},
		noResource: o.Metrics.Counter(selfmetrics.NameNoResource),
		timeline:   newTimeline(o.Clock),
		transient:  true,
		dead:       make(chan struct{}),
	}
	p.live.Store(int32(len(o.Exporters)))
	for _, e := range o.Exporters {
		l := newLane(e, o, p.laneGone)
		p.lanes = append(p.lanes, l)
		_, transient := e.(exporter.Transient)
		p.transient = p.transient && transient
		go l.run()
	}
	o.Metrics.Func(selfmetrics.NameQueueLength, "", selfmetrics.KindGauge, func(emit selfmetrics.Emit) {
		for _, l := range p.lanes {
			emit(float64(l.length()), selfmetrics.L("exporter", l.name))
		}
	})
	return p
}

// Submit takes over op, unless it is MetricsOnly, and never blocks: when an exporter's queue is full, or
// the pipeline is shut down, the span is dropped there and counted.
// It may be called from several goroutines.
func (p *Pipeline) Submit(op *telemetry.Operation) {
	op.Resource = p.resourceOf(op.Process)
	if !op.MetricsOnly {
		p.mu.Lock()
		p.timeline.stamp(op)
		p.mu.Unlock()
	}
	if p.recorder != nil {
		p.recorder.Record(op)
	}
	if op.MetricsOnly || len(p.lanes) == 0 {
		op.Share(1)
		op.Release()
		return
	}
	op.Measurements = nil
	if p.transient {
		op.Share(len(p.lanes))
	}
	p.mu.Lock()
	// The lanes are filled under the lock so that Shutdown sees all of what was
	// accepted before it, and so that every exporter gets the same order.
	for _, l := range p.lanes {
		l.push(op)
	}
	p.mu.Unlock()
}

func (p *Pipeline) resourceOf(key telemetry.ProcessKey) *telemetry.Resource {
	if p.resources != nil {
		if r := p.resources.ResourceOf(key); r != nil {
			return r
		}
	}
	p.noResource.Inc()
	return p.unknown
}

// ExporterState is how an exporter fares.
type ExporterState struct {
	Name     string
	Waiting  int       // spans in its queue
	Exported uint64    // spans
	Tried    time.Time // when a batch was exported last; zero: never
	Failing  error     // why that batch was not delivered, nil when it was
	Note     string    // what the exporter says of itself
}

// Exporters says how each exporter fares.
func (p *Pipeline) Exporters() []ExporterState {
	out := make([]ExporterState, 0, len(p.lanes))
	for _, l := range p.lanes {
		out = append(out, l.report())
	}
	return out
}

// Dead is closed when no exporter is left, for example because the only one
// wrote to a pipe that was closed. It is never closed when there was none.
func (p *Pipeline) Dead() <-chan struct{} { return p.dead }

func (p *Pipeline) laneGone() {
	if p.live.Add(-1) == 0 {
		close(p.dead)
	}
}

// Flush returns when everything submitted before it has been exported or
// given up, or when ctx is done.
func (p *Pipeline) Flush(ctx context.Context) error {
	return p.each(func(l *lane) error { return l.flush(ctx) })
}

// Shutdown exports what is queued, ends the exporters and waits for them. When
// ctx is done first, exports under way are cut off and what remains is counted
// as lost. A second call does nothing.
func (p *Pipeline) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	p.mu.Unlock()
	return p.each(func(l *lane) error { return l.shutdown(ctx) })
}

// each runs f for all lanes at once, so that a dead collector does not use up
// the time of the others, and joins the errors.
func (p *Pipeline) each(f func(*lane) error) error {
	errs := make([]error, len(p.lanes))
	var wg sync.WaitGroup
	for i, l := range p.lanes {
		wg.Go(func() { errs[i] = f(l) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
