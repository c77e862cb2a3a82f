package metrics

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// observed turns the readings of one entity's sources into data points for one
// destination, and adds those of what was measured. It implements metric.Producer.
type observed struct {
	e           *entity
	n           int // of the destination
	temporality sdkmetric.TemporalitySelector
	aggregation sdkmetric.AggregationSelector

	mu       sync.Mutex
	readings []openReading
	// histograms that others keep, and what they were at the collection before.
	histograms []openDistributions
	before     map[*telemetry.Instrument]telemetry.Distribution
	families   map[*telemetry.Instrument]*family
	order      []*family
	last       time.Time // of the collection before
	now        time.Time // of this one
}

type openReading struct {
	read  Reading
	since time.Time
}

// family is one instrument in one collection.
type family struct {
	inst        *telemetry.Instrument
	temporality metricdata.Temporality
	points      []metricdata.DataPoint[float64]
	seen        map[attribute.Distinct]int // index into points
	// prev are the totals of the collection before, for delta temporality.
	prev, total map[attribute.Distinct]float64
}

func newObserved(e *entity, n int, t sdkmetric.TemporalitySelector, a sdkmetric.AggregationSelector) *observed {
	return &observed{e: e, n: n, temporality: t, aggregation: a, families: map[*telemetry.Instrument]*family{}, last: time.Now()}
}

func (o *observed) add(r Reading, since time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.readings = append(o.readings, openReading{r, since})
}

func (o *observed) addDistributions(r DistributionReading, since time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.histograms = append(o.histograms, openDistributions{r, since})
}

func (o *observed) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.readings, o.families, o.order = nil, map[*telemetry.Instrument]*family{}, nil
	o.histograms, o.before = nil, nil
}

// Produce implements metric.Producer.
func (o *observed) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	sm := metricdata.ScopeMetrics{
		Scope:   instrumentation.Scope{Name: scope, Version: o.e.s.o.Version},
		Metrics: append(o.e.measured(o.n), o.read()...),
	}
	if len(sm.Metrics) == 0 {
		return nil, nil
	}
	return []metricdata.ScopeMetrics{sm}, nil
}

// read asks the sources.
func (o *observed) read() []metricdata.Metrics {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.readings) == 0 {
		return nil
	}
	o.now = time.Now()
	for _, f := range o.order {
		f.points = f.points[:0]
		clear(f.seen)
		f.prev, f.total = f.total, f.prev
		clear(f.total)
	}
	for _, r := range o.readings {
		r.read(func(i *telemetry.Instrument, v float64, a attribute.Set) { o.observe(i, v, a, r.since) })
	}
	out := append(o.metrics(), o.distributions()...)
	o.last = o.now
	return out
}

func (o *observed) observe(i *telemetry.Instrument, v float64, attrs attribute.Set, since time.Time) {
	f := o.families[i]
	if f == nil {
		if i.Kind == telemetry.Histogram {
			return // has no value at one moment
		}
		f = &family{inst: i, temporality: o.temporality(observableKind(i.Kind)), seen: map[attribute.Distinct]int{}}
		if f.temporality == metricdata.DeltaTemporality && i.Kind != telemetry.Gauge {
			f.prev, f.total = map[attribute.Distinct]float64{}, map[attribute.Distinct]float64{}
		}
		o.families[i] = f
		o.order = append(o.order, f)
	}
	id := attrs.Equivalent()
	if _, ok := f.seen[id]; !ok && len(f.points) >= o.e.s.o.Limit-1 {
		o.e.s.overflow.count(i)
		attrs = overflowSet
		id = attrs.Equivalent()
	}
	if n, ok := f.seen[id]; ok {
		if i.Kind == telemetry.Gauge {
			f.points[n].Value = v
		} else {
			f.points[n].Value += v
		}
		return
	}
	f.seen[id] = len(f.points)
	f.points = append(f.points, metricdata.DataPoint[float64]{Attributes: attrs, StartTime: since, Time: o.now, Value: v})
}

func observableKind(k telemetry.InstrumentKind) sdkmetric.InstrumentKind {
	switch k {
	case telemetry.Counter:
		return sdkmetric.InstrumentKindObservableCounter
	case telemetry.UpDownCounter:
		return sdkmetric.InstrumentKindObservableUpDownCounter
	default:
		return sdkmetric.InstrumentKindObservableGauge
	}
}

// deltas replaces totals by what was added since the collection before. A series
// that counted before the agent came begins at its first sight; one that began later
// begins at zero.
func (o *observed) deltas(f *family) {
	for n := range f.points {
		p := &f.points[n]
		id := p.Attributes.Equivalent()
		total := p.Value
		f.total[id] = total
		base, known := f.prev[id]
		switch {
		case !known && p.StartTime.Before(o.e.s.began):
			base = total
		case known && total < base && f.inst.Kind == telemetry.Counter:
			base = 0 // it began anew
		}
		p.Value = total - base
		if known || p.StartTime.Before(o.e.s.began) {
			p.StartTime = o.last
		}
	}
}

// metrics gives the points away; the slices are made anew because the SDK's
// exporters may still hold those of a concurrent scrape.
func (o *observed) metrics() (out []metricdata.Metrics) {
	for _, f := range o.order {
		if len(f.points) == 0 {
			continue
		}
		m := metricdata.Metrics{Name: f.inst.Name, Unit: f.inst.Unit, Description: f.inst.Description}
		if f.total != nil {
			o.deltas(f)
		}
		points := append([]metricdata.DataPoint[float64](nil), f.points...)
		if f.inst.Kind == telemetry.Gauge {
			for n := range points {
				points[n].StartTime = time.Time{}
			}
			m.Data = metricdata.Gauge[float64]{DataPoints: points}
		} else {
			m.Data = metricdata.Sum[float64]{
				DataPoints: points, Temporality: f.temporality, IsMonotonic: f.inst.Kind == telemetry.Counter,
			}
		}
		out = append(out, m)
	}
	return out
}
