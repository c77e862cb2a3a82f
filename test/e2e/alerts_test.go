package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestAlertsFire injects faults into the demo and has a real Prometheus fire the alerts
// of deploy/, whose times are shortened: minutes are seconds.
func TestAlertsFire(t *testing.T) {
	if os.Getenv("TRACER_TEST_ALERTS") == "" {
		t.Skip("takes a minute; set TRACER_TEST_ALERTS=1")
	}
	needs(t)
	mongo := startMongoProxy(t, startMongo(t), nil)
	broker, backend, bot := demo(t, "-mongo", "mongodb://"+mongo.addr)
	a := harness.StartAgentEnv(t, []string{
		"OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT=0",
	}, "--pid", strconv.Itoa(broker.PID), "--pid", strconv.Itoa(backend.PID),
		"--config", filepath.Join(harness.Root(t), "testdata/demo/tracer-agent.yaml"))
	a.WaitInstrumented(backend.PID)
	url := regexp.MustCompile(`url=http://([^/]+)`).FindStringSubmatch(a.WaitLog("metrics for Prometheus"))[1]
	base := prometheus(t, url)
	fault := func(query string) {
		cmd := exec.Command("curl", "-sfk", "-X", "POST", "https://"+broker.HTTP+"/fault?"+query)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("inject a fault: %v\n%s", err, out)
		}
	}
	// await does what makes an alert fire until it does.
	await := func(alert string, cause func()) {
		t.Helper()
		for deadline := time.Now().Add(60 * time.Second); !slices.Contains(firing(base), alert); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s does not fire; firing: %v", alert, firing(base))
			}
			cause()
		}
		t.Logf("%s fires", alert)
	}
	signals := func(n int) func() { return func() { bot(n) } }
	bot(3)
	await("WebSocketDisconnects", func() { watchersVanish(t, backend) })
	mongo.slow.Store(int64(1200 * time.Millisecond))
	await("SlowMongoDB", signals(1))
	mongo.slow.Store(0)
	fault("status=503")
	await("HighErrorRatio", signals(3))
	await("TradeFailures", signals(3))
	fault("status=0&delay=2100ms")
	await("SlowResponses", signals(1))
	a.Kill()
	await("TargetDown", func() {})
}

// watchersVanish lets watchers of the demo's orders connect, and kills them.
func watchersVanish(t *testing.T, backend *harness.Target) {
	t.Helper()
	path := harness.Build{Dir: "testdata/demo", Pkg: "watcher"}.Path(t)
	for range 15 {
		cmd := exec.Command(path, "-backend", "http://"+backend.HTTP)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("a watcher says %q: %v", line, err)
		}
	}
}

// prometheus runs a server with the rules of deploy/ on a target.
func prometheus(t *testing.T, target string) string {
	t.Helper()
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed; scripts/bootstrap.sh dev does that")
	}
	dir := t.TempDir()
	for _, name := range []string{"recording.rules.yaml", "alerts.rules.yaml"} {
		data, err := os.ReadFile(filepath.Join(harness.Root(t), "deploy/prometheus", name))
		if err != nil {
			t.Fatal(err)
		}
		text := regexp.MustCompile(`\[(\d+)m\]`).ReplaceAllString(string(data), "[${1}s]")
		text = regexp.MustCompile(`for: \d+m`).ReplaceAllString(text, "for: 2s")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf(`global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: ["*.rules.yaml"]
scrape_configs: [{job_name: tracer-agent, static_configs: [{targets: [%q]}]}]
`, target)
	if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	startLarge(t, bin, addr, "--config.file="+filepath.Join(dir, "p.yaml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	return "http://" + addr
}

// firing lists the alerts that a server has firing; none while it cannot be asked.
func firing(base string) (names []string) {
	resp, err := http.Get(base + "/api/v1/alerts")
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var body struct {
		Data struct {
			Alerts []struct {
				Labels map[string]string
				State  string
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		return nil
	}
	for _, a := range body.Data.Alerts {
		if a.State == "firing" {
			names = append(names, a.Labels["alertname"])
		}
	}
	return names
}
