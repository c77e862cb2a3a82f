package kernels

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
	"github.com/tracer-agent/tracer-agent/probes/nethttp"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// dryWrites makes every write into a target's memory do nothing and succeed, so that
// the programs run whole on a kernel that refuses the helper.
func dryWrites(spec *ebpf.CollectionSpec) {
	for _, p := range spec.Programs {
		for i, ins := range p.Instructions {
			if ins.IsBuiltinCall() && asm.BuiltinFunc(ins.Constant) == asm.FnProbeWriteUser {
				p.Instructions[i] = asm.Mov.Imm(asm.R0, 0).WithMetadata(ins.Metadata)
			}
		}
	}
}

// costModes are the ways to hand a trace on that are compared: not at all, as in a
// tracer of single services, by connection, and by a header.
var costModes = []struct {
	name string
	hand probe.Hand
}{
	{"off", 0}, {"join", probe.HandJoin}, {"memory", probe.HandJoin | probe.HandMemory},
}

// TestWriteCost: a header is written at one hit more than it takes to see a call; what
// handing on costs the program per call is logged. Nothing is written, on no kernel: the
// write itself, two copies of at most 70 bytes, is not in the figures. TRACER_COST_ROUNDS
// is how often the modes take turns.
func TestWriteCost(t *testing.T) {
	needs(t)
	const calls = 1000
	rounds := 7
	if v := os.Getenv("TRACER_COST_ROUNDS"); v != "" {
		var err error
		if rounds, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	all := targets(t)
	path := all[len(all)-1].path
	peer := harness.StartTarget(t, exeCopy(t, path))
	spec := must(nethttp.New(nethttp.Config{Join: true, Redact: redact.New(nil)}))
	prepare := spec.Prepare
	spec.Prepare = func(c *ebpf.CollectionSpec) error {
		dryWrites(c)
		return prepare(c)
	}
	manager, err := probe.NewManager(probe.ManagerOptions{
		Specs: []*probe.Spec{spec}, WriteMemory: true, ExactFor: time.Hour, Emit: func(*telemetry.Operation) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	var programs []*harness.Target
	for _, m := range costModes {
		programs = append(programs, startHanding(t, manager, exeCopy(t, path), m.hand))
	}
	burst := func(tg *harness.Target, n int) {
		if got := harness.Get(t, tg.URL(fmt.Sprintf("/burst?n=%d&c=1&url=%s", n, peer.URL("/plain")))); got != strconv.Itoa(n) {
			t.Fatalf("%s of %d calls succeeded", got, n)
		}
	}
	for _, tg := range programs {
		burst(tg, 200)
	}
	before := writes(manager)
	cpu, spent := make([][]time.Duration, len(programs)), make([][]time.Duration, len(programs))
	hits := make([]float64, len(programs))
	for range rounds {
		for i, tg := range programs {
			was, ran := cpuOf(t, tg.PID), allRuns(manager)
			burst(tg, calls)
			cpu[i] = append(cpu[i], (cpuOf(t, tg.PID)-was)/calls)
			run := allRuns(manager)
			spent[i] = append(spent[i], (run.Time-ran.Time)/calls)
			hits[i] += float64(run.Hits-ran.Hits) / float64(rounds*calls)
		}
	}
	after := writes(manager)
	if n := int(after.Hits - before.Hits); n != rounds*calls {
		t.Errorf("%d hits to write into %d calls, want one each", n, rounds*calls)
	}
	t.Logf("in the program that writes: %v per call", (after.Time-before.Time)/time.Duration(rounds*calls))
	result := ""
	for i, m := range costModes {
		added := make([]time.Duration, rounds)
		for r := range added {
			added[r] = cpu[i][r] - cpu[0][r]
		}
		slices.Sort(added)
		sorted := slices.Sorted(slices.Values(cpu[i]))
		t.Logf("%s: %v of CPU per call of the program, %v more than off (from %v to %v), medians of %d rounds of %d calls", m.name,
			sorted[rounds/2], added[rounds/2], added[0], added[rounds-1], rounds, calls)
		ran := slices.Sorted(slices.Values(spent[i]))
		t.Logf("%s: of that %v in the agent's programs (quartiles %v and %v, least %v), %.2f hits", m.name,
			ran[rounds/2], ran[rounds/4], ran[rounds*3/4], ran[0], hits[i])
		result += fmt.Sprintf("%s %d %d\n", m.name, sorted[rounds/2].Nanoseconds(), added[rounds/2].Nanoseconds())
	}
	if file := os.Getenv("TRACER_COST_RESULT"); file != "" {
		if err := os.WriteFile(file, []byte(result), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// startHanding starts a program that the manager watches, with a way to hand traces on.
func startHanding(t *testing.T, manager *probe.Manager, path string, hand probe.Hand) *harness.Target {
	t.Helper()
	tg := harness.StartTarget(t, path)
	exe := fmt.Sprintf("/proc/%d/exe", tg.PID)
	var st unix.Stat_t
	if err := unix.Stat(exe, &st); err != nil {
		t.Fatal(err)
	}
	a, err := manager.Attach(t.Context(), probe.ExeRef{Dev: unix.Major(st.Dev)<<20 | unix.Minor(st.Dev), Ino: st.Ino, Path: exe})
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.AddProcess(telemetry.ProcessKey{PID: int32(tg.PID), StartNs: 1}, 0, a, hand); err != nil {
		t.Fatal(err)
	}
	return tg
}

// allRuns is what the kernel counted for all programs together.
func allRuns(m *probe.Manager) (sum probe.PointStats) {
	counted := map[string]bool{} // one program may be on several points
	for _, s := range m.Stats() {
		if !counted[s.Program] {
			counted[s.Program] = true
			sum.Hits, sum.Time = sum.Hits+s.Hits, sum.Time+s.Time
		}
	}
	return sum
}

// writes is what the kernel counted for the program that writes into HTTP/1 requests.
func writes(m *probe.Manager) probe.PointStats {
	for _, s := range m.Stats() {
		if s.Program == "nh_write_h1" {
			return s
		}
	}
	return probe.PointStats{}
}

// cpuOf is the time that a process's threads have run; Go keeps its threads.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	var sum time.Duration
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, task.Name()))
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := bytes.Cut(b, []byte(" "))
		ns, err := strconv.ParseInt(string(first), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}
