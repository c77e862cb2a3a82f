package e2e

import (
	"fmt"
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

// TestIdleNode: an agent set up as the chart does, on 20 idle Go programs of different
// kinds and Go releases and 80 other processes: at most 120 MiB and half a percent of a
// core. TRACER_IDLE=60s runs it and says how long it looks.
func TestIdleNode(t *testing.T) {
	needs(t)
	if os.Getenv("TRACER_IDLE") == "" {
		t.Skip("TRACER_IDLE=60s runs it")
	}
	long := lasting(t, "TRACER_IDLE", 0)
	const programs, others = 20, 80
	builds := []harness.Build{
		{Dir: httpmatrix}, {Dir: httpmatrix, Go: "1.18.10"}, {Dir: httpmatrix, Go: "1.21.13"}, {Dir: httpmatrix, Go: "1.23.12"},
		{Dir: "testdata/targets/trivial"},
	}
	var pids []int
	for i := range programs {
		path := copyExe(t, builds[i%len(builds)].Path(t), fmt.Sprintf("idle-%d", i))
		pids = append(pids, harness.StartTarget(t, path).PID)
	}
	for range others {
		cmd := exec.Command("sleep", "3600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	r := harness.StartReceiver(t, true, false)
	config := filepath.Join(t.TempDir(), "agent.yaml")
	text := fmt.Sprintf("select: {exes: ['idle-*']}\nexporters: [otlp]\notlp: {endpoint: %s, protocol: grpc}\ndisk_queue: {directory: %s}\n", r.URL(), t.TempDir())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := harness.StartAgentEnv(t, nil, "--config", config)
	for _, pid := range pids {
		agent.WaitInstrumented(pid)
	}
	quiet(t, agent.PID())
	before, _ := usage(t, agent.PID())
	begin, forks := time.Now(), forked(t)
	time.Sleep(long) // that is what is measured
	after, rss := usage(t, agent.PID())
	share := float64(after-before) / float64(time.Since(begin))
	// Each process that begins on the host costs the agent some 0.3 ms.
	t.Logf("%.2f %% of a core in %v, in which %d threads and processes began on the host; resident %d KiB",
		100*share, time.Since(begin).Round(time.Second), forked(t)-forks, rss>>10)
	if share > 0.005 {
		t.Errorf("the agent takes %.2f %% of a core, at most 0.5", 100*share)
	}
	if rss > 120<<20 {
		t.Errorf("the agent takes %d KiB, at most 120 MiB", rss>>10)
	}
}

// forked is how many processes and threads have begun since the host did.
func forked(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "processes "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("/proc/stat does not count processes")
	return 0
}
