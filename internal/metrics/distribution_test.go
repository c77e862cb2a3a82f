package metrics

import (
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// waits is a source that has a histogram and nothing else.
type waits struct {
	since time.Time
	now   telemetry.Distribution
}

func (w *waits) Open(telemetry.ProcessKey) (Reading, time.Time) { return nil, w.since }

func (w *waits) OpenDistributions(k telemetry.ProcessKey) (DistributionReading, time.Time) {
	if k == Agent {
		return nil, w.since
	}
	return func(o telemetry.ObserveDistribution) { o(duration, w.now) }, w.since
}

func TestDistributions(t *testing.T) {
	deltas := func(sdkmetric.InstrumentKind) metricdata.Temporality { return metricdata.DeltaTemporality }
	for name, tt := range map[string]struct {
		temporality sdkmetric.TemporalitySelector
		since       time.Duration
		want        [4]string
	}{
		"cumulative": {sdkmetric.CumulativeTemporalitySelector, -time.Hour, [4]string{
			"n=6 sum=3 [1 2 3]", "n=8 sum=5 [1 3 4]", "n=8 sum=5 [1 3 4]", "n=1 sum=1 [0 1 0]"}},
		"delta, from before the agent": {deltas, -time.Hour, [4]string{
			"n=0 sum=0 [0 0 0]", "n=2 sum=2 [0 1 1]", "n=0 sum=0 [0 0 0]", "n=1 sum=1 [0 1 0]"}},
		"delta, from later": {deltas, time.Hour, [4]string{
			"n=6 sum=3 [1 2 3]", "n=2 sum=2 [0 1 1]", "n=0 sum=0 [0 0 0]", "n=1 sum=1 [0 1 0]"}},
	} {
		t.Run(name, func(t *testing.T) {
			k := &kept{temporality: tt.temporality, exponential: true}
			w := &waits{since: time.Now().Add(tt.since)}
			s := store(t, Options{Push: []exporter.Metrics{k}, Sources: []Source{w}})
			s.Add(key(1), service("a"))
			for n, d := range []telemetry.Distribution{
				{Counts: []uint64{1, 2, 3}, Sum: 3}, {Counts: []uint64{1, 3, 4}, Sum: 5},
				{Counts: []uint64{1, 3, 4}, Sum: 5}, {Counts: []uint64{0, 1, 0}, Sum: 1}, // the last began anew
			} {
				d.Bounds = []float64{0.1, 1}
				w.now = d
				export(t, s, time.Now())
				want(t, k, "a test.duration{} "+tt.want[n])
			}
			w.now.Counts = w.now.Counts[:1] // not one more than there are bounds
			export(t, s, time.Now())
			want(t, k)
		})
	}
}
