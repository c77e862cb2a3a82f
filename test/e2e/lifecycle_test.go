package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// copyExe copies an executable into a folder of its own, so that globs and inodes
// are this test's only.
func copyExe(t *testing.T, path, name string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(out, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return out
}

// spanOf sends one request and requires its one span, with the target's pid.
func spanOf(t *testing.T, tg *harness.Target, agent *harness.Agent) harness.Span {
	t.Helper()
	mark := agent.Mark()
	harness.Get(t, tg.URL("/plain"))
	all := agent.Settle(mark, 1, tg)
	// With --all-go this test's own client is traced as well.
	spans := harness.Of(all, func(s harness.Span) bool { return s.Kind == "server" })
	if len(spans) != 1 {
		t.Fatalf("%d server spans, want 1: %v", len(spans), all)
	}
	if got := spans[0].Res("process.pid"); got != strconv.Itoa(tg.PID) {
		t.Fatalf("span has process.pid %s, want %d", got, tg.PID)
	}
	return spans[0]
}

// TestSelectors: a process is found by each way of naming it, whether it runs
// already or starts later, and no other process is traced.
func TestSelectors(t *testing.T) {
	needs(t)
	src := harness.Build{Dir: httpmatrix}.Path(t)
	t.Run("exe", func(t *testing.T) {
		path := copyExe(t, src, "wanted")
		other := harness.StartTarget(t, copyExe(t, src, "unwanted"))
		before := harness.StartTarget(t, path)
		agent := harness.StartAgent(t, "--exe", filepath.Join(filepath.Dir(path), "want*"))
		agent.WaitInstrumented(before.PID)
		spanOf(t, before, agent)
		after := harness.StartTarget(t, path)
		agent.WaitInstrumented(after.PID)
		spanOf(t, after, agent)

		mark := agent.Mark()
		harness.Get(t, other.URL("/plain"))
		if spans := agent.Settle(mark, 0, before); len(spans) != 0 {
			t.Errorf("spans of a process that was not selected: %v", spans)
		}
	})
	t.Run("port", func(t *testing.T) {
		tg := harness.StartTarget(t, copyExe(t, src, "byport"))
		_, port, err := net.SplitHostPort(tg.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		agent := harness.StartAgent(t, "--port", port)
		agent.WaitInstrumented(tg.PID)
		spanOf(t, tg, agent)
	})
	t.Run("port, restarted", func(t *testing.T) {
		path := copyExe(t, src, "byport")
		tg := harness.StartTarget(t, path)
		_, port, err := net.SplitHostPort(tg.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		agent := harness.StartAgent(t, "--port", port)
		agent.WaitInstrumented(tg.PID)
		tg.Stop()
		again := harness.StartTarget(t, path, "-addr", "127.0.0.1:"+port)
		agent.WaitInstrumented(again.PID)
		spanOf(t, again, agent)
	})
	t.Run("all-go", func(t *testing.T) {
		tg := harness.StartTarget(t, copyExe(t, src, "anygo"))
		agent := harness.StartAgent(t, "--all-go")
		agent.WaitInstrumented(tg.PID)
		spanOf(t, tg, agent)
		later := harness.StartTarget(t, copyExe(t, src, "latergo"))
		agent.WaitInstrumented(later.PID)
		spanOf(t, later, agent)
	})
	t.Run("several pids", func(t *testing.T) {
		a, b := harness.StartTarget(t, src), harness.StartTarget(t, src)
		c := harness.StartTarget(t, src) // same executable, not selected
		agent := harness.Trace(t, a, b)
		spanOf(t, a, agent)
		spanOf(t, b, agent)
		mark := agent.Mark()
		harness.Get(t, c.URL("/plain"))
		if spans := agent.Settle(mark, 0, a); len(spans) != 0 {
			t.Errorf("spans of a process that was not selected: %v", spans)
		}
	})
}

// TestSpanAfterPause: the agent, which does not look at the ring while nothing happens, is
// woken by the first span after a pause.
func TestSpanAfterPause(t *testing.T) {
	needs(t)
	tg := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	agent := harness.Trace(t, tg)
	spanOf(t, tg, agent)
	time.Sleep(4 * time.Second) // by then it rests, for 4 s more
	mark, begin := agent.Mark(), time.Now()
	harness.Get(t, tg.URL("/plain"))
	agent.WaitSpans(mark, 1, harness.Kind("server"))
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the span came after %v", took)
	}
}

// TestManyProcesses: many processes of one executable, each restarted once, are
// each told apart.
func TestManyProcesses(t *testing.T) {
	needs(t)
	path := copyExe(t, harness.Build{Dir: "testdata/targets/trivial"}.Path(t), "many")
	agent := harness.StartAgent(t, "--exe", path)
	for round := range 2 {
		var all []*harness.Target
		for range 20 {
			tg := harness.StartTarget(t, path)
			all = append(all, tg)
		}
		for _, tg := range all {
			agent.WaitInstrumented(tg.PID)
		}
		mark := agent.Mark()
		for _, tg := range all {
			harness.Get(t, tg.URL("/plain"))
		}
		spans := agent.Settle(mark, len(all), all[0])
		byPID, byInstance := map[string]int{}, map[string]bool{}
		for _, s := range spans {
			byPID[s.Res("process.pid")]++
			byInstance[s.Res("service.instance.id")] = true
		}
		for _, tg := range all {
			if n := byPID[strconv.Itoa(tg.PID)]; n != 1 {
				t.Errorf("round %d: process %d has %d spans, want 1", round, tg.PID, n)
			}
			tg.Stop()
		}
		if len(byInstance) != len(all) {
			t.Errorf("round %d: %d different service.instance.id, want %d", round, len(byInstance), len(all))
		}
	}
}

// TestForkExec: a program that starts itself three times in a row; the last one
// serves, and it is the one in the resource.
func TestForkExec(t *testing.T) {
	needs(t)
	path := copyExe(t, harness.Build{Dir: httpmatrix}.Path(t), "chain")
	agent := harness.StartAgent(t, "--exe", path)
	tg := harness.StartTarget(t, path, "-chain", "3")
	agent.WaitInstrumented(tg.PID)
	spanOf(t, tg, agent)
}

// TestReadyAfterExec: a process that starts is traced soon; one of an executable
// that is known already, at once.
func TestReadyAfterExec(t *testing.T) {
	needs(t)
	src := harness.Build{Dir: httpmatrix}.Path(t)
	path, first := copyExe(t, src, "soon"), copyExe(t, src, "first")
	agent := harness.StartAgent(t, "--exe", "soon", "--exe", "first")
	agent.WaitInstrumented(harness.StartTarget(t, first).PID) // the agent itself is ready
	for i, limit := range []time.Duration{2 * time.Second, 500 * time.Millisecond} {
		began := time.Now()
		tg := harness.StartTarget(t, path)
		agent.WaitInstrumented(tg.PID)
		took := time.Since(began)
		t.Logf("start %d: ready %v after the program was started", i+1, took)
		if took > limit {
			t.Errorf("start %d: ready after %v, want %v (on a busy machine)", i+1, took, limit)
		}
		spanOf(t, tg, agent)
	}
}

// TestResource: service.name comes from the target's environment, then the
// executable's name; process and telemetry attributes are there.
func TestResource(t *testing.T) {
	needs(t)
	path := copyExe(t, harness.Build{Dir: httpmatrix}.Path(t), "orders")
	for _, c := range []struct {
		name string
		env  []string
		want map[string]string
	}{
		{"executable", nil, map[string]string{"service.name": "orders"}},
		{"OTEL_SERVICE_NAME", []string{"OTEL_SERVICE_NAME=shop"}, map[string]string{"service.name": "shop"}},
		{"OTEL_RESOURCE_ATTRIBUTES", []string{"OTEL_RESOURCE_ATTRIBUTES=service.name=shop2,deployment.environment.name=test,service.version=1%2E2"},
			map[string]string{"service.name": "shop2", "deployment.environment.name": "test", "service.version": "1.2"}},
		{"both", []string{"OTEL_SERVICE_NAME=shop", "OTEL_RESOURCE_ATTRIBUTES=service.name=other"}, map[string]string{"service.name": "shop"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tg := harness.StartTargetEnv(t, c.env, path)
			s := spanOf(t, tg, harness.Trace(t, tg))
			c.want["process.executable.name"] = "orders"
			c.want["process.runtime.name"] = "go"
			c.want["process.runtime.version"] = strings.TrimPrefix(tg.Go, "go")
			for k, v := range c.want {
				if got := s.Res(k); got != v && strings.TrimPrefix(got, "go") != v {
					t.Errorf("resource attribute %s=%q, want %q", k, got, v)
				}
			}
			for _, k := range []string{"service.instance.id", "host.name", "telemetry.sdk.language", "telemetry.sdk.name", "telemetry.sdk.version"} {
				if s.Res(k) == "" {
					t.Errorf("resource has no %s: %v", k, s.Resource)
				}
			}
		})
	}
}

// TestStop: Ctrl-C under load ends the agent within two seconds, with every span
// of a request that was answered before, and leaves nothing in the kernel.
func TestStop(t *testing.T) {
	needs(t)
	before := harness.CountObjects(t)
	tg, agent := traced(t, harness.Build{})
	mark := agent.Mark()
	const n = 2000
	keepAlive(t, tg, "/plain", n)
	if took := agent.Stop(); took > 2*time.Second {
		t.Errorf("the agent took %v to end, want 2 s", took)
	}
	if got := len(agent.Since(mark)); got != n {
		t.Errorf("%d spans were flushed of %d", got, n)
	}
	harness.WaitObjects(t, before)
	harness.Get(t, tg.URL("/plain"))
}

// TestStopSignals: SIGTERM ends the agent like Ctrl-C.
func TestStopSignals(t *testing.T) {
	_, agent := traced(t, harness.Build{})
	if err := syscall.Kill(agent.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := agent.Wait(5 * time.Second); code != 0 {
		t.Errorf("exit code %d on SIGTERM, want 0", code)
	}
}

// TestKilledAgent: kill -9 of the agent under load: no request fails, and the
// kernel takes everything away.
func TestKilledAgent(t *testing.T) {
	needs(t)
	before := harness.CountObjects(t)
	tg := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	load := startLoad(t, tg)
	for i := range 3 {
		agent := harness.Trace(t, tg)
		agent.WaitSpans(0, 200, harness.Kind("server"))
		agent.Kill()
		harness.WaitObjects(t, before)
		if !tg.Alive() {
			t.Fatalf("the target died with agent %d: %s", i, tg.Stderr())
		}
	}
	load.end(t)
}

// TestTargetEnds: a target that ends while it is traced leaves the agent running
// and ready for the next.
func TestTargetEnds(t *testing.T) {
	needs(t)
	path := copyExe(t, harness.Build{Dir: httpmatrix}.Path(t), "mortal")
	agent := harness.StartAgent(t, "--exe", path)
	for range 5 {
		tg := harness.StartTarget(t, path)
		agent.WaitInstrumented(tg.PID)
		spanOf(t, tg, agent)
		if err := syscall.Kill(tg.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		tg.Stop()
	}
	if took := agent.Stop(); took > 2*time.Second {
		t.Errorf("the agent took %v to end", took)
	}
}

// TestBadInput: one line that says what, where and what to do, and the exit code.
func TestBadInput(t *testing.T) {
	needs(t)
	sleeper := harness.StartTarget(t, "/bin/sh", "-c", `echo 'ready {"pid":'$$'}'; exec sleep 60`)
	dir := t.TempDir()
	config := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(config, []byte("select:\n  pidz: [1]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		env  []string
		code int
		say  []string
	}{
		{"nothing selected", nil, nil, 2, []string{"--pid"}},
		{"unknown flag", []string{"--nonsense"}, nil, 2, []string{"nonsense"}},
		{"pid is no number", []string{"--pid", "x"}, nil, 2, []string{"x"}},
		{"dead pid", []string{"--pid", "4194304"}, nil, 1, []string{"4194304"}},
		{"not Go", []string{"--pid", fmt.Sprint(sleeper.PID)}, nil, 1, []string{fmt.Sprint(sleeper.PID), "Go"}},
		{"config key", []string{"--pid", "1", "--config", config}, nil, 2, []string{"pidz", "2"}},
		{"config file missing", []string{"--pid", "1", "--config", filepath.Join(dir, "none.yaml")}, nil, 1, []string{"none.yaml"}},
		{"unknown exporter", []string{"--pid", "1"}, []string{"OTEL_TRACES_EXPORTER=zipkin"}, 2, []string{"zipkin"}},
		{"ratio", []string{"--pid", "1"}, []string{"OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=7"}, 2, []string{"7"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := c.env
			if env == nil {
				env = []string{"OTEL_TRACES_EXPORTER=json"}
			}
			agent := harness.StartAgentEnv(t, env, c.args...)
			if code := agent.Wait(20 * time.Second); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			out := strings.TrimSpace(agent.Stderr())
			for _, s := range c.say {
				if !strings.Contains(out, s) {
					t.Errorf("does not say %q: %s", s, out)
				}
			}
			if n := strings.Count(out, "\n") + 1; n > 3 {
				t.Errorf("says it in %d lines: %s", n, out)
			}
		})
	}
}
