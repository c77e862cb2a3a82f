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

// TestWriteCost: each HTTP/1 call is written into at one hit more than it takes to see
// it; what that costs is logged. Nothing is written, on no kernel: the write itself,
// two copies of at most 70 bytes, is not in the figures.
func TestWriteCost(t *testing.T) {
	needs(t)
	n := 2000
	if v := os.Getenv("TRACER_COST_CALLS"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	all := targets(t)
	path := all[len(all)-1].path
	peer := harness.StartTarget(t, exeCopy(t, path))
	const rounds = 3
	cpu := map[bool][]time.Duration{}
	for range rounds {
		for _, write := range []bool{false, true} {
			cpu[write] = append(cpu[write], costOf(t, exeCopy(t, path), peer, n, write))
		}
	}
	for _, d := range cpu {
		slices.Sort(d)
	}
	t.Logf("CPU of the program per call, %d rounds of %d calls, sorted: seen %v, seen and written into %v", rounds, n, cpu[false], cpu[true])
	t.Logf("writing adds %v at the median, %v at the least", cpu[true][rounds/2]-cpu[false][rounds/2], cpu[true][0]-cpu[false][0])
}

// costOf is the CPU time per call of a program of its own that makes n calls to peer.
func costOf(t *testing.T, path string, peer *harness.Target, n int, write bool) time.Duration {
	t.Helper()
	tg := harness.StartTarget(t, path)
	defer tg.Stop()
	spec := must(nethttp.New(nethttp.Config{Join: true, Redact: redact.New(nil)}))
	prepare := spec.Prepare
	spec.Prepare = func(c *ebpf.CollectionSpec) error {
		dryWrites(c)
		return prepare(c)
	}
	manager, err := probe.NewManager(probe.ManagerOptions{
		Specs: []*probe.Spec{spec}, WriteMemory: write, Emit: func(*telemetry.Operation) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	exe := fmt.Sprintf("/proc/%d/exe", tg.PID)
	var st unix.Stat_t
	if err := unix.Stat(exe, &st); err != nil {
		t.Fatal(err)
	}
	a, err := manager.Attach(t.Context(), probe.ExeRef{Dev: unix.Major(st.Dev)<<20 | unix.Minor(st.Dev), Ino: st.Ino, Path: exe})
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.AddProcess(telemetry.ProcessKey{PID: int32(tg.PID), StartNs: 1}, 0, a, probe.HandJoin|probe.HandMemory); err != nil {
		t.Fatal(err)
	}
	burst := func(n int) {
		if got := harness.Get(t, tg.URL(fmt.Sprintf("/burst?n=%d&c=1&url=%s", n, peer.URL("/plain")))); got != strconv.Itoa(n) {
			t.Fatalf("%s of %d calls succeeded", got, n)
		}
	}
	burst(100)
	was := writes(manager)
	before := cpuOf(t, tg.PID)
	burst(n)
	took := cpuOf(t, tg.PID) - before
	now := writes(manager)
	added := now.Hits - was.Hits
	if write {
		t.Logf("in the programs that write: %v per call", (now.Time-was.Time)/time.Duration(n))
	}
	want := 0
	if write {
		want = n
	}
	if int(added) != want {
		t.Errorf("%d hits to write into %d calls, want %d", added, n, want)
	}
	return took / time.Duration(n)
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
