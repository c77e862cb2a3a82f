package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// lasting is how long a test runs: a variable of the environment, or the usual time.
func lasting(t *testing.T, variable string, usual time.Duration) time.Duration {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		return usual
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// usage is a process's CPU time, which the kernel keeps to the nanosecond, and resident
// memory so far.
func usage(t *testing.T, pid int) (cpu time.Duration, rss int64) {
	t.Helper()
	const sched = 2 // CPUCLOCK_SCHED of a whole process
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		t.Fatal(err)
	}
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano()), pages * int64(os.Getpagesize())
}

// quiet waits until the agent has loaded what it loads after its start.
func quiet(t *testing.T, pid int) {
	t.Helper()
	const look, still = 500 * time.Millisecond, 20 * time.Millisecond
	time.Sleep(4 * time.Second) // it begins then
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); {
		before, _ := usage(t, pid)
		time.Sleep(look)
		if after, _ := usage(t, pid); after-before <= still {
			return
		}
	}
	t.Fatal("the agent does not come to rest")
}

// storm starts short-lived processes until stop is closed; wg waits for them.
func storm(stop <-chan struct{}, perSecond int, wg *sync.WaitGroup, started *int) {
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			cmd := exec.Command("/bin/true")
			if cmd.Start() == nil {
				*started++
				wg.Go(func() { _ = cmd.Wait() })
			}
		}
	}
}

// TestExecStorm: 200 short-lived processes a second, among them programs that stay. Each of
// those is found; the agent takes at most a fifth of a core and its memory stays.
// TRACER_STORM=60s makes it as long as that.
func TestExecStorm(t *testing.T) {
	needs(t)
	const perSecond = 200
	long := lasting(t, "TRACER_STORM", 5*time.Second)
	path := copyExe(t, harness.Build{Dir: "testdata/targets/trivial"}.Path(t), "stays")
	first := harness.StartTarget(t, path)
	config := filepath.Join(t.TempDir(), "agent.yaml")
	// Selectors that have to read /proc of each process are the dearest case.
	text := fmt.Sprintf("instrument:\n  - {all_go: true, command_line: \"%s*\"}\nexporters: [json]\n", path)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := harness.StartAgent(t, "--config", config)
	agent.WaitInstrumented(first.PID)

	quiet(t, agent.PID())
	stop, storming := make(chan struct{}), sync.WaitGroup{}
	started := 0
	storming.Go(func() { storm(stop, perSecond, &storming, &started) })
	cpu, _ := usage(t, agent.PID())
	begin := time.Now()
	var settled int64 // after a fifth of the time
	for i := 1; time.Since(begin) < long; i++ {
		agent.WaitInstrumented(harness.StartTarget(t, path).PID)
		if settled == 0 && time.Since(begin) > long/5 {
			_, settled = usage(t, agent.PID())
		}
		for time.Since(begin) < time.Duration(i)*time.Second && time.Since(begin) < long {
			time.Sleep(10 * time.Millisecond)
		}
	}
	after, rss := usage(t, agent.PID())
	took := time.Since(begin)
	close(stop)
	storming.Wait()
	share := float64(after-cpu) / float64(took)
	t.Logf("%d processes in %v: %.1f %% of a core, resident %d KiB then %d KiB", started, took.Round(time.Millisecond), 100*share, settled>>10, rss>>10)
	if share > 0.2 {
		t.Errorf("the agent took %.1f %% of a core, at most 20", 100*share)
	}
	const slack = 8 << 20 // the Go heap breathes
	if rss > settled+slack {
		t.Errorf("memory grew from %d to %d KiB", settled>>10, rss>>10)
	}
}
