package main

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// TestBadInput: one line that says what, where and what to do, and the exit code.
func TestBadInput(t *testing.T) {
	needRoot(t)
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sleep := exec.Command("sleep", "600")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sleep.Process.Kill(); sleep.Wait() })
	plain := exec.Command(build(t, t.TempDir(), "package main\n\nimport \"time\"\n\nfunc main() { time.Sleep(time.Hour) }\n"))
	if err := plain.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.Process.Kill(); plain.Wait() })
	pid := func(c *exec.Cmd) string { return fmt.Sprint(c.Process.Pid) }

	tests := []struct {
		name string
		args []string
		env  []string
		code int
		want []string
	}{
		{"unknown command", []string{"walk"}, nil, 2, []string{`unknown command "walk"`, "--help"}},
		{"unknown flag", []string{"run", "--pids", "1"}, nil, 2, []string{"unknown flag: --pids", "run --help"}},
		{"no number", []string{"run", "--pid", "x"}, nil, 2, []string{"--pid", `"x"`}},
		{"argument", []string{"run", "4711"}, nil, 2, []string{`unexpected argument "4711"`}},
		{"argument of check", []string{"check", "4711"}, nil, 2, []string{`unexpected argument "4711"`}},
		{"nothing selected", []string{"run"}, nil, 2, []string{"nothing is selected", "--pid", "tracer-agent list"}},
		{"pid 0", []string{"run", "--pid", "0"}, nil, 2, []string{"--pid", "want 1 to"}},
		{"check of pid -1", []string{"check", "--pid", "-1"}, nil, 2, []string{"--pid -1"}},
		{"port", []string{"run", "--port", "70000"}, nil, 2, []string{"--port", "70000", "65535"}},
		{"pattern", []string{"run", "--exe", "[x"}, nil, 2, []string{"--exe", "[x"}},
		{"brace", []string{"run", "--exe", "{x"}, nil, 2, []string{"{x", "without }"}},
		{"exporter", []string{"run", "--all-go", "--exporter", "zipkin"}, nil, 2, []string{"--exporter", "zipkin", "otlp, console, tree, json"}},
		{"level", []string{"run", "--all-go", "--log-level", "loud"}, nil, 2, []string{"--log-level", "loud"}},
		{"endpoint", []string{"run", "--all-go", "--endpoint", "ftp://x"}, nil, 2, []string{"--endpoint"}},
		{"environment", []string{"run", "--all-go"}, []string{"OTEL_TRACES_SAMPLER=sometimes"}, 2, []string{"OTEL_TRACES_SAMPLER", "sometimes"}},
		{"config key", []string{"run", "--config", write("a.yaml", "select:\n  all_go: true\nexportres: [otlp]\n")}, nil, 2, []string{"a.yaml", "3", "exportres"}},
		{"config syntax", []string{"run", "--config", write("b.yaml", "select: [\n")}, nil, 2, []string{"b.yaml"}},
		{"no config", []string{"run", "--config", "/nonexistent.yaml"}, nil, 1, []string{"/nonexistent.yaml", "no such file"}},
		{"dead pid", []string{"run", "--pid", "4194304"}, nil, 1, []string{"pid=4194304", "no such process", "tracer-agent list"}},
		{"kernel thread", []string{"run", "--pid", "2"}, nil, 1, []string{"pid=2", "kernel thread"}},
		{"check of a dead pid", []string{"check", "--pid", "4194304"}, nil, 1, []string{"process 4194304", "no such process"}},
		{"check of a kernel thread", []string{"check", "--pid", "2"}, nil, 1, []string{"process 2", "kernel thread"}},
		{"not Go", []string{"run", "--pid", pid(sleep)}, nil, 1, []string{"pid=" + pid(sleep), "not a Go program"}},
		{"check of not Go", []string{"check", "--pid", pid(sleep)}, nil, 1, []string{"process " + pid(sleep), "not a Go program"}},
		{"no net/http", []string{"run", "--pid", pid(plain)}, nil, 1, []string{"pid=" + pid(plain), "without net/http"}},
		{"check of no net/http", []string{"check", "--pid", pid(plain)}, nil, 1, []string{"process " + pid(plain), "without net/http"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, _, stderr := call(t, tt.args, tt.env...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if strings.Count(stderr, "\n") != 1 {
				t.Errorf("want one line, got %q", stderr)
			}
			for _, w := range tt.want {
				if !strings.Contains(stderr, w) {
					t.Errorf("%q is missing in %q", w, stderr)
				}
			}
		})
	}
}

// TestTruncated: a file cut off behind its loaded segments runs, but has lost its
// section headers and debug information.
func TestTruncated(t *testing.T) {
	needRoot(t)
	path := copyTrivial(t, "cut-off")
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	end := uint64(0)
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD {
			end = max(end, p.Off+p.Filesz)
		}
	}
	f.Close()
	if err := os.Truncate(path, int64(end)); err != nil {
		t.Fatal(err)
	}
	s := runTarget(t, path)
	code, _, stderr := call(t, []string{"check", "--pid", fmt.Sprint(s.Process.Pid)})
	if code != 0 && (code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "cut-off")) {
		t.Errorf("exit code %d, %q; want 0, or 1 and one line", code, stderr)
	}
	s.get(t, "/alive")
}

// nobody runs the agent without privileges, from a place that others may enter.
func nobody(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(os.TempDir(), filepath.Base(t.TempDir())+"-agent.test")
	if err := os.WriteFile(path, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	cmd := command(args)
	cmd.Path, cmd.Dir = path, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestNoPrivileges(t *testing.T) {
	needRoot(t)
	for _, args := range [][]string{{"run", "--all-go"}, {"list"}} {
		code, _, stderr := nobody(t, args...)
		if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "run as root") {
			t.Errorf("%q: exit code %d, %q; want 1 and one line that says run as root", args, code, stderr)
		}
	}
	code, stdout, stderr := nobody(t, "check", "--pid", fmt.Sprint(os.Getpid()))
	if code != 1 || !strings.Contains(stdout, "cannot work here") || !strings.Contains(stderr, "CAP_BPF") ||
		!strings.Contains(stderr, "executable cannot be read") {
		t.Errorf("check: exit code %d, %q", code, stderr)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {}, {"run", "--help"}, {"check", "-h"}, {"list", "--help"}, {"version", "--help"}} {
		code, stdout, stderr := call(t, args)
		if code != 0 || stderr != "" || !strings.Contains(stdout, "Examples:") || !strings.Contains(stdout, "tracer-agent") {
			t.Errorf("%q: exit code %d, %d bytes on standard error; want 0 and examples", args, code, len(stderr))
		}
	}
}

func TestVersion(t *testing.T) {
	code, stdout, _ := call(t, []string{"version", "--json"})
	var v versionInfo
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != 0 || v.Version != version || v.Go == "" {
		t.Errorf("exit code %d, %+v, %v", code, v, err)
	}
	if code, stdout, _ := call(t, []string{"version"}); code != 0 || !strings.HasPrefix(stdout, "tracer-agent "+version) {
		t.Errorf("exit code %d, %q", code, stdout)
	}
}

func TestCheck(t *testing.T) {
	needRoot(t)
	s := startTarget(t, "checked")
	pid := s.Process.Pid
	code, stdout, stderr := call(t, []string{"check", "--json", "--pid", fmt.Sprint(pid)})
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var r checkReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	if !r.Able || len(r.Kernel.Features) == 0 || r.Process == nil || r.Process.PID != pid {
		t.Fatalf("report %+v", r)
	}
	points := 0
	for _, p := range r.Process.Probes {
		for _, g := range p.Groups {
			for _, pt := range g.Points {
				if pt.Class == "absent" && pt.Note != "" {
					continue // an optional one, whose function the linker left out
				}
				points++
				if pt.Class == "single-stepped" || pt.Function == "" || pt.Address == "" || pt.Instr == "" {
					t.Errorf("point %s/%s: %+v", g.Name, pt.Name, pt)
				}
			}
		}
	}
	if points < 5 {
		t.Errorf("%d points, want those of server and client", points)
	}
	code, stdout, _ = call(t, []string{"check", "--pid", fmt.Sprint(pid)})
	for _, want := range []string{"FEATURE", "uprobe_multi", "server_start", "net/http.serverHandler.ServeHTTP", "emulated", "would be instrumented"} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("exit code %d, %q is missing in:\n%s", code, want, stdout)
		}
	}
}

// TestCheckAncestors: check says so when the code does not show where all goroutines are.
func TestCheckAncestors(t *testing.T) {
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "exe")
	list, err := specs(config.Default(), false, looks{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	analyse := func() (r processReport) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := probe.Analyse(path, list)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Exe.Close()
		r.fill(a, list)
		return r
	}
	if r := analyse(); r.NoAncestors != "" || !r.attaches() {
		t.Fatalf("as it is: %+v", r)
	}
	exe, err := goexe.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	at, err := exe.EntryPoint(goexe.AllGsFunc)
	if err != nil {
		t.Fatal(err)
	}
	f, _ := exe.Func(goexe.AllGsFunc)
	clear(data[at.Offset : at.Offset+f.Size-(at.Addr-f.Addr)]) // add %al,(%rax) over and over
	r := analyse()
	var text strings.Builder
	if err := r.print(&text); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.NoAncestors, goexe.AllGsFunc) || !strings.Contains(text.String(), r.NoAncestors) || !r.attaches() {
		t.Errorf("without the code: %q, text:\n%s", r.NoAncestors, text.String())
	}
}

func TestList(t *testing.T) {
	needRoot(t)
	s := startTarget(t, "listed", "OTEL_SERVICE_NAME=shop")
	code, stdout, stderr := call(t, []string{"list", "--json"})
	var rows []listed
	if err := json.Unmarshal([]byte(stdout), &rows); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v: %s", code, err, stderr)
	}
	found := false
	for _, r := range rows {
		if int(r.PID) != s.Process.Pid {
			continue
		}
		found = true
		if !r.Able || r.Service != "shop" || !strings.HasPrefix(r.Go, "go1.") || !r.DebugInfo ||
			len(r.Ports) != 1 || !strings.HasSuffix(s.URL, fmt.Sprintf(":%d", r.Ports[0])) {
			t.Errorf("row %+v", r)
		}
	}
	if !found {
		t.Errorf("process %d is not in %s", s.Process.Pid, stdout)
	}
	if _, stdout, _ := call(t, []string{"list"}); !strings.Contains(stdout, "shop") || !strings.Contains(stdout, "PID") {
		t.Errorf("table: %s", stdout)
	}
}
