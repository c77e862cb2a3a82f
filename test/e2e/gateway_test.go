package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

var dnsResolver = regexp.MustCompile(`(?m)^      dns: .*$`)

// TestGateway: the Collectors of deploy/collector, a balancer and two gateways, with two
// agents that each see a half of every trace. The halves meet at one gateway, and traces
// with an error are kept whole. TRACER_GATEWAY is the Collector: make test-gateway builds it.
func TestGateway(t *testing.T) {
	needs(t)
	bin := os.Getenv("TRACER_GATEWAY")
	if bin == "" {
		t.Skip("make test-gateway runs it")
	}
	files := filepath.Join(harness.Root(t), "deploy/collector")
	var backends []*harness.Receiver
	var addrs []string
	for range 2 {
		backend, addr := harness.StartReceiver(t, true, false), freeAddr(t)
		runCollector(t, bin, []string{"LISTEN=" + addr, "BACKEND=" + backend.Addr, "BACKEND_INSECURE=true", "DECISION_WAIT=3s"},
			[]string{addr}, "--config", filepath.Join(files, "gateway.yaml"))
		backends, addrs = append(backends, backend), append(addrs, addr)
	}
	text, err := os.ReadFile(filepath.Join(files, "balancer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// There is no cluster's DNS here.
	static := dnsResolver.ReplaceAllString(string(text), fmt.Sprintf("      static: {hostnames: [%q, %q]}", addrs[0], addrs[1]))
	if static == string(text) {
		t.Fatal("balancer.yaml has no resolver to replace")
	}
	balancer, listen := filepath.Join(t.TempDir(), "balancer.yaml"), freeAddr(t)
	if err := os.WriteFile(balancer, []byte(static), 0o600); err != nil {
		t.Fatal(err)
	}
	runCollector(t, bin, []string{"LISTEN=" + listen, "BACKEND=" + freeAddr(t), "BACKEND_INSECURE=true"}, []string{listen}, "--config", balancer)

	var targets []*harness.Target
	var agents []*harness.Agent
	for range 2 {
		tg := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
		a := harness.StartAgentEnv(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + listen, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
			"OTEL_METRICS_EXPORTER=none", "OTEL_BSP_SCHEDULE_DELAY=100"}, "--pid", strconv.Itoa(tg.PID))
		a.WaitInstrumented(tg.PID)
		targets, agents = append(targets, tg), append(agents, a)
	}
	const traces = 200
	id := func(i int) string { return fmt.Sprintf("%016x%016x", uint64(i+1)*0x9e3779b97f4a7c15, uint64(i+1)) }
	failing := func(i int) bool { return i%4 == 0 }
	for i := range traces {
		for half, tg := range targets {
			path := "/plain"
			if failing(i) && half == 1 {
				path = "/status?is=500"
			}
			req, err := http.NewRequest(http.MethodGet, tg.URL(path), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("traceparent", "00-"+id(i)+"-"+spanID+"-01")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
	}
	for _, a := range agents {
		a.Stop()
	}
	// at: how many spans of a trace are at each backend.
	at := func() map[string][2]int {
		out := map[string][2]int{}
		for b, backend := range backends {
			for _, s := range backend.Spans() {
				n := out[s.TraceID]
				n[b]++
				out[s.TraceID] = n
			}
		}
		return out
	}
	whole := func(n [2]int) bool { return n == [2]int{2, 0} || n == [2]int{0, 2} }
	missing := func() (n int) {
		got := at()
		for i := range traces {
			if failing(i) && !whole(got[id(i)]) {
				n++
			}
		}
		return n
	}
	for end := time.Now().Add(60 * time.Second); missing() > 0 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	if n := missing(); n > 0 {
		t.Errorf("%d of %d traces with an error are not there whole", n, traces/4)
	}
	kept, used := 0, [2]int{}
	for trace, n := range at() {
		if !whole(n) {
			t.Errorf("trace %s: %d spans at one gateway, %d at the other", trace, n[0], n[1])
		}
		kept++
		for b := range used {
			used[b] += n[b]
		}
	}
	t.Logf("%d of %d traces kept, %d and %d spans by gateway", kept, traces, used[0], used[1])
	if used[0] == 0 || used[1] == 0 {
		t.Errorf("spans by gateway: %v: nothing is balanced", used)
	}
	// A tenth of the 150 without an error: more than 60 would be a wonder.
	if kept > traces/4+60 {
		t.Errorf("%d of %d traces kept: nothing is sampled", kept, traces)
	}
}
