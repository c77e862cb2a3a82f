package e2e

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// counted starts httpmatrix and an agent that keeps one trace of a hundred and serves
// metrics to Prometheus, whose URL is returned.
func counted(t *testing.T, sampler string) (*harness.Target, *harness.Agent, string) {
	t.Helper()
	needs(t)
	tg := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	a, url := countingAgent(t, tg, sampler)
	return tg, a, url
}

// countingAgent starts such an agent on a target.
func countingAgent(t *testing.T, tg *harness.Target, sampler string) (*harness.Agent, string) {
	t.Helper()
	a := harness.StartAgentEnv(t, []string{
		"OTEL_TRACES_EXPORTER=json", "OTEL_METRICS_EXPORTER=prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT=0",
		"OTEL_TRACES_SAMPLER=" + sampler, "OTEL_TRACES_SAMPLER_ARG=0.01",
	}, "--pid", strconv.Itoa(tg.PID))
	a.WaitInstrumented(tg.PID)
	return a, prometheusURL(t, a)
}

// prometheusURL is where an agent's metrics are.
func prometheusURL(t *testing.T, a *harness.Agent) string {
	t.Helper()
	m := regexp.MustCompile(`url=(\S+)`).FindStringSubmatch(a.WaitLog("metrics for Prometheus"))
	if m == nil {
		t.Fatal("no URL in the log")
	}
	return m[1]
}

// scrape returns the lines of a metric.
func scrape(t *testing.T, url, name string) (lines []string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, name+"{") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// sum adds up the values of the lines that hold all the texts.
func sum(lines []string, texts ...string) (total int) {
	for _, line := range lines {
		ok := true
		for _, text := range texts {
			ok = ok && strings.Contains(line, text)
		}
		if n, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64); ok && err == nil {
			total += int(n)
		}
	}
	return total
}

// TestCountsAreExact: every request is in the metrics, one in a hundred is a span.
// TRACER_TEST_REQUESTS sets how many; 1000000 is what is promised.
func TestCountsAreExact(t *testing.T) {
	tg, a, url := counted(t, "traceidratio")
	const workers = 8
	n := 4000
	if v, err := strconv.Atoi(os.Getenv("TRACER_TEST_REQUESTS")); err == nil {
		n = v / workers * workers
	}
	paths := []string{"/plain", "/status?is=503", "/items/7", "/echo"}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range n / workers {
				resp, err := harness.Client.Get(tg.URL(paths[i%len(paths)]))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	const count = "http_server_request_duration_seconds_count"
	var lines []string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if lines = scrape(t, url, count); sum(lines) >= n || time.Now().After(deadline) {
			break
		}
	}
	for text, want := range map[string]int{
		"service_name=": n, `http_route="/plain"`: n / 4, `http_response_status_code="503"`: n / 4, `error_type="503"`: n / 4,
	} {
		if got := sum(lines, text); got != want {
			t.Errorf("%d requests counted with %s, want %d", got, text, want)
		}
	}
	spans := len(a.Since(0))
	// six standard deviations of what chance gives
	if off := int(6 * math.Sqrt(float64(n)/100)); spans < n/100-off || spans > n/100+off {
		t.Errorf("%d spans of %d requests at 1 %%", spans, n)
	}
	t.Logf("%d requests, %d spans", n, spans)
	if t.Failed() {
		t.Log(strings.Join(lines, "\n"))
	}
}

// TestClientMetrics: calls that nobody samples are counted with where they went and
// how they ended.
func TestClientMetrics(t *testing.T) {
	tg, a, url := counted(t, "always_off")
	tg.Call(t, tg.URL("/plain"), "n", "7")
	tg.Call(t, tg.URL("/status?is=404"), "method", "POST")
	tg.Call(t, "http://127.0.0.1:1/refused")
	const count = "http_client_request_duration_seconds_count"
	var lines []string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if lines = scrape(t, url, count); sum(lines) >= 9 || time.Now().After(deadline) {
			break
		}
	}
	port := tg.HTTP[strings.LastIndexByte(tg.HTTP, ':')+1:]
	for text, want := range map[string]int{
		fmt.Sprintf(`server_address="127.0.0.1",server_port="%s"`, port): 8,
		`http_response_status_code="404"`:                                1,
		`http_request_method="POST"`:                                     1,
		`error_type="connection_refused"`:                                1,
		`http_response_status_code="200"`:                                7,
	} {
		if got := sum(lines, text); got != want {
			t.Errorf("%d calls counted with %s, want %d", got, text, want)
		}
	}
	if spans := a.Since(0); len(spans) > 0 {
		t.Errorf("%d spans, none is sampled", len(spans))
	}
	for _, name := range []string{"process_cpu_time_seconds_total", "go_goroutines", "go_memory_allocated_bytes_total", "go_schedule_duration_seconds_count"} {
		if lines := scrape(t, url, name); len(lines) == 0 {
			t.Errorf("no %s of the process", name)
		}
	}
	promtool(t, url)
	if t.Failed() {
		t.Log(strings.Join(lines, "\n"))
	}
}

// promtool checks everything that an agent shows.
func promtool(t *testing.T, url string) {
	t.Helper()
	bin, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("promtool is not installed; scripts/bootstrap.sh dev does that")
		return
	}
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cmd := exec.Command(bin, "check", "metrics")
	cmd.Stdin = resp.Body
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// TestDatabaseMetrics: calls of a database are counted, sampled or not.
func TestDatabaseMetrics(t *testing.T) {
	needs(t)
	srv := harness.StartRedis(t)
	tg := harness.StartTarget(t, redisTarget.Path(t), "-redis", srv.Addr, "-db", "3")
	a, url := countingAgent(t, tg, "always_off")
	harness.Get(t, tg.URL("/v9/set"))
	for range 5 {
		harness.Get(t, tg.URL("/v9/get"))
	}
	harness.Get(t, tg.URL("/v9/wrongtype"))
	const count = "db_client_operation_duration_seconds_count"
	var lines []string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if lines = scrape(t, url, count); sum(lines, `"LPUSH"`) >= 1 || time.Now().After(deadline) {
			break
		}
	}
	for text, want := range map[string]int{
		`db_operation_name="GET"`: 5, `error_type="WRONGTYPE"`: 1, `server_port="` + srv.Port() + `"`: sum(lines),
	} {
		if got := sum(lines, text, `db_system_name="redis"`); got != want {
			t.Errorf("%d calls counted with %s, want %d\n%s", got, text, want, strings.Join(lines, "\n"))
		}
	}
	if spans := a.Since(0); len(spans) > 0 {
		t.Errorf("%d spans, none is sampled", len(spans))
	}
}

// awaitCounts scrapes until every count, "metric label", is what it should be.
func awaitCounts(t *testing.T, url string, want map[string]int) {
	t.Helper()
	got := map[string]int{}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		same := true
		for what, n := range want {
			name, label, _ := strings.Cut(what, " ")
			got[what] = sum(scrape(t, url, name), label)
			same = same && got[what] == n
		}
		if same {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

// TestRPCMetrics: RPCs that nobody samples are counted on both sides.
func TestRPCMetrics(t *testing.T) {
	needs(t)
	tg := harness.StartTarget(t, harness.Build{Dir: grpcTarget}.Path(t))
	a, url := countingAgent(t, tg, "always_off")
	rpc(t, tg, tg.GRPC, "Place", "n", "20")
	rpc(t, tg, tg.GRPC, "Watch", "n", "5")
	awaitCounts(t, url, map[string]int{
		"rpc_server_call_duration_seconds_count Place": 20, "rpc_client_call_duration_seconds_count Place": 20,
		"rpc_server_call_duration_seconds_count Watch": 5, "rpc_client_call_duration_seconds_count Watch": 5,
		`rpc_server_call_duration_seconds_count rpc_response_status_code="OK"`: 25,
	})
	if spans := a.Since(0); len(spans) > 0 {
		t.Errorf("%d spans, none is sampled", len(spans))
	}
}

// TestFasthttpMetrics: so are fasthttp's requests, with fiber's routes.
func TestFasthttpMetrics(t *testing.T) {
	needs(t)
	tg := harness.StartTarget(t, harness.Build{Dir: fasthttpDir}.Path(t))
	a, url := countingAgent(t, tg, "always_off")
	for range 10 {
		harness.Get(t, "http://"+tg.Servers["fiber"]+"/orders/7")
	}
	const count = "http_server_request_duration_seconds_count "
	awaitCounts(t, url, map[string]int{count + `http_route="/orders/:id"`: 10, count + `http_response_status_code="200"`: 10})
	if spans := a.Since(0); len(spans) > 0 {
		t.Errorf("%d spans, none is sampled", len(spans))
	}
}

// TestActiveRequests: requests that are being served are counted until they end.
func TestActiveRequests(t *testing.T) {
	tg, _, url := counted(t, "always_off")
	active := map[string]int{"http_server_active_requests service_name=": 0}
	release := make(chan struct{})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			r, w := io.Pipe()
			go func() { <-release; w.Close() }()
			resp, err := harness.Client.Post(tg.URL("/echo"), "text/plain", r)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		})
	}
	active["http_server_active_requests service_name="] = 5
	awaitCounts(t, url, active)
	close(release)
	wg.Wait()
	active["http_server_active_requests service_name="] = 0
	awaitCounts(t, url, active)
}
