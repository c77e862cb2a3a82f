package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// panel is what of a Grafana panel must be right.
type panel struct {
	ID      int
	Type    string
	Title   string
	GridPos struct{ H, W, X, Y int }
	Targets []struct{ RefID, Expr string }
}

func dashboard(t *testing.T) (panels []panel) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(harness.Root(t), "deploy/grafana/tracer-agent.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		UID, Title    string
		SchemaVersion int
		Templating    struct{ List []struct{ Name string } }
		Panels        []panel
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 36 {
		t.Errorf("dashboard %q %q of schema %d", d.UID, d.Title, d.SchemaVersion)
	}
	// Grafana's own begin with two underscores.
	known := []string{"__rate_interval", "__all"}
	for _, v := range d.Templating.List {
		known = append(known, v.Name)
	}
	for _, m := range regexp.MustCompile(`\$\{?([a-z_]+)`).FindAllStringSubmatch(string(data), -1) {
		if !slices.Contains(known, m[1]) {
			t.Errorf("variable $%s is not defined", m[1])
		}
	}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.H < 1 {
			t.Errorf("panel %d %q at %+v", p.ID, p.Title, p.GridPos)
		}
		ids[p.ID] = true
	}
	return d.Panels
}

// notHere are metrics that the demo on this machine need not have, and who has them.
var notHere = map[string]string{
	"rpc_server_call_duration_seconds_count":           "TestRPCMetrics",
	"rpc_client_call_duration_seconds_count":           "TestRPCMetrics",
	"http_server_active_requests":                      "TestActiveRequests: only of a process that was seen with one",
	"container_cpu_periods_total":                      "TestCgroupV1, TestCgroupV2: in containers with a limit",
	"container_cpu_throttled_periods_total":            "TestCgroupV1, TestCgroupV2",
	"container_memory_limit_bytes":                     "TestCgroupV1, TestCgroupV2",
	"container_memory_working_set_bytes":               "TestCgroupV1, TestCgroupV2",
	"container_memory_oom_kills_total":                 "TestCgroupV1, TestCgroupV2",
	"system_pressure_stall_time_seconds_total":         "TestHostAgreesWithFiles: where the kernel has PSI",
	"tracer_agent_metric_overflow_values_total":        "TestManyRoutes",
	"db_client_connection_wait_duration_seconds_total": "TestPools: not of every pool",
	"db_client_connection_waits_total":                 "TestPools",
}

var (
	grouping      = regexp.MustCompile(`by \([^)]*\)`)
	metricInQuery = regexp.MustCompile(`\b([a-z]+(?:_[a-z0-9]+)+)[{\[)]`)
)

// TestDashboard: every query of the dashboard is one that a real Prometheus takes, of metrics
// that a real agent exports, and gives something.
func TestDashboard(t *testing.T) {
	panels := dashboard(t)
	needs(t)
	broker, backend, bot := demo(t, "-mongo", "mongodb://"+startMongo(t), "-redis", harness.StartRedis(t).Addr)
	a := harness.StartAgentEnv(t, []string{
		"OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT=0",
	}, "--pid", strconv.Itoa(broker.PID), "--pid", strconv.Itoa(backend.PID), "--max-overhead", "50",
		"--config", filepath.Join(harness.Root(t), "testdata/demo/tracer-agent.yaml"))
	a.WaitInstrumented(broker.PID)
	a.WaitInstrumented(backend.PID)
	target := prometheusURL(t, a)
	base := prometheus(t, strings.TrimSuffix(strings.TrimPrefix(target, "http://"), "/metrics"))
	bot(16)
	watchersVanish(t, backend)

	type query struct{ title, expr string }
	var open []query
	wanted := map[string]string{} // titles by metric
	for _, p := range panels {
		for _, q := range p.Targets {
			elsewhere := strings.HasSuffix(q.Expr, "> 0") || strings.Contains(q.Expr, `db_client_operation_duration_seconds_count{service_name=~"$service",error_type!=""}`)
			for _, m := range metricInQuery.FindAllStringSubmatch(grouping.ReplaceAllString(q.Expr, ""), -1) {
				if _, absent := notHere[m[1]]; absent {
					elsewhere = true
				} else {
					wanted[m[1]] = p.Title
				}
			}
			expr := strings.NewReplacer("$service", ".+", "$__rate_interval", "20s").Replace(q.Expr)
			if elsewhere {
				if _, err := evaluate(base, expr); err != "" {
					t.Errorf("%s: %s: %s", p.Title, expr, err)
				}
				continue
			}
			open = append(open, query{p.Title, expr})
		}
	}
	if len(wanted) < 40 {
		t.Errorf("only %d metrics are found in the queries", len(wanted))
	}
	for deadline := time.Now().Add(30 * time.Second); len(open)+len(wanted) > 0; time.Sleep(200 * time.Millisecond) {
		page := harness.Get(t, target)
		maps.DeleteFunc(wanted, func(name, _ string) bool { return strings.Contains(page, "\n"+name+"{") })
		open = slices.DeleteFunc(open, func(q query) bool {
			n, err := evaluate(base, q.expr)
			if err != "" {
				t.Errorf("%s: %s: %s", q.title, q.expr, err)
			}
			return n > 0 || err != ""
		})
		if time.Now().After(deadline) {
			for _, q := range open {
				t.Errorf("%s: nothing comes of %s", q.title, q.expr)
			}
			for name, title := range wanted {
				t.Errorf("%s: the agent does not export %s", title, name)
			}
			break
		}
		bot(2)
	}
}

// evaluate asks a server for a query's samples: how many there are.
func evaluate(base, expr string) (n int, failed string) {
	resp, err := http.PostForm(base+"/api/v1/query", url.Values{"query": {expr}})
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct{ Result []json.RawMessage }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return 0, err.Error()
	}
	return len(answer.Data.Result), answer.Error
}

// TestManyRoutes: a client that asks for 10,000 paths, of which each seems to be a route of
// its own, makes a bounded number of series; the others add up to what was asked. When the
// program ends so do its series.
func TestManyRoutes(t *testing.T) {
	needs(t)
	const routes, limit = 10_000, 300
	tg := harness.StartTarget(t, harness.Build{Dir: "testdata/targets/fleet"}.Path(t), "-routes", strconv.Itoa(routes))
	other := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte("metrics: {series_limit: "+strconv.Itoa(limit)+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := harness.StartAgentEnv(t, []string{
		"OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT=0",
		"OTEL_METRIC_EXPORT_INTERVAL=500", // as often it is looked for processes that have ended
	}, "--pid", strconv.Itoa(tg.PID), "--pid", strconv.Itoa(other.PID), "--config", file, "--max-overhead", "0")
	a.WaitInstrumented(tg.PID)
	a.WaitInstrumented(other.PID)
	target := prometheusURL(t, a)
	before := rss(t, a.PID())
	w := dialWire(t, tg.HTTP)
	for n := range routes {
		w.get("/r" + strconv.Itoa(n) + "/1")
	}
	// No router knows these: they have no route, and are one series.
	for n := range 200 {
		w.get("/unknown/" + strconv.Itoa(n))
	}
	harness.Get(t, other.URL("/plain"))
	const count = "http_server_request_duration_seconds_count"
	instance := `service_name="fleet"`
	var lines []string
	for deadline := time.Now().Add(20 * time.Second); sum(lines, instance) < routes+200; time.Sleep(50 * time.Millisecond) {
		if lines = scrape(t, target, count); time.Now().After(deadline) {
			t.Fatalf("%d requests counted, want %d", sum(lines, instance), routes+200)
		}
	}
	series := 0
	for _, line := range lines {
		if strings.Contains(line, instance) {
			series++
		}
	}
	over := sum(lines, instance, `otel_metric_overflow="true"`)
	if series > limit || series < limit-1 || sum(lines, instance) != routes+200 || over < routes-limit {
		t.Errorf("%d series of %d requests, %d of them in the overflow; want at most %d series of %d", series, sum(lines, instance), over, limit, routes+200)
	}
	// Three histograms have each request: duration and two sizes.
	if n := sum(scrape(t, target, "tracer_agent_metric_overflow_values_total")); n < over {
		t.Errorf("%d values are counted as overflow, want %d and more", n, over)
	}
	if n := sum(lines, `service_name="httpmatrix"`, `http_route="/plain"`); n != 1 {
		t.Errorf("%d requests of another program, want 1: %v", n, lines)
	}
	if grown := rss(t, a.PID()) - before; grown > 48<<20 {
		t.Errorf("the agent's memory grew by %d MiB", grown>>20)
	}
	// Ten seconds later nothing is left of it.
	tg.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		page := harness.Get(t, target)
		if !strings.Contains(page, instance) && strings.Contains(page, `service_name="httpmatrix"`) {
			break
		}
		if time.Now().After(deadline) {
			at := strings.Index(page, instance)
			t.Fatalf("a process that has ended still has series, or another has none: %.300s", page[max(0, at-150):])
		}
	}
}
