package goruntime

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// program is a running testdata/targets/runtimestats.
type program struct {
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Scanner
}

func start(t *testing.T, path string, env ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(path)}
	p.cmd.Env = append(p.cmd.Environ(), env...)
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("the program came to harm: %v", err)
		}
	})
	if !p.out.Scan() {
		t.Fatal("no ready line")
	}
	return p
}

// ask lets the program allocate n times, and returns what it says of itself.
func (p *program) ask(t *testing.T, n int) map[string]uint64 {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, n); err != nil || !p.out.Scan() {
		t.Fatalf("the program does not answer: %v", err)
	}
	m := map[string]uint64{}
	if err := json.Unmarshal(p.out.Bytes(), &m); err != nil {
		t.Fatal(err)
	}
	m["used"] = m["/memory/classes/total:bytes"] - m["/memory/classes/heap/released:bytes"]
	return m
}

// values reads a process through the source, as the metrics' store does.
func values(t *testing.T, pid int) (v map[string]uint64, log string) {
	t.Helper()
	var b strings.Builder
	s := New(slog.New(slog.NewTextHandler(&b, nil)))
	read, _ := s.Open(telemetry.ProcessKey{PID: int32(pid), StartNs: 1})
	v = map[string]uint64{}
	read(func(i *telemetry.Instrument, value float64, a attribute.Set) {
		if i == gcPause {
			value *= 1e9
		}
		v[i.Name+a.Encoded(attribute.DefaultEncoder())] = uint64(value + 0.5)
	})
	histograms, _ := s.OpenDistributions(telemetry.ProcessKey{PID: int32(pid), StartNs: 1})
	histograms(func(i *telemetry.Instrument, d telemetry.Distribution) {
		for n, c := range d.Counts {
			v[fmt.Sprintf("%s#%d", i.Name, n+lowBound)] = c
		}
		v[i.Name+" us"] = uint64(d.Sum * 1e6)
	})
	return v, b.String()
}

// releases are one or two of every supported minor.
var releases = []string{
	"1.18", "1.18.10", "1.19.13", "1.20.14", "1.21.13", "1.22.12", "1.23.12", "1.24.13", "1.25.14", harness.Newest, "1.27.4",
}

// builds are what is tried: stripped of every release, the other ways of one.
func builds() []harness.Build {
	b := []harness.Build{{}, {Mode: harness.PIE}, {Mode: harness.NoDWARF}, {Mode: harness.CGO}, {Go: "1.18.10"}, {Go: "1.27.4"}}
	for _, v := range releases {
		b = append(b, harness.Build{Go: v, Mode: harness.Stripped})
	}
	return b
}

// TestAgreesWithTheProgram compares what is read from outside with what the program's
// own runtime/metrics says before and after, for every release that is supported.
func TestAgreesWithTheProgram(t *testing.T) {
	for _, build := range builds() {
		t.Run(build.Go+string(build.Mode), func(t *testing.T) {
			build.Dir = "testdata/targets/runtimestats"
			p := start(t, build.Path(t))
			for _, n := range []int{10, 100_000, 0} {
				before := p.ask(t, n)
				got, log := values(t, p.cmd.Process.Pid)
				after := p.ask(t, 0)
				if log != "" {
					t.Fatal(log)
				}
				compare(t, build, got, before, after)
			}
		})
	}
}

func compare(t *testing.T, build harness.Build, got, before, after map[string]uint64) {
	t.Helper()
	for name, own := range map[string]string{
		"go.goroutine.count": "/sched/goroutines:goroutines", "go.processor.limit": "procs",
		"go.memory.gc.goal": "/gc/heap/goal:bytes", "go.memory.allocated": "/gc/heap/allocs:bytes",
		"go.memory.allocations": "/gc/heap/allocs:objects", "go.memory.gc.cycles": "/gc/cycles/total:gc-cycles",
		"go.memory.heap.objects.size":             "/memory/classes/heap/objects:bytes",
		"go.memory.used" + "go.memory.type=stack": "/memory/classes/heap/stacks:bytes", "go.memory.gc.pause.time": "pause",
	} {
		low, high := min(before[own], after[own]), max(before[own], after[own])
		if strings.HasPrefix(build.Go, "1.18") && (strings.Contains(name, "alloc") || strings.Contains(name, "heap")) {
			if _, ok := got[name]; ok {
				t.Errorf("%s is shown, which 1.18 does not count well", name)
			}
			continue
		}
		if v, ok := got[name]; !ok || v < low || v > high {
			t.Errorf("%s is %d (read: %v), the program says %d, then %d", name, v, ok, before[own], after[own])
		}
	}
	for name, own := range map[string]string{"go.schedule.duration": "/sched/latencies:seconds", "go.memory.gc.pause.duration": "/gc/pauses:seconds"} {
		total := uint64(0)
		for n := lowBound; n <= highBound+1; n++ {
			at := fmt.Sprintf("#%d", n)
			v, ok := got[name+at]
			if total += v; !ok || v < before[own+at] || v > after[own+at] {
				t.Errorf("%s has %d below 2^%d ns (read: %v), the program says %d, then %d", name, v, n, ok, before[own+at], after[own+at])
			}
		}
		if us := got[name+" us"]; total == 0 || us == 0 || us > 1e6*total {
			t.Errorf("%s: %d times, %d us in all", name, total, us)
		}
	}
	used := got["go.memory.used"+"go.memory.type=stack"] + got["go.memory.used"+"go.memory.type=other"]
	// The scavenger gives memory back meanwhile, and telling takes some.
	const slack = 512 << 10
	if low, high := min(before["used"], after["used"])-slack, max(before["used"], after["used"])+slack; used < low || used > high {
		t.Errorf("used are %d bytes, the program says %d, then %d", used, before["used"], after["used"])
	}
	if got["go.config.gogc"] != 100 {
		t.Errorf("GOGC is %d, want 100", got["go.config.gogc"])
	}
}

// TestSettings: what a user sets of the collector is shown, and what follows from it is not
// guessed. Together with what is compared above these are all metrics.
func TestSettings(t *testing.T) {
	shown := map[string]bool{}
	for _, c := range []struct {
		env    []string
		want   map[string]uint64
		absent []string
	}{
		{[]string{"GOGC=50", "GOMAXPROCS=3"}, map[string]uint64{"go.config.gogc": 50, "go.processor.limit": 3}, []string{"go.memory.limit"}},
		{[]string{"GOMEMLIMIT=1GiB"}, map[string]uint64{"go.memory.limit": 1 << 30, "go.config.gogc": 100}, []string{"go.memory.gc.goal"}},
		{[]string{"GOGC=off"}, nil, []string{"go.config.gogc", "go.memory.gc.goal", "go.memory.limit"}},
	} {
		for _, build := range []harness.Build{{}, {Mode: harness.Stripped}, {Mode: harness.Stripped, Go: "1.19.13"}} {
			build.Dir = "testdata/targets/runtimestats"
			got, log := values(t, start(t, build.Path(t), c.env...).cmd.Process.Pid)
			if log != "" {
				t.Fatal(log)
			}
			for name := range got {
				name, _, _ = strings.Cut(name, "#")
				shown[strings.TrimSuffix(strings.TrimSuffix(name, " us"), "go.memory.type=stack")] = true
			}
			for name, want := range c.want {
				if v, ok := got[name]; !ok || v != want {
					t.Errorf("%v %v: %s is %d (read: %v), want %d", build, c.env, name, v, ok, want)
				}
			}
			for _, name := range c.absent {
				if v, ok := got[name]; ok {
					t.Errorf("%v %v: %s is %d, want none", build, c.env, name, v)
				}
			}
		}
	}
	for _, i := range Instruments() {
		if !shown[i.Name] {
			t.Errorf("%s is never shown", i.Name)
		}
	}
}

// A release that has not been measured is refused, and the log says so.
func TestRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "future")
	data, err := os.ReadFile(harness.Build{Dir: "testdata/targets/runtimestats", Mode: harness.Stripped}.Path(t))
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace("go"+harness.Newest, "go1.2", "go1.9", 1)
	data = bytes.ReplaceAll(data, []byte("go"+harness.Newest), []byte(other))
	if err := os.WriteFile(path, data, 0o700); err != nil {
		t.Fatal(err)
	}
	got, log := values(t, start(t, path).cmd.Process.Pid)
	if len(got) > 0 || strings.Count(log, "runtime metrics are not read") != 1 || !strings.Contains(log, other[len("go"):]) {
		t.Errorf("read %v of %s; the log says: %s", got, other, log)
	}
}

// Values that cannot be are not shown, and say so after a while.
func TestImplausible(t *testing.T) {
	p := start(t, harness.Build{Dir: "testdata/targets/runtimestats"}.Path(t))
	exe, err := goexe.Open(p.cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	l, err := layoutOf(exe)
	if err != nil {
		t.Fatal(err)
	}
	for name, break_ := range map[string]func(l *layout){
		"other memory":   func(l *layout) { l.mstats += 1 << 13 },
		"GOMAXPROCS":     func(l *layout) { l.gomaxprocs = l.mstats },
		"unmapped":       func(l *layout) { l.sched = 8 },
		"another struct": func(l *layout) { l.controller, l.mstats = l.mstats, l.controller },
	} {
		bad := *l
		break_(&bad)
		if v, err := newReader(&bad, p.cmd.Process.Pid, 0).read(); err == nil {
			t.Errorf("%s: read %+v", name, v)
		} else if !errors.Is(err, errImplausible) && !strings.Contains(err.Error(), "read memory of process") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	exe := harness.Build{Dir: "testdata/targets/runtimestats"}.Path(b)
	cmd := exec.Command(exe)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	bufio.NewScanner(out).Scan()
	s := New(slog.New(slog.DiscardHandler))
	id, err := s.exe(cmd.Process.Pid)
	if err != nil {
		b.Fatal(err)
	}
	r, err := s.reader(cmd.Process.Pid, id)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := r.read(); err != nil {
			b.Fatal(err)
		}
	}
}
