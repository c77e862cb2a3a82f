package kernel

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
)

// Names of features that code asks for.
const (
	BTF           = "btf"
	RingBuffer    = "ring_buffer"
	RawTracepoint = "raw_tracepoint"
	TaskIterator  = "task_iterator"
	Uprobe        = "uprobe"
	UprobeMulti   = "uprobe_multi"
	UprobeCookie  = "uprobe_cookie"
	TPBTF         = "tp_btf"
	FindVMA       = "bpf_find_vma"
	Loop          = "bpf_loop"
	WriteUser     = "bpf_probe_write_user"
	SockOps       = "sock_ops"
	SkMsg         = "sk_msg"
	Kprobe        = "kprobe"
	Fentry        = "fentry"
)

type entry struct {
	Feature
	try func() error
	// cheap: without waiting in the kernel; part of Preflight if required.
	cheap bool
}

// table is in the order in which check prints.
var table = []entry{
	{Feature{
		Name: BTF, MinKernel: "5.4", Need: Required,
		Use:     "find the fields of kernel structures on this kernel",
		Missing: "nothing works: use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
	}, tryBTF, true},
	{Feature{
		Name: RingBuffer, MinKernel: "5.8", Need: Required,
		Use: "records from kernel to agent", Missing: "nothing works",
	}, func() error { return features.HaveMapType(ebpf.RingBuf) }, true},
	{Feature{
		Name: RawTracepoint, MinKernel: "4.17", Need: Required,
		Use: "hear of processes that begin, end and listen", Missing: "nothing works",
	}, tryRawTracepoint, true},
	{Feature{
		Name: TaskIterator, MinKernel: "5.8", Need: Required,
		Use: "list the processes that run already", Missing: "nothing works",
	}, tryTaskIterator, true},
	{Feature{
		Name: UprobeMulti, MinKernel: "6.6", Need: OneOf,
		Use:     "attach all probes of an executable at once, and let go of them fast",
		Missing: "uprobe is used: the same cost per hit, slower to attach and to end",
	}, tryUprobeMulti, false},
	{Feature{
		Name: Uprobe, MinKernel: "4.17", Need: OneOf,
		Use: "attach probes where uprobe_multi is missing", Missing: "does not matter where uprobe_multi works",
	}, func() error { return tryUprobe(0) }, false},
	{Feature{
		Name: UprobeCookie, MinKernel: "5.15", Need: Unused,
		Use: "nothing", Missing: "does not matter: executables are told apart by process",
	}, func() error { return tryUprobe(1) }, false},
	{Feature{
		Name: TPBTF, MinKernel: "5.5", Need: Better,
		Use: "hear of exec with typed arguments", Missing: "raw_tracepoint is used",
	}, tryTPBTF, true},
	{Feature{
		Name: FindVMA, MinKernel: "5.17", Need: Better,
		Use:     "know one executable in several containers (overlayfs) as the same",
		Missing: "containers of one image are treated as different executables",
	}, helper(asm.FnFindVma), true},
	{Feature{
		Name: Loop, MinKernel: "5.17", Need: Better,
		Use: "propagation mode kernel: look for the end of a request's header", Missing: "no mode kernel",
	}, helper(asm.FnLoop), true},
	{Feature{
		Name: WriteUser, MinKernel: "4.8", Need: Better,
		Use: "propagation mode memory: write the trace id into outgoing requests",
		Missing: "traces go on by connection (mode join) where both ends run on this host and are watched, " +
			"and end at this host's edge; lockdown (Secure Boot) switches the helper off on purpose",
	}, tryWriteUser, true},
	{Feature{
		Name: SockOps, MinKernel: "4.13", Need: Better,
		Use: "propagation mode kernel: see connections that a watched process opens", Missing: "no mode kernel",
	}, func() error { return features.HaveProgramType(ebpf.SockOps) }, true},
	{Feature{
		Name: SkMsg, MinKernel: "4.17", Need: Better,
		Use: "propagation mode kernel: put the trace id into plaintext HTTP/1 requests", Missing: "no mode kernel",
	}, func() error { return features.HaveProgramType(ebpf.SkMsg) }, true},
	{Feature{
		Name: Kprobe, MinKernel: "4.1", Need: Unused,
		Use: "nothing", Missing: "does not matter",
	}, tryKprobe, false},
	{Feature{
		Name: Fentry, MinKernel: "5.5", Need: Unused,
		Use: "nothing", Missing: "does not matter",
	}, tryFentry, false},
}

func tryBTF() error {
	if _, err := btf.LoadKernelSpec(); err != nil {
		return fmt.Errorf("/sys/kernel/btf/vmlinux: %w", err)
	}
	return nil
}

// helper asks the verifier for a helper function in a program such as ours.
func helper(fn asm.BuiltinFunc) func() error {
	return func() error { return features.HaveProgramHelper(ebpf.RawTracepoint, fn) }
}

// load loads a program that does first and returns 0; the caller closes it.
func load(spec ebpf.ProgramSpec, first ...asm.Instruction) (*ebpf.Program, error) {
	spec.License = "GPL"
	spec.Instructions = append(first, asm.Mov.Imm(asm.R0, 0), asm.Return())
	prog, err := ebpf.NewProgram(&spec)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return prog, nil
}

// attach loads a program, attaches it and takes both away again.
func attach(spec ebpf.ProgramSpec, to func(*ebpf.Program) (link.Link, error)) error {
	prog, err := load(spec)
	if err != nil {
		return err
	}
	defer prog.Close()
	l, err := to(prog)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return l.Close()
}

const anyTracepoint = "sched_process_exec"

func tryRawTracepoint() error {
	return attach(ebpf.ProgramSpec{Type: ebpf.RawTracepoint}, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachRawTracepoint(link.RawTracepointOptions{Name: anyTracepoint, Program: p})
	})
}

func tryTPBTF() error {
	spec := ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: anyTracepoint}
	return attach(spec, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachTracing(link.TracingOptions{Program: p})
	})
}

func tryTaskIterator() error {
	spec := ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "task"}
	return attach(spec, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachIter(link.IterOptions{Program: p})
	})
}

func tryUprobe(cookie uint64) error {
	exe, offset, err := ownTarget()
	if err != nil {
		return err
	}
	return attach(ebpf.ProgramSpec{Type: ebpf.Kprobe}, func(p *ebpf.Program) (link.Link, error) {
		return exe.Uprobe("", p, &link.UprobeOptions{Address: offset, Cookie: cookie})
	})
}

func tryUprobeMulti() error {
	exe, offset, err := ownTarget()
	if err != nil {
		return err
	}
	spec := ebpf.ProgramSpec{Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceUprobeMulti}
	return attach(spec, func(p *ebpf.Program) (link.Link, error) {
		return exe.UprobeMulti(nil, p, &link.UprobeMultiOptions{Addresses: []uint64{offset}})
	})
}

// anyFunction is exported by every kernel we run on and rarely called.
const anyFunction = "vprintk"

func tryKprobe() error {
	return attach(ebpf.ProgramSpec{Type: ebpf.Kprobe}, func(p *ebpf.Program) (link.Link, error) {
		return link.Kprobe(anyFunction, p, nil)
	})
}

func tryFentry() error {
	spec := ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceFEntry, AttachTo: anyFunction}
	return attach(spec, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachTracing(link.TracingOptions{Program: p})
	})
}

// MayWriteUser returns why the kernel does not allow bpf_probe_write_user, nil if it
// does. Lockdown switches the helper off.
func MayWriteUser() error { return tryWriteUser() }

// tryWriteUser loads, and never runs, bpf_probe_write_user(NULL, stack, 1).
func tryWriteUser() error {
	prog, err := load(ebpf.ProgramSpec{Type: ebpf.Kprobe},
		asm.Mov.Imm(asm.R3, 0),
		asm.StoreMem(asm.RFP, -8, asm.R3, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -8),
		asm.Mov.Imm(asm.R1, 0),
		asm.Mov.Imm(asm.R3, 1),
		asm.FnProbeWriteUser.Call(),
	)
	if verr := (*ebpf.VerifierError)(nil); errors.As(err, &verr) {
		return fmt.Errorf("the verifier refuses the helper: %w", err)
	} else if err != nil {
		return err
	}
	return prog.Close()
}
