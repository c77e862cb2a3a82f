package metrics

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// raw is a destination that keeps the data points as they came.
type raw struct {
	kept
	got []metricdata.Metrics
}

func (r *raw) ExportMetrics(_ context.Context, rm *metricdata.ResourceMetrics) error {
	for _, sm := range rm.ScopeMetrics {
		r.got = append(r.got, sm.Metrics...)
	}
	return nil
}

// TestAsTheSDK measures the same random values with the OpenTelemetry SDK and compares
// what comes out, over several collections.
func TestAsTheSDK(t *testing.T) {
	instruments := []*telemetry.Instrument{requests, inFlight, level, duration,
		{Name: "test.size", Unit: "By", Kind: telemetry.Histogram}}
	for _, tt := range []struct {
		name        string
		temporality sdkmetric.TemporalitySelector
		exponential bool
	}{
		{"cumulative", sdkmetric.CumulativeTemporalitySelector, false},
		{"delta", sdkmetric.DeltaTemporalitySelector, false},
		{"low memory", sdkmetric.LowMemoryTemporalitySelector, false},
		{"cumulative exponential", sdkmetric.CumulativeTemporalitySelector, true},
		{"delta exponential", sdkmetric.DeltaTemporalitySelector, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dst := &raw{kept: kept{temporality: tt.temporality, exponential: tt.exponential}}
			s := New(Options{Push: []exporter.Metrics{dst}, Interval: time.Hour, Limit: 6})
			defer s.Shutdown(context.Background())
			reader := sdkmetric.NewManualReader(sdkmetric.WithTemporalitySelector(dst.Temporality), sdkmetric.WithAggregationSelector(dst.Aggregation))
			sdk := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithCardinalityLimit(6)).Meter("test")
			record := map[*telemetry.Instrument]func(float64, attribute.Set){}
			for _, i := range instruments {
				record[i] = sdkRecorder(t, sdk, i)
			}
			rng := rand.New(rand.NewPCG(7, 8))
			for range 4 {
				for range rng.IntN(3000) {
					i := instruments[rng.IntN(len(instruments))]
					// Delta temporality of the SDK forgets its series: here the limit is not met.
					a := set("route", fmt.Sprint(rng.IntN(5)))
					v := value(rng)
					record[i](v, a)
					s.Measure(key(1), service("s"), telemetry.Measurement{Instrument: i, Value: v, Attributes: a})
				}
				var rm metricdata.ResourceMetrics
				if err := reader.Collect(t.Context(), &rm); err != nil {
					t.Fatal(err)
				}
				dst.got = nil
				export(t, s, time.Now())
				if diff := cmp.Diff(sorted(rm.ScopeMetrics[0].Metrics), sorted(dst.got), cmpopts.IgnoreTypes(time.Time{}),
					cmp.Transformer("attributes", func(s attribute.Set) string { return s.Encoded(attribute.DefaultEncoder()) }),
					cmp.AllowUnexported(metricdata.Extrema[float64]{}), cmpopts.EquateNaNs(), cmpopts.EquateEmpty(), cmpopts.EquateApprox(1e-12, 0)); diff != "" {
					t.Fatalf("-SDK +ours:\n%s", diff)
				}
			}
		})
	}
}

// value is of any magnitude and sign, often the same or a power of two.
func value(rng *rand.Rand) float64 {
	switch rng.IntN(12) {
	case 0:
		return 0
	case 1:
		return math.Ldexp(1, rng.IntN(40)-20)
	case 2:
		return -rng.Float64()
	case 3:
		return rng.NormFloat64() * math.Pow(10, float64(rng.IntN(12)-6))
	default:
		return rng.ExpFloat64() / 10
	}
}

func sdkRecorder(t *testing.T, m metric.Meter, i *telemetry.Instrument) (record func(float64, attribute.Set)) {
	t.Helper()
	ctx, unit := t.Context(), metric.WithUnit(i.Unit)
	var err error
	switch i.Kind {
	case telemetry.Counter:
		c, cerr := m.Float64Counter(i.Name, unit)
		record, err = func(v float64, a attribute.Set) { c.Add(ctx, v, metric.WithAttributeSet(a)) }, cerr
	case telemetry.UpDownCounter:
		c, cerr := m.Float64UpDownCounter(i.Name, unit)
		record, err = func(v float64, a attribute.Set) { c.Add(ctx, v, metric.WithAttributeSet(a)) }, cerr
	case telemetry.Gauge:
		g, gerr := m.Float64Gauge(i.Name, unit)
		record, err = func(v float64, a attribute.Set) { g.Record(ctx, v, metric.WithAttributeSet(a)) }, gerr
	default:
		h, herr := m.Float64Histogram(i.Name, unit, metric.WithExplicitBucketBoundaries(i.Bounds...))
		record, err = func(v float64, a attribute.Set) { h.Record(ctx, v, metric.WithAttributeSet(a)) }, herr
	}
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// sorted brings metrics and points in an order.
func sorted(ms []metricdata.Metrics) []metricdata.Metrics {
	ms = slices.Clone(ms)
	slices.SortFunc(ms, func(a, b metricdata.Metrics) int { return strings.Compare(a.Name, b.Name) })
	by := func(a, b attribute.Set) int {
		return strings.Compare(a.Encoded(attribute.DefaultEncoder()), b.Encoded(attribute.DefaultEncoder()))
	}
	for _, m := range ms {
		switch d := m.Data.(type) {
		case metricdata.Sum[float64]:
			slices.SortFunc(d.DataPoints, func(a, b metricdata.DataPoint[float64]) int { return by(a.Attributes, b.Attributes) })
		case metricdata.Gauge[float64]:
			slices.SortFunc(d.DataPoints, func(a, b metricdata.DataPoint[float64]) int { return by(a.Attributes, b.Attributes) })
		case metricdata.Histogram[float64]:
			slices.SortFunc(d.DataPoints, func(a, b metricdata.HistogramDataPoint[float64]) int { return by(a.Attributes, b.Attributes) })
		case metricdata.ExponentialHistogram[float64]:
			slices.SortFunc(d.DataPoints, func(a, b metricdata.ExponentialHistogramDataPoint[float64]) int {
				return by(a.Attributes, b.Attributes)
			})
		}
	}
	return ms
}

// TestReservoir: every value has the same chance, and those of before stay until replaced.
func TestReservoir(t *testing.T) {
	var r reservoir
	hits := map[float64]int{}
	const rounds, values, size = 4000, 10, 2
	for range rounds {
		r.reset()
		for v := range values {
			r.offer(size, float64(v), moment{atNs: 1})
		}
		for _, e := range r.collect() {
			hits[e.Value]++
		}
	}
	for v := range values {
		if got, want := hits[float64(v)], rounds*size/values; got < want*8/10 || got > want*12/10 {
			t.Errorf("value %d was kept %d times, want about %d", v, got, want)
		}
	}
	if len(r.collect()) != size {
		t.Error("exemplars are gone after a collection")
	}
	r.reset()
	if got := r.collect(); len(got) != 0 {
		t.Errorf("after a reset there is %v", got)
	}
}
