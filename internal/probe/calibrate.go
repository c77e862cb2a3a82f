package probe

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
)

// trapCosts is what a breakpoint costs the program that runs into it, by the class of its
// instruction, without the BPF program itself, whose time the kernel counts.
type trapCosts struct {
	emulated, trampoline, stepped time.Duration
	measured                      bool // here, not where ADR 2 was
}

// knownTraps are those of docs/adr/0002-where-probes-sit.md.
var knownTraps = trapCosts{emulated: 1200 * time.Nanosecond, trampoline: 560 * time.Nanosecond, stepped: 14 * time.Microsecond}

func (t *trapCosts) of(c goexe.Class) time.Duration {
	switch c {
	case goexe.ClassEmulated:
		return t.emulated
	case goexe.ClassTrampoline:
		return t.trampoline
	default:
		return t.stepped
	}
}

// What is measured: rounds of calls, of which the median counts, because the agent may be
// preempted in some. Together some hundred hits, about 2 ms.
const (
	trapRounds = 15
	trapCalls  = 8
	// trapLeast and trapMost bound what is believed.
	trapLeast = 50 * time.Nanosecond
	trapMost  = 200 * time.Microsecond
)

// trapped is the function whose breakpoints are measured. It has a frame because it calls
// another, and so the instruction that the kernel emulates.
//
//go:noinline
func trapped(n int) int { return untrapped(n) + 1 }

//go:noinline
func untrapped(n int) int { return n + 1 }

// measureTraps puts breakpoints on a function of the agent itself and runs into them. The
// trampoline, which needs an instruction that the compiler does not make, is taken to be
// as much cheaper than an emulated one as it was where both were measured.
func measureTraps(multi bool) (t trapCosts, err error) {
	const self = "/proc/self/exe"
	exe, err := goexe.Open(self)
	if err != nil {
		return t, err
	}
	defer exe.Close()
	const name = "github.com/tracer-agent/tracer-agent/internal/probe.trapped"
	cheap, err := exe.EntryPointArgs(name, 1)
	if err != nil {
		return t, err
	}
	f, ok := exe.Func(name)
	if !ok || cheap.Class != goexe.ClassEmulated || cheap.Addr == f.Addr {
		return t, errors.New("measure traps: the agent has no function with both kinds of instructions")
	}
	first, err := exe.FileOffset(f.Addr)
	if err != nil {
		return t, err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "tr_trap", Type: ebpf.Kprobe, AttachType: attachType(multi), License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return t, fmt.Errorf("measure traps: %w", err)
	}
	defer prog.Close()
	target, err := link.OpenExecutable(self)
	if err != nil {
		return t, err
	}
	bare := callCost()
	if t.emulated, err = trapAt(target, prog, cheap.Offset, multi, bare); err != nil {
		return t, err
	}
	if t.stepped, err = trapAt(target, prog, first, multi, bare); err != nil {
		return t, err
	}
	t.trampoline = t.emulated * knownTraps.trampoline / knownTraps.emulated
	t.measured = true
	return t, nil
}

func attachType(multi bool) ebpf.AttachType {
	if multi {
		return ebpf.AttachTraceUprobeMulti
	}
	return ebpf.AttachNone
}

// trapAt is what a breakpoint at a file offset adds to a call.
func trapAt(target *link.Executable, prog *ebpf.Program, offset uint64, multi bool, bare time.Duration) (time.Duration, error) {
	l, err := uprobe(target, prog, offset, multi)
	if err != nil {
		return 0, fmt.Errorf("measure traps: %w", err)
	}
	cost := callCost() - bare
	if err := l.Close(); err != nil {
		return 0, fmt.Errorf("measure traps: %w", err)
	}
	if cost < trapLeast || cost > trapMost {
		return 0, fmt.Errorf("measure traps: a trap is said to take %v", cost)
	}
	return cost, nil
}

// callCost is the median cost of a call of trapped.
func callCost() time.Duration {
	var rounds [trapRounds]time.Duration
	n := 0
	for i := range rounds {
		began := time.Now()
		for range trapCalls {
			n = trapped(n)
		}
		rounds[i] = time.Since(began) / trapCalls
	}
	slices.Sort(rounds[:])
	return rounds[trapRounds/2]
}

// calibrate measures what traps cost on this machine; until then, and when that fails,
// the known costs hold.
func (m *Manager) calibrate() {
	t, err := measureTraps(m.multi)
	if err != nil {
		m.log.Debug("the cost of traps is not measured", "err", err)
		return
	}
	m.traps.Store(&t)
}

func (m *Manager) registerTraps() {
	m.traps.Store(&knownTraps)
	m.opts.Metrics.Func("tracer_agent_probe_trap_seconds",
		"What a breakpoint costs a program, by the class of its instruction: measured when the agent started, or assumed.",
		selfmetrics.KindGauge, func(emit selfmetrics.Emit) {
			t := m.traps.Load()
			source := "assumed"
			if t.measured {
				source = "measured"
			}
			for class, cost := range map[string]time.Duration{"emulated": t.emulated, "trampoline": t.trampoline, "stepped": t.stepped} {
				emit(cost.Seconds(), selfmetrics.L("class", class), selfmetrics.L("source", source))
			}
		})
}
