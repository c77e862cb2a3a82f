package e2e

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestMaxOverhead: a load that costs more than the limit trips it, the dearest probe
// goes, the program notices nothing, and when the load has fallen it comes back.
func TestMaxOverhead(t *testing.T) {
	if os.Getenv("TRACER_TEST_OVERHEAD") == "" {
		t.Skip("takes the better part of a minute; set TRACER_TEST_OVERHEAD=1")
	}
	needs(t)
	tg := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	a := harness.StartAgentEnv(t, []string{
		"OTEL_TRACES_EXPORTER=json", "OTEL_METRICS_EXPORTER=prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT=0",
	}, "--max-overhead", "0.05", "--pid", strconv.Itoa(tg.PID))
	a.WaitInstrumented(tg.PID)
	url := regexp.MustCompile(`url=(\S+)`).FindStringSubmatch(a.WaitLog("metrics for Prometheus"))[1]
	load := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-load:
					return
				default:
				}
				resp, err := harness.Client.Get(tg.URL("/plain"))
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("a request failed: %v", err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	stop := sync.OnceFunc(func() { close(load); wg.Wait() })
	defer stop()
	a.WaitLog("probe shed", "probe=nethttp", "limit=0.1%")
	if n := sum(scrape(t, url, "tracer_agent_probe_shed"), `probe="nethttp"`); n != 1 {
		t.Errorf("tracer_agent_probe_shed is %d, want 1", n)
	}
	stop()
	back := false
	for deadline := time.Now().Add(60 * time.Second); !back && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		back = sum(scrape(t, url, "tracer_agent_probe_shed"), `probe="nethttp"`) == 0
	}
	mark := a.Mark()
	for deadline := time.Now().Add(20 * time.Second); len(a.Since(mark)) == 0; time.Sleep(50 * time.Millisecond) {
		if !back || time.Now().After(deadline) {
			t.Fatalf("no span although the load has fallen; back: %v", back)
		}
		harness.Get(t, tg.URL("/plain"))
	}
	if n := sum(scrape(t, url, "tracer_agent_probe_unseen_hits_total"), `probe="nethttp"`); n == 0 {
		t.Error("nothing is counted of what was not seen")
	}
}
