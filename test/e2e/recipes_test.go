package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// recipeHost stands for the hosts of docs/running.md, so that their ports can stay.
const recipeHost = "127.77.1.5"

var (
	recipeSetting = regexp.MustCompile("`(OTEL_[A-Z_]+)=([^`]*)`")
	recipeURL     = regexp.MustCompile(`^(https?)://[^:/]+(:\d+)?(/.*)?$`)
)

// recipe returns the settings of a destination in docs/running.md.
func recipe(t *testing.T, destination string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(t), "docs/running.md"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| "+destination+" |") {
			out := map[string]string{}
			for _, m := range recipeSetting.FindAllStringSubmatch(line, -1) {
				out[m[1]] = m[2]
			}
			return out
		}
	}
	t.Fatalf("docs/running.md has no row for %s", destination)
	return nil
}

// vendor is what a destination asks for.
type vendor struct {
	name string
	// receiver is the Collector's OTLP receiver; ADDR and TLS are filled in.
	receiver string
	auth     string // settings of bearertokenauth
	metrics  bool   // it takes any
	delta    bool
}

const (
	plainGRPC = `{grpc: {endpoint: "ADDR"}}`
	zippedTLS = `{http: {endpoint: "ADDR", tls: TLS, auth: {authenticator: bearertokenauth}, compression_algorithms: [gzip]%s}}`
)

// TestRecipes: the settings for each destination in docs/running.md, but for the host, on a
// real Collector that refuses what that destination would refuse.
func TestRecipes(t *testing.T) {
	needs(t)
	for _, v := range []vendor{
		{name: "OpenTelemetry Collector", receiver: plainGRPC, metrics: true},
		{name: "Jaeger", receiver: plainGRPC},
		{name: "New Relic", receiver: fmt.Sprintf(zippedTLS, ""), auth: `{header: api-key, scheme: "", token: LICENSE}`, metrics: true, delta: true},
		{name: "Grafana Cloud", receiver: fmt.Sprintf(zippedTLS, `, traces_url_path: /otlp/v1/traces, metrics_url_path: /otlp/v1/metrics`),
			auth: `{scheme: Basic, token: BASE64}`, metrics: true},
		{name: "Datadog", receiver: plainGRPC, metrics: true, delta: true},
	} {
		t.Run(v.name, func(t *testing.T) { tryRecipe(t, v) })
	}
}

func tryRecipe(t *testing.T, v vendor) {
	t.Helper()
	settings := recipe(t, v.name)
	m := recipeURL.FindStringSubmatch(settings["OTEL_EXPORTER_OTLP_ENDPOINT"])
	if m == nil {
		t.Fatalf("endpoint %q", settings["OTEL_EXPORTER_OTLP_ENDPOINT"])
	}
	settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = m[1] + "://" + recipeHost + m[2] + m[3]
	port := strings.TrimPrefix(m[2], ":")
	if port == "" {
		port = "443"
	}
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	cert, ca := harness.Certificate(t, net.ParseIP(recipeHost))
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort(recipeHost, port)
	receiver := strings.NewReplacer("ADDR", addr, "TLS", fmt.Sprintf("{cert_file: %s, key_file: %s}", ca, path("key.pem"))).Replace(v.receiver)
	config := fmt.Sprintf("receivers: {otlp: {protocols: %s}}\n", receiver) +
		fmt.Sprintf("exporters:\n  file/traces: {path: %s, flush_interval: 50ms}\n  file/metrics: {path: %s, flush_interval: 50ms}\n", path("traces"), path("metrics"))
	service := "service:\n  telemetry: {metrics: {level: none}}\n"
	if v.auth != "" {
		config += "extensions: {bearertokenauth: " + v.auth + "}\n"
		service += "  extensions: [bearertokenauth]\n"
	}
	service += "  pipelines:\n    traces: {receivers: [otlp], exporters: [file/traces]}\n"
	if v.metrics {
		service += "    metrics: {receivers: [otlp], exporters: [file/metrics]}\n"
	}
	startCollector(t, path("config.yaml"), config+service, addr)

	env := []string{"OTEL_EXPORTER_OTLP_CERTIFICATE=" + ca, "OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_METRIC_EXPORT_INTERVAL=500"}
	for k, val := range settings {
		env = append(env, k+"="+val)
	}
	tg := harness.StartTarget(t, harness.Build{Dir: "testdata/targets/trivial"}.Path(t))
	agent := harness.StartAgentEnv(t, env, "--pid", strconv.Itoa(tg.PID))
	agent.WaitInstrumented(tg.PID)
	const requests = 5
	for range requests {
		harness.Get(t, tg.URL("/recipe"))
	}
	content := func(name string) string {
		data, err := os.ReadFile(path(name))
		if err != nil {
			return ""
		}
		return string(data)
	}
	const duration = "http.server.request.duration"
	got := func() (spans, counted received) { return durations(content("traces"), content("metrics"), duration) }
	for end := time.Now().Add(30 * time.Second); ; {
		if spans, counted := got(); spans.count >= requests && (!v.metrics || counted.count >= requests) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not received; the agent says:\n%s", agent.Stderr())
		}
		time.Sleep(20 * time.Millisecond)
	}
	agent.Stop()
	if log := agent.Stderr(); strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") {
		t.Errorf("the agent complains:\n%s", log)
	}
	spans, counted := got()
	if spans.count != requests || v.metrics && (counted.count != requests || math.Abs(counted.sum-spans.sum) > 1e-9) {
		t.Errorf("of %d requests there are spans of %+v and metrics of %+v", requests, spans, counted)
	}
	if v.metrics {
		want := 2 // cumulative
		if v.delta {
			want = 1
		}
		if got := temporalities(content("metrics"), duration); !slices.Equal(got, []int{want}) {
			t.Errorf("temporalities of %s: %v, want %d", duration, got, want)
		}
	}
}

// received is how many requests there were and how many seconds they took.
type received struct {
	count int
	sum   float64
}

// durations are those of server spans, and those of a histogram: all deltas, or the last total.
func durations(traces, metrics, name string) (spans, counted received) {
	for line := range strings.Lines(traces) {
		var batch struct {
			ResourceSpans []struct {
				ScopeSpans []struct {
					Spans []struct{ StartTimeUnixNano, EndTimeUnixNano integer }
				}
			}
		}
		if json.Unmarshal([]byte(line), &batch) != nil {
			continue // being written
		}
		for _, r := range batch.ResourceSpans {
			for _, s := range r.ScopeSpans {
				for _, span := range s.Spans {
					from, _ := span.StartTimeUnixNano.Int64()
					to, _ := span.EndTimeUnixNano.Int64()
					spans.count++
					spans.sum += float64(to-from) / 1e9
				}
			}
		}
	}
	for _, h := range histograms(metrics, name) {
		if h.AggregationTemporality == 2 {
			counted = received{}
		}
		for _, p := range h.DataPoints {
			n, _ := p.Count.Int64()
			counted.count += int(n)
			counted.sum += p.Sum
		}
	}
	return spans, counted
}

// temporalities of a histogram in what the file exporter writes, each once.
func temporalities(lines, name string) (out []int) {
	for _, h := range histograms(lines, name) {
		if at := h.AggregationTemporality; !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	return out
}

// startCollector runs a real Collector until the test ends.
func startCollector(t *testing.T, path, config string, addrs ...string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	runCollector(t, collectorBin(t), nil, addrs, "--config", path)
}

func runCollector(t *testing.T, bin string, env, addrs []string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Env = append(cmd.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("collector's log:\n%s", log.String())
		}
	})
	for _, addr := range addrs {
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-ended:
				t.Fatalf("the collector ended: %s", log.String())
			default:
			}
			if time.Now().After(end) {
				t.Fatalf("the collector does not listen on %s", addr)
			}
		}
	}
}

// histogram is one as the file exporter writes it.
type histogram struct {
	AggregationTemporality int
	DataPoints             []struct {
		Count integer
		Sum   float64
	}
}

// integer is an int64, which is a string in there.
type integer = json.Number

// histograms are those of a name, in the order in which they were written.
func histograms(lines, name string) (out []histogram) {
	for line := range strings.Lines(lines) {
		var batch struct {
			ResourceMetrics []struct {
				ScopeMetrics []struct {
					Metrics []struct {
						Name      string
						Histogram histogram
					}
				}
			}
		}
		if json.Unmarshal([]byte(line), &batch) != nil {
			continue // being written
		}
		for _, r := range batch.ResourceMetrics {
			for _, s := range r.ScopeMetrics {
				for _, m := range s.Metrics {
					if m.Name == name {
						out = append(out, m.Histogram)
					}
				}
			}
		}
	}
	return out
}
