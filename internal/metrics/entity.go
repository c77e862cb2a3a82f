package metrics

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// scope is the instrumentation scope of all metrics.
const scope = "github.com/tracer-agent/tracer-agent"

// entity is one resource: a process, or the agent.
type entity struct {
	s        *Store
	key      telemetry.ProcessKey
	provider *sdkmetric.MeterProvider
	meter    metric.Meter
	push     []*sdkmetric.ManualReader // by Store.o.Push
	observed []*observed               // by push, then by pull
	closers  []func()

	mu          sync.RWMutex
	resource    *resource.Resource
	instruments map[*telemetry.Instrument]*instrument
	service     *budget
	announced   bool
	lastUsed    time.Time
	ended       time.Time // zero while it runs
	closed      bool      // nothing is taken any more
}

// recorder adds one value to an instrument of the SDK.
type recorder func(ctx context.Context, value float64, attrs metric.MeasurementOption)

func newEntity(s *Store, key telemetry.ProcessKey, r *telemetry.Resource) (*entity, error) {
	e := &entity{
		s: s, key: key, resource: sdkResource(r), lastUsed: time.Now(),
		instruments: map[*telemetry.Instrument]*instrument{}, service: s.budgetOf(r),
	}
	opts := []sdkmetric.Option{sdkmetric.WithResource(e.resource), s.limitOption()}
	for _, x := range s.o.Push {
		o := newObserved(e, x.Temporality)
		r := sdkmetric.NewManualReader(sdkmetric.WithTemporalitySelector(x.Temporality),
			sdkmetric.WithAggregationSelector(x.Aggregation), sdkmetric.WithProducer(o))
		e.push, e.observed = append(e.push, r), append(e.observed, o)
		opts = append(opts, sdkmetric.WithReader(r))
	}
	for _, x := range s.o.Pull {
		o := newObserved(e, sdkmetric.CumulativeTemporalitySelector)
		r, end, err := x.Open(o)
		if err != nil {
			e.close()
			return nil, fmt.Errorf("open %s: %w", x.Name(), err)
		}
		e.observed, e.closers = append(e.observed, o), append(e.closers, end)
		opts = append(opts, sdkmetric.WithReader(r))
	}
	e.provider = sdkmetric.NewMeterProvider(opts...)
	e.meter = e.provider.Meter(scope, metric.WithInstrumentationVersion(s.o.Version))
	return e, nil
}

func sdkResource(r *telemetry.Resource) *resource.Resource {
	return resource.NewWithAttributes(r.SchemaURL, r.Attributes...)
}

// announce opens the sources, the first time.
func (e *entity) announce(r *telemetry.Resource) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r != nil {
		e.resource = sdkResource(r)
	}
	if e.announced {
		return
	}
	e.announced = true
	for _, o := range e.observed {
		for _, src := range e.s.o.Sources {
			if reading, since := src.Open(e.key); reading != nil {
				o.add(reading, since)
			}
		}
	}
}

// end stops the sources; measurements are still taken for a while.
func (e *entity) end(now time.Time) {
	e.mu.Lock()
	if e.ended.IsZero() {
		e.ended = now
	}
	e.mu.Unlock()
	for _, o := range e.observed {
		o.stop()
	}
}

// over says that the entity is to be forgotten after one more export.
func (e *entity) over(now time.Time) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if !e.ended.IsZero() {
		return now.Sub(e.ended) > lateGrace
	}
	return !e.announced && now.Sub(e.lastUsed) > unannounced
}

// close gives the series back. Late records may be on their way: add holds e.mu.
func (e *entity) close() {
	e.s.scores.Remove(e.key)
	e.mu.Lock()
	e.closed = true
	for _, inst := range e.instruments {
		e.service.give(len(inst.seen))
	}
	clear(e.instruments)
	e.mu.Unlock()
	for _, f := range e.closers {
		f()
	}
	if e.provider != nil {
		// Its only error is that a reader was shut down before.
		_ = e.provider.Shutdown(context.Background())
	}
}

func (e *entity) record(ctx context.Context, ms []telemetry.Measurement) {
	for i := range ms {
		if !e.add(ctx, &ms[i]) {
			e.s.refused.Add(uint64(len(ms) - i))
			return
		}
	}
	e.mu.RLock()
	announced := e.announced
	e.mu.RUnlock()
	if !announced {
		e.mu.Lock()
		e.lastUsed = time.Now()
		e.mu.Unlock()
	}
}

// add says false when the entity is closed.
func (e *entity) add(ctx context.Context, m *telemetry.Measurement) bool {
	e.mu.RLock()
	inst := e.instruments[m.Instrument]
	if inst == nil {
		e.mu.RUnlock()
		inst = e.instrument(m.Instrument)
		e.mu.RLock()
	}
	defer e.mu.RUnlock()
	if e.closed {
		return false
	}
	attrs := m.Attributes
	if !inst.admit(attrs.Equivalent()) {
		e.s.overflow.count(m.Instrument)
		attrs = overflowSet
	}
	inst.record(ctx, m.Value, metric.WithAttributeSet(attrs))
	return true
}

// instrument makes the SDK's instrument at its first use; nil when the entity is closed.
func (e *entity) instrument(i *telemetry.Instrument) *instrument {
	e.mu.Lock()
	defer e.mu.Unlock()
	if inst := e.instruments[i]; inst != nil || e.closed {
		return inst
	}
	rec, err := newRecorder(e.meter, i)
	if err != nil {
		e.s.o.Log.Warn("instrument refused", "instrument", i.Name, "error", err)
		rec = func(context.Context, float64, metric.MeasurementOption) {}
	}
	inst := &instrument{record: rec, limit: e.s.o.Limit - 1, service: e.service, seen: map[attribute.Distinct]struct{}{}}
	e.instruments[i] = inst
	return inst
}

func newRecorder(m metric.Meter, i *telemetry.Instrument) (recorder, error) {
	unit, desc := metric.WithUnit(i.Unit), metric.WithDescription(i.Description)
	switch i.Kind {
	case telemetry.Counter:
		c, err := m.Float64Counter(i.Name, unit, desc)
		return func(ctx context.Context, v float64, a metric.MeasurementOption) { c.Add(ctx, v, a) }, err
	case telemetry.UpDownCounter:
		c, err := m.Float64UpDownCounter(i.Name, unit, desc)
		return func(ctx context.Context, v float64, a metric.MeasurementOption) { c.Add(ctx, v, a) }, err
	case telemetry.Gauge:
		g, err := m.Float64Gauge(i.Name, unit, desc)
		return func(ctx context.Context, v float64, a metric.MeasurementOption) { g.Record(ctx, v, a) }, err
	case telemetry.Histogram:
		h, err := m.Float64Histogram(i.Name, unit, desc, metric.WithExplicitBucketBoundaries(i.Bounds...))
		return func(ctx context.Context, v float64, a metric.MeasurementOption) { h.Record(ctx, v, a) }, err
	default:
		return nil, fmt.Errorf("unknown kind %d", i.Kind)
	}
}

// collect reads everything for one push destination into rm.
func (e *entity) collect(ctx context.Context, i int, rm *metricdata.ResourceMetrics) error {
	if err := e.push[i].Collect(ctx, rm); err != nil {
		return err
	}
	e.mu.RLock()
	rm.Resource = e.resource // it may be known better by now
	e.mu.RUnlock()
	return nil
}
