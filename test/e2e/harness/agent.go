package harness

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Agent is a running agent whose spans are read from its standard output.
type Agent struct {
	t   testing.TB
	cmd *exec.Cmd

	mu    sync.Mutex
	spans []Span
	bad   []string // output that is no span

	stderr *syncBuffer
	exited chan struct{}
	err    error // of Wait, once exited is closed
	fences atomic.Int64
}

// Patience stretches time limits: TRACER_TEST_PATIENCE, for machines in
// software emulation; 1 without it.
var Patience = func() time.Duration {
	n, err := strconv.Atoi(os.Getenv("TRACER_TEST_PATIENCE"))
	if err != nil || n < 1 {
		return 1
	}
	return time.Duration(n)
}()

// attachWait is how long an agent may take until a process is instrumented;
// what it should take is measured by bench, not asserted on a busy machine.
var attachWait = Patience * 30 * time.Second

// StartAgent runs `tracer-agent run` with arguments and JSON output. It is ended
// with the test. Lines on its standard error go to the test's log on failure.
func StartAgent(t testing.TB, args ...string) *Agent {
	t.Helper()
	return StartAgentEnv(t, []string{"OTEL_TRACES_EXPORTER=json"}, args...)
}

// StartAgentEnv is StartAgent with these environment variables.
func StartAgentEnv(t testing.TB, env []string, args ...string) *Agent {
	t.Helper()
	a := &Agent{t: t, stderr: &syncBuffer{}, exited: make(chan struct{})}
	// Loads of tests are past any limit; the test of the limit gives its own.
	a.cmd = exec.Command(AgentPath(t), append([]string{"run", "--max-overhead", "0"}, args...)...)
	a.cmd.Stderr = a.stderr
	a.cmd.Env = append(cleanEnv(), env...)
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatalf("start the agent: %v", err)
	}
	go func() {
		sc := bufio.NewScanner(out)
		sc.Buffer(make([]byte, 1<<20), 1<<24)
		for sc.Scan() {
			a.line(sc.Bytes())
		}
		a.err = a.cmd.Wait()
		close(a.exited)
	}()
	t.Cleanup(func() {
		a.Kill()
		if t.Failed() {
			t.Logf("agent's standard error:\n%s", a.stderr.String())
		}
	})
	return a
}

// cleanEnv is this environment without OTEL_* variables.
func cleanEnv() []string {
	var out []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "OTEL_") {
			out = append(out, kv)
		}
	}
	return out
}

// Trace starts an agent on the targets and waits until they are instrumented.
func Trace(t testing.TB, targets ...*Target) *Agent {
	t.Helper()
	var args []string
	for _, tg := range targets {
		args = append(args, "--pid", strconv.Itoa(tg.PID))
	}
	a := StartAgent(t, args...)
	for _, tg := range targets {
		a.WaitInstrumented(tg.PID)
	}
	return a
}

func (a *Agent) line(b []byte) {
	s, err := decodeSpan(b)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil || s.SpanID == "" {
		a.bad = append(a.bad, string(b))
	} else {
		a.spans = append(a.spans, s)
	}
}

// PID is the agent's process id.
func (a *Agent) PID() int { return a.cmd.Process.Pid }

// Stderr is what the agent has logged.
func (a *Agent) Stderr() string { return a.stderr.String() }

// WaitLog waits until the agent has logged a line that holds all the texts.
func (a *Agent) WaitLog(texts ...string) string {
	a.t.Helper()
	var found string
	a.wait(attachWait, fmt.Sprintf("log line with %q", texts), func() bool {
		for line := range strings.SplitSeq(a.stderr.String(), "\n") {
			if containsAll(line, texts) {
				found = line
				return true
			}
		}
		return false
	})
	return found
}

func containsAll(line string, texts []string) bool {
	for _, t := range texts {
		if !strings.Contains(line+" ", t) {
			return false
		}
	}
	return true
}

// WaitInstrumented waits until the agent says that it traces the process.
func (a *Agent) WaitInstrumented(pid int) {
	a.t.Helper()
	a.WaitLog("msg=instrumented", fmt.Sprintf("pid=%d ", pid))
}

// wait polls until ok, at most d, and fails the test when the agent has ended.
func (a *Agent) wait(d time.Duration, what string, ok func() bool) {
	a.t.Helper()
	deadline := time.Now().Add(d)
	for !ok() {
		select {
		case <-a.exited:
			if ok() {
				return
			}
			a.t.Fatalf("waiting for %s: the agent ended: %v\n%s", what, a.err, a.stderr.String())
		default:
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("waiting for %s: not there after %v\n%s", what, d, a.stderr.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Mark is a position in the stream of spans.
func (a *Agent) Mark() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.spans)
}

// Since returns the spans after the mark, fences left out.
func (a *Agent) Since(mark int) []Span {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []Span
	for _, s := range a.spans[mark:] {
		if !strings.HasPrefix(s.Attr("url.path"), fencePath) {
			out = append(out, s)
		}
	}
	return out
}

const fencePath = "/fence/"

// Settle waits for n spans after the mark, then lets a request pass through the
// fence target and waits for its span: what ended before has arrived by then.
// It returns all spans since the mark; more or fewer than n are the caller's to judge.
func (a *Agent) Settle(mark, n int, fence *Target) []Span {
	a.t.Helper()
	deadline := time.Now().Add(Patience * 10 * time.Second)
	for len(a.Since(mark)) < n && time.Now().Before(deadline) {
		time.Sleep(2 * time.Millisecond)
	}
	path := fmt.Sprintf("%s%d", fencePath, a.fences.Add(1))
	resp, err := Client.Get(fence.URL(path))
	if err != nil {
		a.t.Fatalf("fence request: %v", err)
	}
	resp.Body.Close()
	a.wait(Patience*10*time.Second, "the fence's span", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		for i := len(a.spans) - 1; i >= mark; i-- {
			if a.spans[i].Attr("url.path") == path {
				return true
			}
		}
		return false
	})
	return a.Since(mark)
}

// Await waits until n spans have come since the mark, or it takes too long; Settle says
// which. It costs less than Settle when they are many.
func (a *Agent) Await(mark, n int) {
	a.t.Helper()
	deadline := time.Now().Add(Patience*10*time.Second + time.Duration(n)*time.Millisecond)
	for a.Mark()-mark < n && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
}

// WaitSpans waits until n spans since the mark are wanted by f, and returns all
// that are.
func (a *Agent) WaitSpans(mark, n int, f func(Span) bool) []Span {
	a.t.Helper()
	var got []Span
	a.wait(Patience*20*time.Second, fmt.Sprintf("%d spans", n), func() bool {
		got = Of(a.Since(mark), f)
		return len(got) >= n
	})
	return got
}

// Stop ends the agent as Ctrl-C does and returns how long it took. It fails the
// test when the agent does not end in time or does not exit with 0, or when
// anything but spans was on its standard output.
func (a *Agent) Stop() time.Duration {
	a.t.Helper()
	start := time.Now()
	_ = a.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-a.exited:
	case <-time.After(Patience * 20 * time.Second):
		a.t.Fatalf("the agent does not end on SIGINT within %v", Patience*20*time.Second)
	}
	took := time.Since(start)
	if a.err != nil {
		a.t.Errorf("the agent ended with: %v\n%s", a.err, a.stderr.String())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.bad) > 0 {
		a.t.Errorf("the agent printed %d lines that are no spans, the first: %s", len(a.bad), a.bad[0])
	}
	return took
}

// Kill ends the agent without giving it a chance to clean up.
func (a *Agent) Kill() {
	_ = a.cmd.Process.Kill()
	<-a.exited
}

// Wait waits for the agent's own end and returns its exit code.
func (a *Agent) Wait(d time.Duration) int {
	a.t.Helper()
	select {
	case <-a.exited:
	case <-time.After(d):
		a.t.Fatalf("the agent has not ended after %v\n%s", d, a.stderr.String())
	}
	return a.cmd.ProcessState.ExitCode()
}
