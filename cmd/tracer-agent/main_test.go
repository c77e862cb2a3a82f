package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// With asAgent set this test binary is the agent.
const asAgent = "TRACER_AGENT_TEST_MAIN"

const deadline = 15 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
	}
	code := m.Run()
	if path, err := trivial(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root (CAP_BPF, CAP_PERFMON)")
	}
}

// command is the agent with a clean OTEL_ environment.
func command(args []string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "OTEL_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(append(cmd.Env, asAgent+"=1"), env...)
	return cmd
}

// call runs the agent to its end.
func call(t *testing.T, args []string, env ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := command(args, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(deadline, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Wait()
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// output collects what a process prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (o *output) count(word string) int { return strings.Count(o.String(), word) }

// agentProc is a running agent.
type agentProc struct {
	*exec.Cmd
	t        *testing.T
	out, err output
	ended    sync.Once
}

func startAgent(t *testing.T, args []string, env ...string) *agentProc {
	t.Helper()
	a := &agentProc{Cmd: command(args, env...), t: t}
	a.Stdout, a.Stderr = &a.out, &a.err
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Process.Kill()
		a.wait()
		if t.Failed() {
			t.Logf("standard error of %q:\n%s", args, a.err.String())
		}
	})
	return a
}

func (a *agentProc) wait() { a.ended.Do(func() { a.Wait() }) }

func (a *agentProc) until(what string, ok func() bool) {
	a.t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			a.t.Fatalf("not within %v: %s", deadline, what)
		}
	}
}

// stop sends a signal and returns the exit code and how long it took.
func (a *agentProc) stop(sig syscall.Signal) (code int, took time.Duration) {
	a.t.Helper()
	begin := time.Now()
	a.Process.Signal(sig)
	timer := time.AfterFunc(deadline, func() { a.Process.Kill() })
	defer timer.Stop()
	a.wait()
	return a.ProcessState.ExitCode(), time.Since(begin)
}

// build compiles a program; dir is a module, or a folder for a main.go of source.
func build(t *testing.T, dir, source string, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "target")
	if source != "" {
		if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module target\n\ngo 1.26\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", append(append([]string{"build", "-o", out}, flags...), ".")...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build in %s: %v\n%s", dir, err, msg)
	}
	return out
}

// trivial is the path of the built HTTP target; TestMain removes it.
var trivial = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tracer-agent-test-")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "trivial")
	cmd := exec.Command("go", "build", "-o", out, ".")
	cmd.Dir = "../../testdata/targets/trivial"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, msg)
	}
	return out, nil
})

// target is a running HTTP server.
type target struct {
	*exec.Cmd
	URL string
}

// startTarget runs a copy of the trivial server under a name of its own.
func startTarget(t *testing.T, name string, env ...string) *target {
	t.Helper()
	return runTarget(t, copyTrivial(t, name), env...)
}

func copyTrivial(t *testing.T, name string) string {
	t.Helper()
	from, err := trivial()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func runTarget(t *testing.T, path string, env ...string) *target {
	t.Helper()
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var ready struct{ HTTP string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(strings.TrimSpace(line), "ready ")), &ready); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return &target{cmd, "http://" + ready.HTTP}
}

func (s *target) get(t *testing.T, path string) {
	t.Helper()
	s.getAll(t, path)
}

// getAll makes requests one after the other on one connection.
func (s *target) getAll(t *testing.T, paths ...string) {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: deadline}
	for _, path := range paths {
		resp, err := client.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
