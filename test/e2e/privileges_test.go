package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// capBits are those of uapi/linux/capability.h.
var capBits = map[string]uint{
	"BPF": unix.CAP_BPF, "PERFMON": unix.CAP_PERFMON, "SYS_PTRACE": unix.CAP_SYS_PTRACE,
	"DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH, "LEASE": unix.CAP_LEASE, "SYS_ADMIN": unix.CAP_SYS_ADMIN,
}

const nobody = 65534

// chartCapabilities are those that the Helm chart gives the agent.
func chartCapabilities(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(harness.Root(t), "k8s/chart/values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values struct{ Capabilities []string }
	if err := yaml.Unmarshal(data, &values); err != nil || len(values.Capabilities) == 0 {
		t.Fatalf("capabilities of the chart: %v, %v", values.Capabilities, err)
	}
	return values.Capabilities
}

// stranger starts a program of another user's that only its user may read.
func stranger(t *testing.T, src, name string) *harness.Target {
	t.Helper()
	// Not t.TempDir, whose parents only root may enter.
	dir, err := os.MkdirTemp("", "stranger") //nolint:usetesting
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o500); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, path} {
		if err := os.Chown(p, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	return harness.StartTargetEnv(t, []string{"OTEL_SERVICE_NAME=" + name}, "setpriv",
		fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups", "--inh-caps=-all", path)
}

// privileges of each of a process's threads, each different one once.
func privileges(t *testing.T, pid int) (caps, noNewPrivs []string) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) < 2 {
		t.Fatalf("threads of %d: %v, %v", pid, files, err)
	}
	c, n := map[string]bool{}, map[string]bool{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(data)) {
			switch f := strings.Fields(line); f[0] {
			case "CapPrm:", "CapEff:":
				c[f[1]] = true
			case "NoNewPrivs:":
				n[f[1]] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(c)), slices.Sorted(maps.Keys(n))
}

// TestPrivileges: an agent that was started with every capability keeps those that the
// chart and the service unit give it, in every thread, and works on with them: on programs
// of other users, also on those that begin later.
func TestPrivileges(t *testing.T) {
	needs(t)
	chart := chartCapabilities(t)
	var want uint64
	for _, name := range chart {
		want |= 1 << capBits[name]
	}
	unit, err := os.ReadFile(filepath.Join(harness.Root(t), "packaging/tracer-agent.service"))
	if err != nil {
		t.Fatal(err)
	}
	var inUnit []string
	for name := range strings.FieldsSeq(strings.ReplaceAll(regexp.MustCompile(`CapabilityBoundingSet=(.*)`).FindStringSubmatch(string(unit))[1], "CAP_", "")) {
		if name != "SYS_RESOURCE" { // before 5.11, see there
			inUnit = append(inUnit, name)
		}
	}
	if d := cmp.Diff(slices.Sorted(slices.Values(chart)), slices.Sorted(slices.Values(inUnit))); d != "" {
		t.Errorf("chart and service unit differ:\n%s", d)
	}

	src := harness.Build{Dir: "testdata/targets/trivial"}.Path(t)
	early := stranger(t, src, "early")
	agent := harness.StartAgent(t, "--exe", "early", "--exe", "late")
	agent.WaitInstrumented(early.PID)
	caps, noNew := privileges(t, agent.PID())
	if d := cmp.Diff([]string{fmt.Sprintf("%016x", want)}, caps); d != "" {
		t.Errorf("capabilities of the agent's threads:\n%s", d)
	}
	if d := cmp.Diff([]string{"1"}, noNew); d != "" {
		t.Errorf("no_new_privs of the agent's threads:\n%s", d)
	}
	for _, addr := range listening(t, agent.PID()) {
		if addr != "0100007F:210D" { // 127.0.0.1:8461
			t.Errorf("the agent listens on %s", addr)
		}
	}
	late := stranger(t, src, "late")
	agent.WaitInstrumented(late.PID)
	for _, tg := range []*harness.Target{early, late} {
		if s := spanOf(t, tg, agent); s.Res("service.name") != "early" && s.Res("service.name") != "late" {
			t.Errorf("service %q: its environment was not read", s.Res("service.name"))
		}
	}
}

// ability is what an agent with some capabilities can do.
type ability struct {
	Starts  bool // it does not refuse to work
	Spans   bool // of another user's program that only that user may read
	Service bool // the name in the environment of that program
	Held    bool // the executable against writing
	Hits    bool // of probes are counted
}

// TestCapabilities: each capability of the chart is taken away in turn, and what is lost is
// what docs/running.md says. TRACER_CAPABILITIES=1 runs it: it says something about the
// kernel, not about a change, and takes a minute.
func TestCapabilities(t *testing.T) {
	needs(t)
	if os.Getenv("TRACER_CAPABILITIES") == "" {
		t.Skip("TRACER_CAPABILITIES=1 runs it")
	}
	all := chartCapabilities(t)
	without := func(set []string, name string) []string {
		return slices.DeleteFunc(slices.Clone(set), func(s string) bool { return s == name })
	}
	least := without(all, "SYS_ADMIN")
	// CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON, so that those are tried without it.
	for _, c := range []struct {
		name string
		set  []string
		want ability
	}{
		{"all", all, ability{Starts: true, Spans: true, Service: true, Held: true, Hits: true}},
		{"SYS_ADMIN", least, ability{Starts: true, Spans: true, Service: true, Held: true}},
		{"BPF", without(least, "BPF"), ability{}},
		{"PERFMON", without(least, "PERFMON"), ability{}},
		{"SYS_PTRACE", without(least, "SYS_PTRACE"), ability{Starts: true}},
		{"DAC_READ_SEARCH", without(least, "DAC_READ_SEARCH"), ability{Starts: true}},
		{"LEASE", without(least, "LEASE"), ability{Starts: true, Spans: true, Service: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, said := tryCapabilities(t, c.set)
			t.Logf("with %s: %+v; it says: %s", strings.Join(c.set, " "), got, said)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func tryCapabilities(t *testing.T, set []string) (a ability, said string) {
	t.Helper()
	real := harness.AgentPath(t)
	wrap := filepath.Join(t.TempDir(), "agent")
	script := fmt.Sprintf("#!/bin/sh\nexec setpriv --bounding-set=-all,+%s --inh-caps=-all %s \"$@\"\n", strings.ToLower(strings.Join(set, ",+")), real)
	if err := os.WriteFile(wrap, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TRACER_AGENT_BIN", wrap)
	tg := stranger(t, harness.Build{Dir: "testdata/targets/trivial"}.Path(t), "stranger")
	agent := harness.StartAgent(t, "--exe", "stranger")
	last := func() string {
		lines := strings.Split(strings.TrimSpace(agent.Stderr()), "\n")
		return lines[len(lines)-1]
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		switch log := agent.Stderr(); {
		case strings.Contains(log, "not enough privileges"), strings.Contains(log, "tracer-agent: run:"):
			return a, last()
		case strings.Contains(log, `msg="not instrumented"`):
			a.Starts = true
			return a, last()
		case strings.Contains(log, "msg=instrumented"):
			a.Starts = true
			mark := agent.Mark()
			harness.Get(t, tg.URL("/"))
			agent.Await(mark, 1)
			spans := agent.Since(mark)
			a.Spans = len(spans) == 1
			a.Service = a.Spans && spans[0].Res("service.name") == "stranger"
			a.Held = leased(t, agent.PID())
			for name, v := range agent.Metrics() {
				a.Hits = a.Hits || strings.HasPrefix(name, "tracer_agent_probe_hits_total") && v > 0
			}
			return a, last()
		}
	}
	// Which program that process runs cannot be seen, so that it is not chosen.
	a.Starts = strings.Contains(agent.Stderr(), "a capability is missing")
	return a, last()
}

// leased says whether a process holds a lease on any file.
func leased(t *testing.T, pid int) bool {
	t.Helper()
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(locks)) {
		if f := strings.Fields(line); len(f) > 4 && f[1] == "LEASE" && f[4] == strconv.Itoa(pid) {
			return true
		}
	}
	return false
}

// listening are the TCP addresses that a process listens on, as /proc/net/tcp has them.
func listening(t *testing.T, pid int) (out []string) {
	t.Helper()
	sockets := map[string]bool{}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("files of %d: %v, %v", pid, files, err)
	}
	for _, file := range files {
		if to, err := os.Readlink(file); err == nil {
			sockets[to] = true
		}
	}
	for _, name := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			const listen = "0A"
			if f := strings.Fields(line); len(f) > 9 && f[3] == listen && sockets["socket:["+f[9]+"]"] {
				out = append(out, f[1])
			}
		}
	}
	return out
}
