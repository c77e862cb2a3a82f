package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// demo starts the demo's broker and backend, and says how to run its bot.
func demo(t *testing.T, options ...string) (broker, backend *harness.Target, bot func(n int)) {
	t.Helper()
	program := func(name string) string { return harness.Build{Dir: "testdata/demo", Pkg: name}.Path(t) }
	ca := filepath.Join(t.TempDir(), "ca.pem")
	broker = harness.StartTarget(t, program("broker"), "-ca", ca)
	backend = harness.StartTarget(t, program("backend"), append([]string{"-broker", "https://" + broker.HTTP, "-ca", ca}, options...)...)
	return broker, backend, func(n int) {
		t.Helper()
		out, err := exec.Command(program("bot"), "-backend", "http://"+backend.HTTP, "-n", strconv.Itoa(n), "-pause", "0s").CombinedOutput()
		if err != nil {
			t.Fatalf("bot: %v\n%s", err, out)
		}
	}
}

// tradeVolume is what the broker takes of sixteen signals, of 1 to 16 shares: those but the
// 4th and 12th, which cannot be parsed, and but the orders that are the 7th and 14th.
const tradeVolume = 16*17/2 - 4 - 12 - 8 - 16

// TestBusinessMetrics: the demo's rules count every signal and order, although one
// trace of a hundred is kept, from records that are only counted.
func TestBusinessMetrics(t *testing.T) {
	needs(t)
	broker, backend, bot := demo(t)
	a := harness.StartAgentEnv(t, []string{
		"OTEL_TRACES_EXPORTER=json", "OTEL_METRICS_EXPORTER=prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT=0",
		"OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.01",
	}, "--pid", strconv.Itoa(broker.PID), "--pid", strconv.Itoa(backend.PID),
		"--config", filepath.Join(harness.Root(t), "testdata/demo/tracer-agent.yaml"))
	a.WaitInstrumented(broker.PID)
	a.WaitInstrumented(backend.PID)
	url := regexp.MustCompile(`url=(\S+)`).FindStringSubmatch(a.WaitLog("metrics for Prometheus"))[1]
	// Of 16 signals two cannot be parsed; of 14 orders the broker refuses two.
	bot(16)
	want := map[string]int{
		`trade_volume_total side="buy"`: tradeVolume, `trade_volume_total symbol="ACME"`: tradeVolume,
		"signal_parse_success_total": 14, `trade_execution_failures_total error_type="503"`: 2,
		`trade_execution_latency_seconds_count outcome="executed"`: 12, `trade_execution_latency_seconds_count outcome="failed"`: 2,
		`trade_execution_latency_seconds_count service_name="backend"`: 14,
	}
	awaitCounts(t, url, want)
	// Scores are of the time since the scrape before.
	bot(1)
	for deadline := time.Now().Add(20 * time.Second); len(scrape(t, url, "http_server_request_apdex")) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no Apdex score")
		}
	}
}
