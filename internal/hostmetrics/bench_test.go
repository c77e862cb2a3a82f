package hostmetrics

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/exporter/otlp"
	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// BenchmarkHundredProcesses is one interval's work with 100 idle processes: reading,
// encoding, sending (and the receiver's reading).
func BenchmarkHundredProcesses(b *testing.B) {
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer sink.Close()
	cfg, err := config.Load(config.LoadOptions{Flags: config.Flags{Endpoint: sink.URL}})
	if err != nil {
		b.Fatal(err)
	}
	dst, err := otlp.NewMetrics(context.Background(), cfg.MetricsOTLP, cfg.Metrics)
	if err != nil {
		b.Fatal(err)
	}
	s := metrics.New(metrics.Options{Push: []exporter.Metrics{dst}, Interval: time.Hour, Sources: []metrics.Source{source(b)}})
	for range 100 {
		s.Add(idle(b), &telemetry.Resource{Attributes: []attribute.KeyValue{attribute.String("service.name", "idle")}})
	}
	if err := s.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
	before := cpuTime(b)
	for b.Loop() {
		if err := s.Flush(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N)/1e6, "cpu-ms/op")
	if err := s.Shutdown(context.Background()); err != nil {
		b.Fatal(err)
	}
}
