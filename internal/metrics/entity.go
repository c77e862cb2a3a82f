package metrics

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
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
	provider *sdkmetric.MeterProvider // of those who pull; nil without any
	observed []*observed              // by push, then by pull
	closers  []func()

	mu          sync.RWMutex
	resource    *resource.Resource
	instruments map[*telemetry.Instrument]*instrument
	same        map[identity]*instrument
	order       []*instrument
	service     *budget
	announced   bool
	lastUsed    time.Time
	ended       time.Time // zero while it runs
	closed      bool      // nothing is taken any more
}

func newEntity(s *Store, key telemetry.ProcessKey, r *telemetry.Resource) (*entity, error) {
	e := &entity{
		s: s, key: key, resource: sdkResource(r), lastUsed: time.Now(), service: s.budgetOf(r),
		instruments: map[*telemetry.Instrument]*instrument{}, same: map[identity]*instrument{},
	}
	for _, x := range s.o.Push {
		e.observed = append(e.observed, newObserved(e, len(e.observed), x.Temporality, x.Aggregation))
	}
	if len(s.o.Pull) == 0 {
		return e, nil
	}
	opts := []sdkmetric.Option{sdkmetric.WithResource(e.resource)}
	for _, x := range s.o.Pull {
		o := newObserved(e, len(e.observed), sdkmetric.CumulativeTemporalitySelector, x.Aggregation)
		r, end, err := x.Open(o)
		if err != nil {
			e.close()
			return nil, fmt.Errorf("open %s: %w", x.Name(), err)
		}
		e.observed, e.closers = append(e.observed, o), append(e.closers, end)
		opts = append(opts, sdkmetric.WithReader(r))
	}
	// It has no instruments; a reader reads from a provider only.
	e.provider = sdkmetric.NewMeterProvider(opts...)
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
			d, ok := src.(Distributions)
			if !ok {
				continue
			}
			if reading, since := d.OpenDistributions(e.key); reading != nil {
				o.addDistributions(reading, since)
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
	for _, inst := range e.order {
		e.service.give(len(inst.series))
	}
	clear(e.instruments)
	clear(e.same)
	e.order = nil
	e.mu.Unlock()
	for _, f := range e.closers {
		f()
	}
	if e.provider != nil {
		// Its only error is that a reader was shut down before.
		_ = e.provider.Shutdown(context.Background())
	}
}

// record adds the measurements up; scored says that they may have scores. The moment is
// zero for what is no exemplar.
func (e *entity) record(m moment, ms []telemetry.Measurement, scored bool) {
	e.mu.RLock()
	for i := range ms {
		inst := e.instruments[ms[i].Instrument]
		if inst == nil {
			e.mu.RUnlock()
			inst = e.instrument(ms[i].Instrument)
			e.mu.RLock()
		}
		if e.closed {
			e.mu.RUnlock()
			e.s.refused.Add(uint64(len(ms) - i))
			return
		}
		e.add(inst, m, &ms[i], scored)
	}
	announced := e.announced
	e.mu.RUnlock()
	if !announced {
		e.mu.Lock()
		e.lastUsed = time.Now()
		e.mu.Unlock()
	}
}

// add is called with e.mu held for reading.
func (e *entity) add(inst *instrument, at moment, m *telemetry.Measurement, scored bool) {
	inst.mu.Lock()
	s, over := inst.find(m)
	for _, c := range s.cells {
		c.add(m.Value, at)
	}
	var sc *score
	if scored && inst.Scored != "" && !over {
		if s.score == nil {
			s.score = e.s.scores.of(e.key, m)
		}
		sc = s.score
	}
	inst.mu.Unlock()
	if over {
		e.s.overflow.count(m.Instrument)
		if scored && inst.Scored != "" {
			sc = e.s.scores.of(e.key, m)
		}
	}
	if sc != nil {
		e.s.scores.add(sc, m.Value)
	}
}

// instrument makes an instrument at its first use, or finds one that is the same metric;
// nil when the entity is closed.
func (e *entity) instrument(i *telemetry.Instrument) *instrument {
	e.mu.Lock()
	defer e.mu.Unlock()
	if inst := e.instruments[i]; inst != nil || e.closed {
		return inst
	}
	id := identityOf(i)
	inst := e.same[id]
	if inst == nil {
		inst = &instrument{
			Instrument: i, limit: e.s.o.Limit - 1, service: e.service, series: map[attribute.Distinct]*series{},
			forms: make([]form, len(e.observed)),
		}
		for n, o := range e.observed {
			inst.forms[n] = formOf(i, o.temporality, o.aggregation, time.Now())
		}
		e.same[id] = inst
		e.order = append(e.order, inst)
	}
	e.instruments[i] = inst
	return inst
}

// measured is what was added up for destination n.
func (e *entity) measured(n int) []metricdata.Metrics {
	e.mu.RLock()
	order := e.order
	e.mu.RUnlock()
	now := time.Now()
	var out []metricdata.Metrics
	for _, inst := range order {
		if m, ok := inst.collect(n, now); ok {
			out = append(out, m)
		}
	}
	return out
}

// collect reads everything for one push destination into rm.
func (e *entity) collect(ctx context.Context, i int, rm *metricdata.ResourceMetrics) (err error) {
	rm.ScopeMetrics, err = e.observed[i].Produce(ctx)
	e.mu.RLock()
	rm.Resource = e.resource // it may be known better by now
	e.mu.RUnlock()
	return err
}
