package dbpool

import (
	"context"
	"log/slog"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// points keeps the last values of what counts waits, of all pools together.
type points struct {
	temporality metricdata.Temporality
	waits       float64
	seconds     float64
	pools       int
}

var _ exporter.Metrics = (*points)(nil)

func (p *points) Name() string                                                { return "points" }
func (p *points) Shutdown(context.Context) error                              { return nil }
func (p *points) FlushMetrics(context.Context) error                          { return nil }
func (p *points) Temporality(sdkmetric.InstrumentKind) metricdata.Temporality { return p.temporality }
func (p *points) Aggregation(i sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	return sdkmetric.DefaultAggregationSelector(i)
}

func (p *points) ExportMetrics(_ context.Context, rm *metricdata.ResourceMetrics) error {
	p.waits, p.seconds, p.pools = 0, 0, 0
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			sum, ok := m.Data.(metricdata.Sum[float64])
			if !ok {
				continue
			}
			for _, point := range sum.DataPoints {
				switch m.Name {
				case waits.Name:
					p.waits += point.Value
					p.pools++
				case waitTime.Name:
					p.seconds += point.Value
				}
			}
		}
	}
	return nil
}

// TestWaitsTold: what calls tell of waiting since a pool was first seen is there to the last
// wait, whether differences are sent or totals, and stays when the pool is forgotten.
func TestWaitsTold(t *testing.T) {
	r := New(slog.New(slog.DiscardHandler))
	now := time.Now()
	r.now = func() time.Time { return now }
	r.Learn(lib, func(Memory, uint64) (Stats, error) { return Stats{Open: 1, Waits: Told, WaitTime: Unknown}, nil }, "x", nil)
	delta, total := &points{temporality: metricdata.DeltaTemporality}, &points{temporality: metricdata.CumulativeTemporality}
	s := metrics.New(metrics.Options{
		Log: slog.New(slog.DiscardHandler), Metrics: selfmetrics.New(), Push: []exporter.Metrics{delta, total},
		Sources: []metrics.Source{r}, Interval: time.Hour, Timeout: time.Minute, Limit: 100,
	})
	defer func() { _ = s.Shutdown(context.Background()) }()
	key := self(t) // began before the store
	s.Add(key, &telemetry.Resource{})

	const at, other = 4096, 8192
	steps := []struct {
		what         string
		do           func()
		delta, total float64
		pools        int
	}{
		{"seen with a call that had waited", func() {
			r.Add(key, lib, at, Pool{Name: "db"})
			r.Waited(key, lib, at, 1, time.Second)
		}, 0, 0, 1},
		{"a burst", func() { r.Waited(key, lib, at, 5, 5*time.Second) }, 6, 6, 1},
		{"nothing", func() {}, 0, 6, 1},
		{"idle, and forgotten", func() { now = now.Add(idleFor + time.Second) }, 0, 6, 1},
		{"forgotten", func() {}, 0, 6, 1},
		{"another of that name", func() {
			if r.Count(key, lib) != 0 {
				t.Error("not forgotten")
			}
			r.Add(key, lib, other, Pool{Name: "db"})
			r.Waited(key, lib, other, 2, 2*time.Second)
		}, 2, 8, 1},
		{"one that nobody has waited for", func() { r.Add(key, lib, at, Pool{Name: "quiet"}) }, 0, 8, 2},
	}
	for _, step := range steps {
		step.do()
		if err := s.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			got  *points
			want float64
		}{"delta": {delta, step.delta}, "total": {total, step.total}} {
			if c.got.pools != step.pools || c.got.waits != c.want || c.got.seconds != c.want {
				t.Errorf("%s: %s is %v of %v s, want %v: of %d pools", step.what, name, c.got.waits, c.got.seconds, c.want, c.got.pools)
			}
		}
	}
	for n := range uint64(3 * maxPools) {
		r.Add(key, lib, n, Pool{Name: string(rune('a' + n))})
		r.Waited(key, lib, n, 1, 1)
	}
	if n := len(r.waited[key]); n != maxPools {
		t.Errorf("waits of %d pools are kept, the limit is %d", n, maxPools)
	}
	r.Remove(key)
	r.Waited(key, lib, at, 1, 1)
	if len(r.waited) != 0 {
		t.Error("not removed")
	}
}
