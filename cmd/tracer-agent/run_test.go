package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRunPID(t *testing.T) {
	needRoot(t)
	s := startTarget(t, "shop-api", "OTEL_SERVICE_NAME=shop")
	a := startAgent(t, []string{"run", "--pid", fmt.Sprint(s.Process.Pid), "--exporter", "json"})
	a.until("instrumented", func() bool { return a.err.count("msg=instrumented") == 1 })
	if !strings.Contains(a.err.String(), fmt.Sprintf("msg=instrumented pid=%d service=shop", s.Process.Pid)) {
		t.Errorf("log: %s", a.err.String())
	}
	const requests = 20
	for i := range requests {
		s.get(t, fmt.Sprintf("/item-%d", i))
	}
	// All in the last moment: what is seen is flushed.
	code, took := a.stop(syscall.SIGINT)
	if code != 0 || took > 2*time.Second {
		t.Errorf("exit code %d after %v, want 0 within 2s", code, took)
	}
	for i := range requests {
		if n := a.out.count(fmt.Sprintf("/item-%d\"", i)); n != 1 {
			t.Errorf("%d spans of request %d, want 1", n, i)
		}
	}
	s.get(t, "/after")
}

// TestRunLater: processes that begin while the agent runs; the first request of a
// known executable is seen.
func TestRunLater(t *testing.T) {
	needRoot(t)
	path := copyTrivial(t, "later-api")
	a := startAgent(t, []string{"run", "--exe", "later-*", "--exporter", "json"})
	first := runTarget(t, path)
	a.until("the first is instrumented", func() bool { return a.err.count("msg=instrumented") == 1 })
	first.get(t, "/first")
	// A request ends a moment after its answer is out.
	a.until("its span", func() bool { return a.out.count("/first") == 1 })
	first.Process.Kill()
	for i := range 5 {
		s := runTarget(t, path)
		s.get(t, fmt.Sprintf("/again-%d", i)) // at once
		a.until("its span", func() bool { return a.out.count(fmt.Sprintf("/again-%d", i)) == 1 })
		s.Process.Kill()
		s.Wait()
	}
	a.until("all spans", func() bool { return a.out.count("/again-") >= 5 && a.out.count("/first") >= 1 })
	a.until("a line for each process", func() bool { return a.err.count("msg=instrumented") == 6 })
	if n := a.out.count("unknown_service"); n != 0 {
		t.Errorf("%d spans of processes that were not described: %s", n, a.out.String())
	}
	if code, _ := a.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestRunPort(t *testing.T) {
	needRoot(t)
	s := startTarget(t, "port-api")
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.URL, "http://"))
	a := startAgent(t, []string{"run", "--port", port, "--exporter", "json"})
	a.until("instrumented", func() bool { return a.err.count("selected_by=port") == 1 })
	s.get(t, "/by-port")
	a.until("the span", func() bool { return a.out.count("/by-port") == 1 })
}

// TestTargetEnds: with only pids, the agent ends when the last process has.
func TestTargetEnds(t *testing.T) {
	needRoot(t)
	s := startTarget(t, "short")
	a := startAgent(t, []string{"run", "--pid", fmt.Sprint(s.Process.Pid), "--exporter", "json"})
	a.until("instrumented", func() bool { return a.err.count("msg=instrumented") == 1 })
	// The end of a request is seen after its answer has left, and only the next one on the
	// connection is sure to come later.
	s.getAll(t, "/last-words", "/after")
	s.Process.Kill()
	s.Wait()
	a.wait()
	if code := a.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if n := a.out.count("/last-words"); n != 1 {
		t.Errorf("%d spans of the last request, want 1", n)
	}
}

func TestSignals(t *testing.T) {
	needRoot(t)
	s := startTarget(t, "signalled")
	pid := fmt.Sprint(s.Process.Pid)
	t.Run("SIGUSR1 prints metrics", func(t *testing.T) {
		a := startAgent(t, []string{"run", "--pid", pid, "--exporter", "none"})
		a.until("instrumented", func() bool { return a.err.count("msg=instrumented") == 1 })
		a.Process.Signal(syscall.SIGUSR1)
		a.until("metrics", func() bool {
			return a.err.count("tracer_agent_resident_memory_bytes ") > 0 && a.err.count("tracer_agent_processes ") > 0
		})
		if code, _ := a.stop(syscall.SIGTERM); code != 0 {
			t.Errorf("exit code %d after metrics and SIGTERM, want 0", code)
		}
	})
	t.Run("the target survives kill -9 of the agent", func(t *testing.T) {
		a := startAgent(t, []string{"run", "--pid", pid, "--exporter", "none"})
		a.until("instrumented", func() bool { return a.err.count("msg=instrumented") == 1 })
		a.stop(syscall.SIGKILL)
		for range 100 {
			s.get(t, "/still-here")
		}
	})
	t.Run("stops within 2s with an endpoint that never answers, at once at the second signal", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // accepts in the kernel, says nothing
		run := func() *agentProc {
			a := startAgent(t, []string{"run", "--pid", pid, "--endpoint", "http://" + l.Addr().String()})
			a.until("instrumented", func() bool { return a.err.count("msg=instrumented") == 1 })
			s.get(t, "/unheard")
			return a
		}
		if code, took := run().stop(syscall.SIGINT); code != 0 || took > 2*time.Second {
			t.Errorf("exit code %d after %v, want 0 within 2s", code, took)
		}
		a := run()
		a.Process.Signal(syscall.SIGINT)
		a.until("it is stopping", func() bool { return a.err.count("msg=stopping") > 0 })
		// The kernel takes up to half a second to detach from a process that ends, on a
		// busy machine more.
		if code, took := a.stop(syscall.SIGINT); code != 1 || took > 1500*time.Millisecond || a.err.count("at once") != 1 {
			t.Errorf("exit code %d after %v, want 1 at once", code, took)
		}
	})
}

func TestUnreachableEndpoint(t *testing.T) {
	needRoot(t)
	s := startTarget(t, "unheard")
	endpoint := fmt.Sprintf("http://127.0.0.1:%d", freePort(t))
	a := startAgent(t, []string{"run", "--pid", fmt.Sprint(s.Process.Pid), "--endpoint", endpoint})
	a.until("the warning", func() bool { return a.err.count("does not answer") == 1 })
	a.until("instrumented", func() bool { return a.err.count("msg=instrumented") == 1 })
	for range 10 {
		s.get(t, "/lost")
	}
	if code, took := a.stop(syscall.SIGTERM); code != 0 || took > 2*time.Second {
		t.Errorf("exit code %d after %v, want 0 within 2s", code, took)
	}
	if n := a.err.count("does not answer"); n != 1 {
		t.Errorf("warned %d times, want once", n)
	}
}

func TestDisabled(t *testing.T) {
	a := startAgent(t, []string{"run", "--all-go"}, "OTEL_SDK_DISABLED=true")
	a.until("it says so", func() bool { return a.err.count("nothing is attached") == 1 })
	if code, _ := a.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestClosedOutput: whoever read the spans is gone.
func TestClosedOutput(t *testing.T) {
	needRoot(t)
	s := startTarget(t, "unread")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := command([]string{"run", "--pid", fmt.Sprint(s.Process.Pid), "--exporter", "json"})
	cmd.Stdout = w
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	w.Close()
	sc := bufio.NewScanner(stderr)
	for sc.Scan() && !strings.Contains(sc.Text(), "msg=instrumented") {
	}
	r.Close()
	s.get(t, "/unread")
	timer := time.AfterFunc(deadline, func() { cmd.Process.Kill() })
	defer timer.Stop()
	for sc.Scan() {
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d, want 0: %v", code, cmd.ProcessState)
	}
}
