package metrics

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

var (
	requests = &telemetry.Instrument{Name: "test.requests", Unit: "{request}", Kind: telemetry.Counter}
	duration = &telemetry.Instrument{Name: "test.duration", Unit: "s", Kind: telemetry.Histogram, Bounds: []float64{0.1, 1}}
	inFlight = &telemetry.Instrument{Name: "test.in_flight", Kind: telemetry.UpDownCounter}
	level    = &telemetry.Instrument{Name: "test.level", Kind: telemetry.Gauge}
)

// kept is a destination that keeps what it was sent, one line a data point.
type kept struct {
	temporality sdkmetric.TemporalitySelector
	exponential bool
	fail        error

	mu        sync.Mutex
	lines     []string
	exemplars []metricdata.Exemplar[float64]
	resources map[string]bool
}

func (k *kept) Name() string                   { return "kept" }
func (k *kept) Shutdown(context.Context) error { return nil }
func (k *kept) Temporality(i sdkmetric.InstrumentKind) metricdata.Temporality {
	return k.temporality(i)
}
func (k *kept) Aggregation(i sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	if k.exponential && i == sdkmetric.InstrumentKindHistogram {
		return sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20}
	}
	return sdkmetric.DefaultAggregationSelector(i)
}

func (k *kept) FlushMetrics(context.Context) error { return nil }

func (k *kept) ExportMetrics(_ context.Context, rm *metricdata.ResourceMetrics) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return k.fail
	}
	service, _ := rm.Resource.Set().Value("service.name")
	if k.resources == nil {
		k.resources = map[string]bool{}
	}
	k.resources[service.AsString()] = true
	line := func(name string, a attribute.Set, format string, args ...any) {
		k.lines = append(k.lines, fmt.Sprintf("%s %s{%s} %s", service.AsString(), name,
			a.Encoded(attribute.DefaultEncoder()), fmt.Sprintf(format, args...)))
	}
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Sum[float64]:
				for _, p := range d.DataPoints {
					line(m.Name, p.Attributes, "%v", p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range d.DataPoints {
					line(m.Name, p.Attributes, "=%v", p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					line(m.Name, p.Attributes, "n=%d sum=%v %v", p.Count, p.Sum, p.BucketCounts)
					k.exemplars = append(k.exemplars, p.Exemplars...)
				}
			case metricdata.ExponentialHistogram[float64]:
				for _, p := range d.DataPoints {
					line(m.Name, p.Attributes, "n=%d sum=%v scale=%d", p.Count, p.Sum, p.Scale)
				}
			}
		}
	}
	return nil
}

// take returns what came since the last time, sorted.
func (k *kept) take() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := k.lines
	k.lines = nil
	slices.Sort(out)
	return out
}

func store(t *testing.T, o Options) *Store {
	t.Helper()
	o.Interval = time.Hour // tests export themselves
	s := New(o)
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil && o.Push[0].(*kept).fail == nil {
			t.Error(err)
		}
	})
	return s
}

func key(pid int32) telemetry.ProcessKey { return telemetry.ProcessKey{PID: pid, StartNs: 1} }

func service(name string) *telemetry.Resource {
	return &telemetry.Resource{Attributes: []attribute.KeyValue{attribute.String("service.name", name)}}
}

func set(kvs ...string) attribute.Set {
	var out []attribute.KeyValue
	for i := 0; i < len(kvs); i += 2 {
		out = append(out, attribute.String(kvs[i], kvs[i+1]))
	}
	return attribute.NewSet(out...)
}

func want(t *testing.T, k *kept, lines ...string) {
	t.Helper()
	slices.Sort(lines)
	if diff := cmp.Diff(lines, k.take()); diff != "" {
		t.Errorf("exported (-want +got):\n%s", diff)
	}
}

func export(t *testing.T, s *Store, now time.Time) {
	t.Helper()
	if err := s.export(context.Background(), now); err != nil {
		t.Fatal(err)
	}
}

func record(s *Store, pid int32, sampled bool, ms ...telemetry.Measurement) {
	op := &telemetry.Operation{Process: key(pid), Resource: service(fmt.Sprint("s", pid)), Measurements: ms, MetricsOnly: !sampled}
	if sampled {
		op.TraceID, op.SpanID, op.Flags = trace.TraceID{1}, trace.SpanID{2}, trace.FlagsSampled
	}
	s.Record(op)
}

func TestMeasurements(t *testing.T) {
	for _, tt := range []struct {
		name          string
		dst           *kept
		first, second []string
	}{
		{
			name: "cumulative", dst: &kept{temporality: sdkmetric.CumulativeTemporalitySelector},
			first: []string{
				"s1 test.requests{route=/a} 1", "s1 test.duration{route=/a} n=2 sum=0.55 [1 1 0]",
				"s1 test.in_flight{} 1", "s1 test.level{} =7", "s2 test.requests{} 1",
			},
			second: []string{
				"s1 test.requests{route=/a} 3", "s1 test.duration{route=/a} n=2 sum=0.55 [1 1 0]",
				"s1 test.in_flight{} 0", "s1 test.level{} =7", "s2 test.requests{} 1",
			},
		},
		{
			name: "delta", dst: &kept{temporality: sdkmetric.DeltaTemporalitySelector},
			first: []string{
				"s1 test.requests{route=/a} 1", "s1 test.duration{route=/a} n=2 sum=0.55 [1 1 0]",
				"s1 test.in_flight{} 1", "s1 test.level{} =7", "s2 test.requests{} 1",
			},
			// The preference is about counters and histograms only.
			second: []string{"s1 test.requests{route=/a} 2", "s1 test.in_flight{} 0", "s1 test.level{} =7"},
		},
		{
			name: "exponential", dst: &kept{temporality: sdkmetric.CumulativeTemporalitySelector, exponential: true},
			first: []string{
				"s1 test.requests{route=/a} 1", "s1 test.duration{route=/a} n=2 sum=0.55 scale=5",
				"s1 test.in_flight{} 1", "s1 test.level{} =7", "s2 test.requests{} 1",
			},
			second: []string{
				"s1 test.requests{route=/a} 3", "s1 test.duration{route=/a} n=2 sum=0.55 scale=5",
				"s1 test.in_flight{} 0", "s1 test.level{} =7", "s2 test.requests{} 1",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := store(t, Options{Push: []exporter.Metrics{tt.dst}})
			a := set("route", "/a")
			record(s, 1, false, telemetry.Measurement{Instrument: requests, Value: 1, Attributes: a},
				telemetry.Measurement{Instrument: duration, Value: 0.05, Attributes: a})
			record(s, 1, true, telemetry.Measurement{Instrument: duration, Value: 0.5, Attributes: a})
			s.Measure(key(1), nil, telemetry.Measurement{Instrument: inFlight, Value: 1}, telemetry.Measurement{Instrument: level, Value: 7})
			record(s, 2, false, telemetry.Measurement{Instrument: requests, Value: 1})
			export(t, s, time.Now())
			want(t, tt.dst, tt.first...)
			if !tt.dst.exponential {
				if len(tt.dst.exemplars) != 1 || tt.dst.exemplars[0].Value != 0.5 || !slices.Equal(tt.dst.exemplars[0].TraceID[:1], []byte{1}) {
					t.Errorf("exemplars %v, want the one of the sampled request", tt.dst.exemplars)
				}
			}
			record(s, 1, false, telemetry.Measurement{Instrument: requests, Value: 2, Attributes: a},
				telemetry.Measurement{Instrument: inFlight, Value: -1})
			export(t, s, time.Now())
			want(t, tt.dst, tt.second...)
		})
	}
}

func TestEndedProcess(t *testing.T) {
	dst := &kept{temporality: sdkmetric.CumulativeTemporalitySelector}
	src := &fakeSource{values: map[int32]float64{1: 5}}
	s := store(t, Options{Push: []exporter.Metrics{dst}, Sources: []Source{src}})
	s.Add(key(1), service("s1"))
	record(s, 1, false, telemetry.Measurement{Instrument: requests, Value: 1})
	now := time.Now()
	export(t, s, now)
	want(t, dst, "s1 test.requests{} 1", "s1 test.level{} =5")
	s.Remove(key(1))
	// What was still in the ring buffer counts, and is sent.
	record(s, 1, false, telemetry.Measurement{Instrument: requests, Value: 1})
	export(t, s, now.Add(time.Second))
	want(t, dst, "s1 test.requests{} 2")
	export(t, s, now.Add(lateGrace+2*time.Second))
	want(t, dst, "s1 test.requests{} 2")
	export(t, s, now.Add(lateGrace+3*time.Second))
	want(t, dst)
	if n := s.Processes(); n != 0 {
		t.Errorf("%d processes are kept", n)
	}
}

// fakeSource shows test.level of processes by pid.
type fakeSource struct {
	values  map[int32]float64
	totals  map[string]float64
	since   time.Time
	asked   int
	counter *telemetry.Instrument
}

func (f *fakeSource) Open(k telemetry.ProcessKey) (Reading, time.Time) {
	return func(observe telemetry.Observe) {
		f.asked++
		if v, ok := f.values[k.PID]; ok {
			observe(level, v, attribute.Set{})
		}
		for name, v := range f.totals {
			observe(f.counter, v, set("disk", name))
		}
	}, f.since
}

func TestObservedTotals(t *testing.T) {
	io := &telemetry.Instrument{Name: "test.io", Unit: "By", Kind: telemetry.Counter}
	for _, tt := range []struct {
		name          string
		temporality   sdkmetric.TemporalitySelector
		before        bool // the counter ran before the agent
		first, second string
	}{
		{"cumulative", sdkmetric.CumulativeTemporalitySelector, true, "100", "130"},
		{"delta of an older process", sdkmetric.DeltaTemporalitySelector, true, "0", "30"},
		{"delta of a younger process", sdkmetric.DeltaTemporalitySelector, false, "100", "30"},
		{"low memory is cumulative for totals", sdkmetric.LowMemoryTemporalitySelector, true, "100", "130"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dst := &kept{temporality: tt.temporality}
			src := &fakeSource{totals: map[string]float64{"a": 100}, counter: io, since: time.Now().Add(time.Hour)}
			if tt.before {
				src.since = time.Now().Add(-time.Hour)
			}
			s := store(t, Options{Push: []exporter.Metrics{dst}, Sources: []Source{src}})
			s.Add(key(1), service("s1"))
			export(t, s, time.Now())
			want(t, dst, "s1 test.io{disk=a} "+tt.first)
			src.totals["a"] = 130
			export(t, s, time.Now())
			want(t, dst, "s1 test.io{disk=a} "+tt.second)
		})
	}
}

func TestOverflow(t *testing.T) {
	reg := selfmetrics.New()
	dst := &kept{temporality: sdkmetric.CumulativeTemporalitySelector}
	src := &fakeSource{counter: requests, totals: map[string]float64{}}
	for n := range 10 {
		src.totals[fmt.Sprint(n)] = 1
	}
	s := store(t, Options{Push: []exporter.Metrics{dst}, Metrics: reg, Limit: 4})
	for n := range 10 {
		for range 2 {
			record(s, 1, false, telemetry.Measurement{Instrument: duration, Value: 0.5, Attributes: set("route", fmt.Sprint(n))})
		}
	}
	export(t, s, time.Now())
	want(t, dst,
		"s1 test.duration{route=0} n=2 sum=1 [0 2 0]", "s1 test.duration{route=1} n=2 sum=1 [0 2 0]", "s1 test.duration{route=2} n=2 sum=1 [0 2 0]",
		"s1 test.duration{otel.metric.overflow=true} n=14 sum=7 [0 14 0]")
	if n := reg.Counter(nameOverflow, selfmetrics.L("metric", "test.duration")).Value(); n != 14 {
		t.Errorf("%d values counted as overflow, want 14", n)
	}
	o := newObserved(s.entities[key(1)], 0, dst.temporality, dst.Aggregation)
	o.add(func(observe telemetry.Observe) {
		for n := range 10 {
			observe(requests, 1, set("n", fmt.Sprint(n)))
		}
	}, time.Now())
	sm, err := o.Produce(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	points := sm[0].Metrics[len(sm[0].Metrics)-1].Data.(metricdata.Sum[float64]).DataPoints
	if len(points) != 4 || points[3].Value != 7 || !points[3].Attributes.HasValue("otel.metric.overflow") {
		t.Errorf("observed points %v, want 3 and an overflow of 7", points)
	}
}

// TestServiceBudget: many processes of one service share a bound.
func TestServiceBudget(t *testing.T) {
	s := store(t, Options{Push: []exporter.Metrics{&kept{temporality: sdkmetric.CumulativeTemporalitySelector}}, Limit: seriesPerService})
	r := service("same")
	for pid := range int32(3) {
		for n := range seriesPerService / 2 {
			s.Measure(key(pid+1), r, telemetry.Measurement{Instrument: requests, Value: 1, Attributes: set("n", fmt.Sprint(n))})
		}
	}
	total := 0
	for _, e := range s.entities {
		total += len(e.instruments[requests].series)
	}
	if total != seriesPerService {
		t.Errorf("%d series of one service, want %d", total, seriesPerService)
	}
	export(t, s, time.Now().Add(time.Hour)) // nobody announced them
	if left := s.services["same"].left.Load(); left != seriesPerService {
		t.Errorf("%d series are free after all processes ended, want %d", left, seriesPerService)
	}
}

func TestFailedExport(t *testing.T) {
	reg := selfmetrics.New()
	dst := &kept{temporality: sdkmetric.CumulativeTemporalitySelector, fail: context.DeadlineExceeded}
	s := store(t, Options{Push: []exporter.Metrics{dst}, Metrics: reg})
	record(s, 1, false, telemetry.Measurement{Instrument: requests, Value: 1})
	record(s, 2, false, telemetry.Measurement{Instrument: requests, Value: 1})
	if err := s.export(context.Background(), time.Now()); err == nil {
		t.Error("no error of a destination that fails")
	}
	if n := reg.Counter(nameFailures, selfmetrics.L("exporter", "kept")).Value(); n != 1 {
		t.Errorf("%d failures counted, want 1", n)
	}
}

// TestConcurrency is for the race detector.
func TestConcurrency(t *testing.T) {
	dst := &kept{temporality: sdkmetric.DeltaTemporalitySelector}
	src := &fakeSource{values: map[int32]float64{}}
	s := store(t, Options{Push: []exporter.Metrics{dst}, Sources: []Source{src}})
	var wg sync.WaitGroup
	for g := range int32(4) {
		wg.Go(func() {
			for n := range int32(300) {
				pid := n%7 + 1
				switch {
				case n%50 == 0:
					s.Add(key(pid), service("x"))
				case n%60 == 0:
					s.Remove(key(pid))
				default:
					record(s, pid, n%2 == 0, telemetry.Measurement{Instrument: requests, Value: 1, Attributes: set("g", fmt.Sprint(g))})
				}
			}
		})
	}
	for range 5 {
		_ = s.export(context.Background(), time.Now().Add(time.Hour))
	}
	wg.Wait()
}

// TestLateRecord: what comes while a process is forgotten is recorded or counted as
// refused, and all of its series are given back.
func TestLateRecord(t *testing.T) {
	s := store(t, Options{Metrics: selfmetrics.New(), Push: []exporter.Metrics{&kept{temporality: sdkmetric.CumulativeTemporalitySelector}}})
	s.Add(key(1), service("s"))
	e := s.entities[key(1)]
	const writers, each = 4, 200
	var busy, wg sync.WaitGroup
	busy.Add(writers)
	for range writers {
		wg.Go(func() {
			for i := range each {
				if i == each/4 {
					busy.Done()
				}
				// An instrument of its own: the map of them grows.
				inst := &telemetry.Instrument{Name: "test.late", Kind: telemetry.Counter}
				e.record(moment{}, []telemetry.Measurement{{Instrument: inst, Value: 1}}, true)
			}
		})
	}
	busy.Wait()
	delete(s.entities, key(1)) // as forget does
	e.close()
	before := s.refused.Value()
	e.record(moment{}, []telemetry.Measurement{{Instrument: requests, Value: 1}, {Instrument: level, Value: 1}}, true)
	wg.Wait()
	if left := e.service.left.Load(); left != seriesPerService {
		t.Errorf("%d of %d series left", left, seriesPerService)
	}
	if got := s.refused.Value(); got < before+2 {
		t.Errorf("%d measurements refused, %d before two more", got, before)
	}
}

func BenchmarkRecord(b *testing.B) {
	dst := &kept{temporality: sdkmetric.CumulativeTemporalitySelector}
	s := New(Options{Push: []exporter.Metrics{dst}, Interval: time.Hour})
	op := &telemetry.Operation{Process: key(1), Resource: service("s"), MetricsOnly: true, Measurements: []telemetry.Measurement{
		{Instrument: duration, Value: 0.5, Attributes: set("http.route", "/orders/{id}", "http.request.method", "GET", "code", "200")},
	}}
	b.ReportAllocs()
	for b.Loop() {
		s.Record(op)
	}
}
