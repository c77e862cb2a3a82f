package prom

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

var (
	duration = &telemetry.Instrument{
		Name: "http.server.request.duration", Unit: "s", Description: "Duration of HTTP server requests.",
		Kind: telemetry.Histogram, Bounds: telemetry.DurationBounds,
	}
	memory = &telemetry.Instrument{Name: "process.memory.usage", Unit: "By", Description: "Memory.", Kind: telemetry.UpDownCounter}
)

// tool finds a program of the Debian package prometheus.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("TRACER_REQUIRE_PROMETHEUS") == "1" {
			t.Fatalf("no %s: %v", name, err)
		}
		t.Skipf("no %s: %v; apt-get install prometheus", name, err)
	}
	return path
}

// serve starts an endpoint with two processes that have metrics, and the agent's own.
func serve(t *testing.T, histogram string) (*metrics.Store, string) {
	t.Helper()
	cfg := config.DefaultMetrics()
	cfg.PrometheusHost, cfg.PrometheusPort, cfg.Histogram = "127.0.0.1", 0, histogram
	e, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	reg := selfmetrics.New()
	reg.RegisterRSS()
	reg.Lost(selfmetrics.RingFull, "nethttp").Add(3)
	reg.Lost(selfmetrics.QueueFull, "nethttp", selfmetrics.L("exporter", "otlp")).Add(4)
	s := metrics.New(metrics.Options{
		Pull: []exporter.MetricsPull{e}, Metrics: reg, Interval: time.Hour,
		Sources: []metrics.Source{metrics.NewSelf(reg), level{}},
	})
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	s.Add(metrics.Agent, resource("tracer-agent", 0))
	for pid := range int32(2) {
		s.Add(key(pid+1), resource("shop", pid+1))
	}
	attrs := attribute.NewSet(attribute.String("http.route", "/orders/{id}"), attribute.String("http.request.method", "GET"))
	for n := range 10 {
		s.Record(&telemetry.Operation{
			Process: key(1), Resource: resource("shop", 1), TraceID: trace.TraceID{0xab}, SpanID: trace.SpanID{1}, MetricsOnly: n != 4,
			Measurements: []telemetry.Measurement{{Instrument: duration, Value: 0.02 * float64(n+1), Attributes: attrs}},
		})
	}
	return s, "http://" + e.Addr().String() + "/metrics"
}

// level shows the memory of processes: 1000 times their pid.
type level struct{}

func (level) Open(k telemetry.ProcessKey) (metrics.Reading, time.Time) {
	if k == metrics.Agent {
		return nil, time.Time{}
	}
	return func(o telemetry.Observe) { o(memory, float64(k.PID)*1000, attribute.Set{}) }, time.Now()
}

func key(pid int32) telemetry.ProcessKey { return telemetry.ProcessKey{PID: pid, StartNs: 7} }

func resource(service string, pid int32) *telemetry.Resource {
	return &telemetry.Resource{Attributes: []attribute.KeyValue{
		attribute.String("service.name", service), attribute.String("service.instance.id", fmt.Sprint("i", pid)),
		attribute.Int("process.pid", int(pid)),
	}}
}

func get(t *testing.T, url, accept string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v\n%s", url, resp.Status, err, body)
	}
	return string(body)
}

func TestEndpoint(t *testing.T) {
	s, url := serve(t, config.HistogramExplicit)
	text := get(t, url, "application/openmetrics-text; version=1.0.0")
	for _, want := range []string{
		`http_server_request_duration_seconds_count{http_request_method="GET",http_route="/orders/{id}",service_instance_id="i1",service_name="shop"} 10`,
		`process_memory_usage_bytes{service_instance_id="i1",service_name="shop"} 1000`,
		`process_memory_usage_bytes{service_instance_id="i2",service_name="shop"} 2000`,
		`target_info{process_pid="2",service_instance_id="i2",service_name="shop"} 1`,
		`tracer_agent_records_lost_total{place="ring_full",probe="nethttp",service_instance_id="i0",service_name="tracer-agent"} 3`,
		`tracer_agent_records_lost_total{exporter="otlp",place="queue_full",probe="nethttp",service_instance_id="i0",service_name="tracer-agent"} 4`,
		`trace_id="ab000000000000000000000000000000"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("not there: %s", want)
		}
	}
	if n := strings.Count(text, "trace_id="); n != 1 {
		t.Errorf("%d exemplars, want that of the sampled request", n)
	}
	// A process that ended has no series that are read, and soon none at all.
	s.Remove(key(2))
	if text := get(t, url, ""); strings.Contains(text, `process_memory_usage_bytes{service_instance_id="i2"`) {
		t.Error("a process that ended still has memory")
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestPlural(t *testing.T) {
	reg := prometheus.NewRegistry()
	for _, name := range []string{"process_thread_count", "taken_count", "takens", "other"} {
		reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: name}))
	}
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "counter_count"}))
	reg.MustRegister(prometheus.NewHistogram(prometheus.HistogramOpts{Name: "seconds"}))
	all, err := plural(reg).Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range all {
		got = append(got, f.GetName())
	}
	if want := []string{"counter_count", "other", "process_threads", "seconds", "taken_count", "takens"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPromtool(t *testing.T) {
	promtool := tool(t, "promtool")
	_, url := serve(t, config.HistogramExplicit)
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(get(t, url, ""))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// TestNativeExemplar: native histograms have them, too, in the form in which alone they are
// scraped. Prometheus keeps those since 2.50.
func TestNativeExemplar(t *testing.T) {
	_, url := serve(t, config.HistogramExponential)
	raw := get(t, url, "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	if n := strings.Count(raw, "ab000000000000000000000000000000"); n != 1 {
		t.Errorf("%d exemplars, want that of the sampled request", n)
	}
}

// TestPrometheus: a real server scrapes, with native histograms and exemplars.
func TestPrometheus(t *testing.T) {
	bin := tool(t, "prometheus")
	const trace = "ab000000000000000000000000000000"
	for _, tt := range []struct{ name, histogram, query, want string }{
		{"exemplar", config.HistogramExplicit, "exemplars of http_server_request_duration_seconds_bucket", trace},
		{"explicit", config.HistogramExplicit, `http_server_request_duration_seconds_count{service_name="shop"}`, "10"},
		{"native", config.HistogramExponential, `histogram_count(http_server_request_duration_seconds{service_name="shop"})`, "10"},
		{"memory", config.HistogramExplicit, `sum(process_memory_usage_bytes)`, "3000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, target := serve(t, tt.histogram)
			base := start(t, bin, target)
			var got string
			for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
				if got = ask(t, base, tt.query); got == tt.want {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s is %q, want %s", tt.query, got, tt.want)
				}
			}
		})
	}
}

// start runs Prometheus on a target and returns its URL.
func start(t *testing.T, bin, target string) string {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	conf := fmt.Sprintf("scrape_configs:\n- job_name: tracer-agent\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\n  static_configs: [{targets: [%q]}]\n", u.Host)
	if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "--config.file="+filepath.Join(dir, "p.yaml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--enable-feature=native-histograms,exemplar-storage")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return "http://" + addr
}

// ask returns the value of the one sample that a query gives, or the trace id of the one
// exemplar; "" without one.
func ask(t *testing.T, base, query string) string {
	t.Helper()
	if name, ok := strings.CutPrefix(query, "exemplars of "); ok {
		return exemplar(base, name)
	}
	resp, err := http.Get(base + "/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		return "" // not up yet
	}
	defer resp.Body.Close()
	var doc struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || len(doc.Data.Result) != 1 {
		return ""
	}
	return fmt.Sprint(doc.Data.Result[0].Value[1])
}

func exemplar(base, name string) string {
	resp, err := http.Get(base + "/api/v1/query_exemplars?start=0&end=9999999999&query=" + name)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var doc struct {
		Data []struct {
			Exemplars []struct{ Labels map[string]string }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || len(doc.Data) != 1 || len(doc.Data[0].Exemplars) != 1 {
		return ""
	}
	return doc.Data[0].Exemplars[0].Labels["trace_id"]
}
