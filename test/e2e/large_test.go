package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// Large programs that nobody here wrote. Prometheus is built from the module
// proxy when TRACER_LARGE is set (minutes); the OpenTelemetry Collector is used
// wherever testdata/collector/build.sh has built it.
const prometheusVersion = "v0.316.0"

// TestLargeCollector: the Collector receives OTLP over HTTP; the agent sees that.
func TestLargeCollector(t *testing.T) {
	needs(t)
	variants(t, collectorBin(t), func(t *testing.T, bin string) {
		addr, other := freeAddr(t), freeAddr(t)
		conf := filepath.Join(t.TempDir(), "config.yaml")
		text := fmt.Sprintf(`
receivers:
  otlp: {protocols: {http: {endpoint: %q}, grpc: {endpoint: %q}}}
exporters: {debug: {}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], exporters: [debug]}}
`, addr, other)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		pid := startLarge(t, bin, addr, "--config", conf)
		listReason(t, pid, "an OpenTelemetry Collector")
		agent := harness.StartAgent(t, "--pid", strconv.Itoa(pid))
		agent.WaitInstrumented(pid)
		const n = 200
		for range n {
			resp, err := http.Post("http://"+addr+"/v1/traces", "application/json", strings.NewReader(`{"resourceSpans":[]}`))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("collector: %s", resp.Status)
			}
		}
		agent.WaitSpans(0, n, harness.Kind("server"))
		if took := agent.Stop(); took > 2*time.Second {
			t.Errorf("the agent took %v to end", took)
		}
		spans := harness.Of(agent.Since(0), harness.Kind("server"))
		if len(spans) != n {
			t.Errorf("%d server spans, want %d", len(spans), n)
		}
		for _, s := range spans {
			if s.Attr("url.path") != "/v1/traces" || s.Attr("http.request.method") != "POST" || s.Attr("http.response.status_code") != "200" {
				t.Errorf("span: %s", s)
			}
		}
	})
}

// TestLargePrometheus: it serves its API and scrapes itself every second, so both
// ends of each scrape are seen.
func TestLargePrometheus(t *testing.T) {
	needs(t)
	if os.Getenv("TRACER_LARGE") == "" {
		t.Skip("building Prometheus takes minutes: make test-large")
	}
	variants(t, buildPrometheus(t), func(t *testing.T, bin string) {
		addr, dir := freeAddr(t), t.TempDir()
		conf := filepath.Join(dir, "prometheus.yml")
		text := fmt.Sprintf("scrape_configs:\n- job_name: self\n  scrape_interval: 1s\n  static_configs: [{targets: [%q]}]\n", addr)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		pid := startLarge(t, bin, addr, "--config.file="+conf, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
		agent := harness.StartAgent(t, "--pid", strconv.Itoa(pid))
		agent.WaitInstrumented(pid)
		for range 50 {
			harness.Get(t, "http://"+addr+"/api/v1/query?query=up")
		}
		calls := agent.WaitSpans(0, 3, harness.Kind("client"))
		for _, s := range calls {
			if s.Attr("url.full") != "http://"+addr+"/metrics" || s.Attr("http.response.status_code") != "200" {
				t.Errorf("client span: %s", s)
			}
		}
		queries := agent.WaitSpans(0, 50, func(s harness.Span) bool {
			return s.Kind == "server" && s.Attr("url.path") == "/api/v1/query"
		})
		if len(queries) != 50 {
			t.Errorf("%d spans of queries, want 50", len(queries))
		}
		scraped := agent.WaitSpans(0, 1, func(s harness.Span) bool {
			return s.Kind == "server" && s.Attr("url.path") == "/metrics"
		})
		// Prometheus wraps its connections in a type of its own, so the two ends of a
		// scrape are not joined; what must not be is a wrong parent.
		byID := map[string]harness.Span{}
		for _, s := range calls {
			byID[s.SpanID] = s
		}
		for _, s := range scraped {
			if p, ok := byID[s.ParentSpanID]; ok && (s.Start.Before(p.Start) || s.TraceID != p.TraceID) {
				t.Errorf("%s\nis no child of\n%s", s, p)
			}
		}
	})
}

// collectorBin is the OpenTelemetry Collector that testdata/collector/build.sh has built.
func collectorBin(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(harness.CacheDir(t), "collector", "otelcol-test")
	if _, err := os.Stat(bin); err != nil {
		if os.Getenv("TRACER_REQUIRE_COLLECTOR") == "1" {
			t.Fatalf("no collector: %v; run testdata/collector/build.sh", err)
		}
		t.Skipf("no collector: %v; testdata/collector/build.sh builds it in some minutes", err)
	}
	return bin
}

// variants runs the test on the executable as it is and without symbols.
func variants(t *testing.T, bin string, f func(t *testing.T, bin string)) {
	t.Run("plain", func(t *testing.T) { f(t, copyExe(t, bin, "large")) })
	t.Run("stripped", func(t *testing.T) {
		stripped := copyExe(t, bin, "large-stripped")
		if out, err := exec.Command("strip", "--strip-all", stripped).CombinedOutput(); err != nil {
			t.Fatalf("strip: %v: %s", err, out)
		}
		f(t, stripped)
	})
}

// startLarge starts the program and waits until it listens; it returns its pid.
func startLarge(t *testing.T, bin, addr string, args ...string) int {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", bin, log.String())
		}
	})
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return cmd.Process.Pid
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen on %s", bin, addr)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// buildPrometheus builds it in a module of its own in the cache, once.
func buildPrometheus(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(harness.CacheDir(t), "prometheus-"+prometheusVersion)
	bin := filepath.Join(dir, "prometheus")
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mod := "module large\n\ngo 1.26.0\n\nrequire github.com/prometheus/prometheus " + prometheusVersion + "\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-mod=mod", "-o", bin, "github.com/prometheus/prometheus/cmd/prometheus")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build Prometheus: %v\n%s", err, out)
	}
	return bin
}
