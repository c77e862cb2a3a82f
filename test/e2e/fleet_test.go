package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// What is promised of a hundred processes with a thousand routes.
const (
	fleetProcesses, fleetRoutes = 100, 1000
	fleetMemory                 = 150 << 20
)

// TestFleetMemory: with metrics of 100 processes that have 1,000 routes the agent's memory
// stays below its bound and does not grow. TRACER_SOAK is how long; 30m is what is promised.
// TRACER_FLEET_ROUTES gives each process that many routes instead of its share.
func TestFleetMemory(t *testing.T) {
	needs(t)
	length, each := time.Second, fleetRoutes/fleetProcesses
	if d, err := time.ParseDuration(os.Getenv("TRACER_SOAK")); err == nil {
		length = d
	}
	if n, err := strconv.Atoi(os.Getenv("TRACER_FLEET_ROUTES")); err == nil {
		each = n
	}
	path := harness.Build{Dir: "testdata/targets/fleet"}.Path(t)
	fleet := make([]*harness.Target, fleetProcesses)
	args := []string{}
	for i := range fleet {
		fleet[i] = harness.StartTargetEnv(t, []string{fmt.Sprintf("OTEL_SERVICE_NAME=fleet-%d", i)}, path,
			"-first", strconv.Itoa(i*each), "-routes", strconv.Itoa(each))
		args = append(args, "--pid", strconv.Itoa(fleet[i].PID))
	}
	a := harness.StartAgentEnv(t, []string{
		"OTEL_TRACES_EXPORTER=json", "OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.01",
		"OTEL_METRICS_EXPORTER=prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT=0",
	}, args...)
	for _, tg := range fleet {
		a.WaitInstrumented(tg.PID)
	}
	url := regexp.MustCompile(`url=(\S+)`).FindStringSubmatch(a.WaitLog("metrics for Prometheus"))[1]
	visit := func(process, route int) {
		t.Helper()
		harness.Get(t, fleet[process].URL(fmt.Sprintf("/r%d/%d", process*each+route, route)))
	}
	for i := range fleet {
		for n := range each {
			visit(i, n)
		}
	}
	awaitCounts(t, url, map[string]int{`http_server_request_duration_seconds_count http_route="/r`: fleetProcesses * each})

	var used []int
	next, scraped := 0, time.Time{}
	for deadline := time.Now().Add(length); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		visit(next%fleetProcesses, next/fleetProcesses%each)
		next++
		if time.Since(scraped) < 10*time.Second {
			continue
		}
		scraped = time.Now()
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		used = append(used, rss(t, a.PID()))
		if used[len(used)-1] > fleetMemory {
			t.Fatalf("the agent has %d MiB after %d requests, want at most %d", used[len(used)-1]>>20, next, fleetMemory>>20)
		}
	}
	quarter := max(len(used)/4, 1)
	early, late := median(used[:quarter]), median(used[len(used)-quarter:])
	t.Logf("%d processes, %d routes, %d requests: %d MiB at first, %d MiB in the end, at most %d MiB",
		fleetProcesses, fleetProcesses*each, next, early>>20, late>>20, slices.Max(used)>>20)
	if late > early+early/10 {
		t.Errorf("the agent's memory grew from %d to %d bytes", early, late)
	}
}

// rss is a process's resident memory in bytes.
func rss(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(text)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func median(v []int) int {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
