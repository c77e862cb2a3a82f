package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestUpheaval: the agent is reconfigured, killed and upgraded under load; the program has
// no error. TRACER_UPHEAVAL=100 makes it so often.
func TestUpheaval(t *testing.T) {
	needs(t)
	wanted := 10
	if v := os.Getenv("TRACER_UPHEAVAL"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		wanted = n
	}
	path := copyExe(t, harness.Build{Dir: httpmatrix}.Path(t), "upheaval")
	tg := harness.StartTarget(t, path)
	stop, loading := make(chan struct{}), sync.WaitGroup{}
	var sent [2]int
	var failed [2][]string
	for i := range sent {
		client := &http.Client{Timeout: standstill, Transport: &http.Transport{DisableKeepAlives: true}}
		loading.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				sent[i]++
				begin := time.Now()
				if _, err := harness.TryGetBy(client, tg.URL("/plain")); err != nil {
					failed[i] = append(failed[i], fmt.Sprintf("%s, after %v: %v", begin.UTC().Format(time.RFC3339Nano), time.Since(begin), err))
				}
			}
		})
	}
	rounds := 0
	t.Cleanup(func() { // also when an agent is too slow for the test
		close(stop)
		loading.Wait()
		t.Logf("%d rounds, %d requests", rounds, sent[0]+sent[1])
		if errs := append(failed[0], failed[1]...); len(errs) > 0 || !tg.Alive() {
			t.Errorf("%d of %d requests failed, alive: %v\n%s", len(errs), sent[0]+sent[1], tg.Alive(), strings.Join(errs[:min(10, len(errs))], "\n"))
		}
	})
	// As a package manager does it: the new file takes the place of the one that runs.
	installed := copyExe(t, harness.AgentPath(t), "tracer-agent")
	t.Setenv("TRACER_AGENT_BIN", installed)
	upgrade := func() {
		if err := os.Rename(copyExe(t, installed, "new"), installed); err != nil {
			t.Fatal(err)
		}
	}
	config := func(enabled bool, http bool) string {
		return fmt.Sprintf("enabled: %v\nselect: {exes: [%s]}\nprobes: {nethttp: %v}\n", enabled, path, http)
	}
	r := &reloadRig{t: t, file: filepath.Join(t.TempDir(), "agent.yaml")}
	r.write(config(true, true))
	r.startSilent()
	for ; rounds < wanted; rounds++ {
		r.WaitInstrumented(tg.PID)
		switch rounds % 4 {
		case 0:
			r.reload(config(true, false))
			r.reload(config(true, true))
		case 1:
			r.reload(config(false, true))
			r.reload(config(true, true))
		case 2:
			r.Kill()
			r.startSilent()
		default:
			upgrade()
			r.Stop()
			r.startSilent()
		}
	}
	r.WaitInstrumented(tg.PID)
}
