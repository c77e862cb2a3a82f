package otlp

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

var (
	testDuration = &telemetry.Instrument{Name: "http.server.request.duration", Unit: "s", Kind: telemetry.Histogram, Bounds: telemetry.DurationBounds}
	testIO       = &telemetry.Instrument{Name: "process.disk.io", Unit: "By", Kind: telemetry.Counter}
)

// totals shows process.disk.io, 100 more each time it is asked.
type totals struct{}

func (totals) Open(telemetry.ProcessKey) (metrics.Reading, time.Time) {
	n := 0.0
	return func(o telemetry.Observe) {
		n += 100
		o(testIO, n, attribute.NewSet(attribute.String("disk.io.direction", "read")))
	}, time.Now()
}

// points reads what the collector wrote, as lines "service metric temporality value".
func (c *collector) points(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, md := range documents[metricspb.MetricsData](t, c.path("metrics.json")) {
		for _, rm := range md.ResourceMetrics {
			out = append(out, resourceLines(rm)...)
		}
	}
	slices.Sort(out)
	return out
}

func resourceLines(rm *metricspb.ResourceMetrics) (out []string) {
	service := ""
	for _, kv := range rm.Resource.Attributes {
		if kv.Key == "service.name" {
			service = kv.Value.GetStringValue()
		}
	}
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			switch {
			case m.GetSum() != nil:
				for _, p := range m.GetSum().DataPoints {
					out = append(out, fmt.Sprintf("%s %s %s %v", service, m.Name, short(m.GetSum().AggregationTemporality), p.GetAsDouble()))
				}
			case m.GetHistogram() != nil:
				for _, p := range m.GetHistogram().DataPoints {
					out = append(out, fmt.Sprintf("%s %s %s n=%d sum=%v exemplars=%s", service, m.Name,
						short(m.GetHistogram().AggregationTemporality), p.Count, p.GetSum(), traceIDs(p.Exemplars)))
				}
			case m.GetExponentialHistogram() != nil:
				for _, p := range m.GetExponentialHistogram().DataPoints {
					out = append(out, fmt.Sprintf("%s %s %s exp n=%d sum=%v exemplars=%s", service, m.Name,
						short(m.GetExponentialHistogram().AggregationTemporality), p.Count, p.GetSum(), traceIDs(p.Exemplars)))
				}
			}
		}
	}
	return out
}

// traceIDs are the first bytes of the exemplars' trace ids.
func traceIDs(exemplars []*metricspb.Exemplar) (out string) {
	for _, e := range exemplars {
		out += fmt.Sprintf("%.1x", e.TraceId)
	}
	return out
}

func short(t metricspb.AggregationTemporality) string {
	if t == metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA {
		return "delta"
	}
	return "cumulative"
}

// TestCollectorMetrics sends two intervals of two processes' metrics with the settings
// that users of several backends have.
func TestCollectorMetrics(t *testing.T) {
	for _, tt := range []struct {
		name, protocol, temporality, histogram string
		first, second                          []string // of the service a; b is the same
	}{
		{"new relic", config.ProtocolHTTP, "delta", config.HistogramExponential,
			[]string{"http.server.request.duration delta exp n=4 sum=1 exemplars=01", "process.disk.io delta 100"},
			[]string{"http.server.request.duration delta exp n=4 sum=1 exemplars=01", "process.disk.io delta 100"}},
		{"datadog", config.ProtocolHTTP, "delta", config.HistogramExplicit,
			[]string{"http.server.request.duration delta n=4 sum=1 exemplars=01", "process.disk.io delta 100"},
			[]string{"http.server.request.duration delta n=4 sum=1 exemplars=01", "process.disk.io delta 100"}},
		{"collector", config.ProtocolGRPC, "cumulative", config.HistogramExplicit,
			[]string{"http.server.request.duration cumulative n=4 sum=1 exemplars=01", "process.disk.io cumulative 100"},
			[]string{"http.server.request.duration cumulative n=8 sum=2 exemplars=01", "process.disk.io cumulative 200"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCollector(t, false)
			c.start(t)
			addr := c.grpc
			if tt.protocol == config.ProtocolHTTP {
				addr = c.http
			}
			env := map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + addr, "OTEL_EXPORTER_OTLP_PROTOCOL": tt.protocol,
				"OTEL_EXPORTER_OTLP_HEADERS": "api-key=s3cret-key%3D%3D", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
				"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE":        tt.temporality,
				"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": tt.histogram,
				"OTEL_METRIC_EXPORT_INTERVAL":                              "3600000",
			}
			var want []string
			add := func(lines []string) {
				for _, service := range []string{"a ", "b "} {
					for _, l := range lines {
						want = append(want, service+l)
					}
				}
				slices.Sort(want)
			}
			s, flush := metricsStore(t, env)
			for i, lines := range [][]string{tt.first, tt.second} {
				for pid, service := range []string{"a", "b"} {
					request(s, int32(pid+1), service)
				}
				if i == 1 {
					flush()
				} else if err := s.Flush(context.Background()); err != nil {
					t.Fatal(err)
				}
				add(lines)
				eventually(t, 20*time.Second, "data points in the collector's file", func() bool { return len(c.points(t)) >= len(want) })
				if diff := cmp.Diff(want, c.points(t)); diff != "" {
					t.Errorf("interval %d: %s", i+1, diff)
				}
			}
			env["OTEL_EXPORTER_OTLP_HEADERS"] = "api-key=wrong"
			s, _ = metricsStore(t, env)
			request(s, 1, "a")
			if err := s.Flush(context.Background()); err == nil {
				t.Error("a wrong key was not refused")
			}
		})
	}
}

// metricsStore opens a store as a user's environment says; the function shuts it down.
func metricsStore(t *testing.T, env map[string]string) (*metrics.Store, func()) {
	t.Helper()
	cfg, err := config.Load(config.LoadOptions{Getenv: func(k string) string { return env[k] }})
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewMetrics(context.Background(), cfg.MetricsOTLP, cfg.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	s := metrics.New(metrics.Options{
		Push: []exporter.Metrics{e}, Interval: cfg.Metrics.Interval, Sources: []metrics.Source{totals{}}, Metrics: selfmetrics.New(),
	})
	return s, func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// request announces a process and records four requests of it, one of them sampled.
func request(s *metrics.Store, pid int32, service string) {
	key := telemetry.ProcessKey{PID: pid, StartNs: 1}
	r := &telemetry.Resource{Attributes: []attribute.KeyValue{attribute.String("service.name", service)}}
	s.Add(key, r)
	for n := range 4 {
		s.Record(&telemetry.Operation{
			Process: key, Resource: r, MetricsOnly: n != 0, TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2},
			Measurements: []telemetry.Measurement{{Instrument: testDuration, Value: 0.25}},
		})
	}
}
