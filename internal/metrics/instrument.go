package metrics

import (
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// instrument is one metric of one process: its series, and how each destination wants
// them added up.
type instrument struct {
	*telemetry.Instrument
	forms   []form
	limit   int
	service *budget

	mu     sync.Mutex
	series map[attribute.Distinct]*series
	order  []*series
	beyond *series // takes what is over the limit; nil until there is any
}

// series is one set of attributes with its values, one cell a destination.
type series struct {
	attrs attribute.Set
	cells []cell
	score *score // nil where the metric has none
}

// identity is what makes two instruments the same metric, as it does for the SDK.
type identity struct {
	name, unit string
	kind       telemetry.InstrumentKind
}

func identityOf(i *telemetry.Instrument) identity {
	return identity{strings.ToLower(i.Name), i.Unit, i.Kind}
}

// shape is what becomes of the values.
type shape uint8

const (
	dropped shape = iota
	summed
	latest
	bucketed
	exponentials
)

// form is how one destination wants a metric.
type form struct {
	shape       shape
	temporality metricdata.Temporality
	noMinMax    bool
	bounds      []float64 // bucketed
	maxSize     int       // exponentials
	maxScale    int32
	since       time.Time // of cumulative values; of deltas: the collection before
}

// formOf follows a destination's selectors. Only histograms have a choice.
func formOf(i *telemetry.Instrument, t sdkmetric.TemporalitySelector, a sdkmetric.AggregationSelector, now time.Time) form {
	kind := measuredKind(i.Kind)
	f := form{temporality: t(kind), since: now}
	if _, drop := a(kind).(sdkmetric.AggregationDrop); drop {
		return f
	}
	switch i.Kind {
	case telemetry.Histogram:
		f.histogram(i, a(kind))
	case telemetry.Gauge:
		f.shape = latest
	default:
		f.shape = summed
	}
	return f
}

func (f *form) histogram(i *telemetry.Instrument, a sdkmetric.Aggregation) {
	if e, ok := a.(sdkmetric.AggregationBase2ExponentialHistogram); ok {
		f.shape, f.noMinMax, f.maxSize, f.maxScale = exponentials, e.NoMinMax, max(1, int(e.MaxSize)), e.MaxScale
		return
	}
	e, ok := a.(sdkmetric.AggregationExplicitBucketHistogram)
	if !ok {
		e, _ = sdkmetric.DefaultAggregationSelector(sdkmetric.InstrumentKindHistogram).(sdkmetric.AggregationExplicitBucketHistogram)
	}
	f.shape, f.noMinMax, f.bounds = bucketed, e.NoMinMax, slices.Clone(e.Boundaries)
	if len(i.Bounds) > 0 {
		f.bounds = slices.Clone(i.Bounds)
	}
	slices.Sort(f.bounds)
}

func measuredKind(k telemetry.InstrumentKind) sdkmetric.InstrumentKind {
	switch k {
	case telemetry.Counter:
		return sdkmetric.InstrumentKindCounter
	case telemetry.UpDownCounter:
		return sdkmetric.InstrumentKindUpDownCounter
	case telemetry.Gauge:
		return sdkmetric.InstrumentKindGauge
	default:
		return sdkmetric.InstrumentKindHistogram
	}
}

func (f *form) cell() cell {
	switch f.shape {
	case bucketed:
		return newExplicit(f.bounds)
	case exponentials:
		return newExponential(f.maxSize, f.maxScale)
	default:
		return &number{last: f.shape == latest}
	}
}

// find returns the series of m; one that is over a limit has the series of all such.
func (i *instrument) find(m *telemetry.Measurement) (s *series, over bool) {
	id := m.Attributes.Equivalent()
	if s := i.series[id]; s != nil {
		return s, false
	}
	if len(i.series) < i.limit && i.service.take() {
		s := i.make(m.Attributes)
		i.series[id] = s
		return s, false
	}
	if i.beyond == nil {
		i.beyond = i.make(overflowSet)
	}
	return i.beyond, true
}

func (i *instrument) make(attrs attribute.Set) *series {
	s := &series{attrs: attrs, cells: make([]cell, len(i.forms))}
	for n := range i.forms {
		s.cells[n] = i.forms[n].cell()
	}
	i.order = append(i.order, s)
	return s
}

// collect gives the values for destination n; false when there are none. Everything is
// copied: exporters may hold it while more is measured.
func (i *instrument) collect(n int, now time.Time) (metricdata.Metrics, bool) {
	m := metricdata.Metrics{Name: i.Name, Unit: i.Unit, Description: i.Description}
	i.mu.Lock()
	defer i.mu.Unlock()
	f := &i.forms[n]
	some := false
	switch f.shape {
	case summed:
		d := metricdata.Sum[float64]{Temporality: f.temporality, IsMonotonic: i.Kind == telemetry.Counter}
		d.DataPoints = points(i, n, now, f.number)
		m.Data, some = d, len(d.DataPoints) > 0
	case latest:
		d := metricdata.Gauge[float64]{DataPoints: points(i, n, now, f.number)}
		m.Data, some = d, len(d.DataPoints) > 0
	case bucketed:
		d := metricdata.Histogram[float64]{Temporality: f.temporality, DataPoints: points(i, n, now, f.explicit)}
		m.Data, some = d, len(d.DataPoints) > 0
	case exponentials:
		d := metricdata.ExponentialHistogram[float64]{Temporality: f.temporality, DataPoints: points(i, n, now, f.exponential)}
		m.Data, some = d, len(d.DataPoints) > 0
	}
	if f.temporality == metricdata.DeltaTemporality {
		f.since = now
	}
	return m, some
}

// points makes one point of every series that has something to report.
func points[P any](i *instrument, n int, now time.Time, point func(c cell, attrs attribute.Set, now time.Time) P) []P {
	out := make([]P, 0, len(i.order))
	for _, s := range i.order {
		c := s.cells[n]
		if !c.used() {
			continue
		}
		out = append(out, point(c, s.attrs, now))
		if i.forms[n].temporality == metricdata.DeltaTemporality {
			c.reset()
		}
	}
	return out
}

func (f *form) number(c cell, attrs attribute.Set, now time.Time) metricdata.DataPoint[float64] {
	v := c.(*number)
	return metricdata.DataPoint[float64]{Attributes: attrs, StartTime: f.since, Time: now, Value: v.value, Exemplars: v.collect()}
}

func (f *form) explicit(c cell, attrs attribute.Set, now time.Time) metricdata.HistogramDataPoint[float64] {
	return c.(*explicit).point(metricdata.HistogramDataPoint[float64]{Attributes: attrs, StartTime: f.since, Time: now}, f)
}

func (f *form) exponential(c cell, attrs attribute.Set, now time.Time) metricdata.ExponentialHistogramDataPoint[float64] {
	return c.(*exponential).point(metricdata.ExponentialHistogramDataPoint[float64]{Attributes: attrs, StartTime: f.since, Time: now}, f)
}
