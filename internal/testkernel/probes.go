package testkernel

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

const ringBufType = ebpf.RingBuf

// load loads a program that returns 0; the caller closes it.
func load(spec ebpf.ProgramSpec, before ...asm.Instruction) (*ebpf.Program, error) {
	spec.License = "GPL"
	spec.Instructions = append(before, asm.Mov.Imm(asm.R0, 0), asm.Return())
	p, err := ebpf.NewProgram(&spec)
	if err != nil {
		return nil, fmt.Errorf("load a %s program: %w", spec.Type, err)
	}
	return p, nil
}

// attach loads the program, attaches it by f and takes both away again.
func attach(spec ebpf.ProgramSpec, f func(*ebpf.Program) (link.Link, error)) error {
	p, err := load(spec)
	if err != nil {
		return err
	}
	defer p.Close()
	l, err := f(p)
	if err != nil {
		return fmt.Errorf("attach a %s program: %w", spec.Type, err)
	}
	return l.Close()
}

// self is this test binary and an offset in it that holds an instruction: the
// ELF entry point's page always does, and nothing runs it twice.
func self() (*link.Executable, uint64, error) {
	ex, err := link.OpenExecutable("/proc/self/exe")
	if err != nil {
		return nil, 0, err
	}
	off, err := textOffset("/proc/self/exe")
	return ex, off, err
}

func probeUprobe() error {
	ex, off, err := self()
	if err != nil {
		return err
	}
	return attach(ebpf.ProgramSpec{Type: ebpf.Kprobe}, func(p *ebpf.Program) (link.Link, error) {
		return ex.Uprobe("", p, &link.UprobeOptions{Address: off})
	})
}

func probeUprobeMulti() error {
	ex, off, err := self()
	if err != nil {
		return err
	}
	spec := ebpf.ProgramSpec{Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceUprobeMulti}
	return attach(spec, func(p *ebpf.Program) (link.Link, error) {
		return ex.UprobeMulti(nil, p, &link.UprobeMultiOptions{Addresses: []uint64{off}})
	})
}

func probeTPBTF() error {
	spec := ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sched_process_exec"}
	return attach(spec, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachTracing(link.TracingOptions{Program: p})
	})
}

func probeRawTracepoint() error {
	return attach(ebpf.ProgramSpec{Type: ebpf.RawTracepoint}, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_process_exec", Program: p})
	})
}

func probeIter() error {
	spec := ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "task"}
	return attach(spec, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachIter(link.IterOptions{Program: p})
	})
}

func probeKprobe() error {
	return attach(ebpf.ProgramSpec{Type: ebpf.Kprobe}, func(p *ebpf.Program) (link.Link, error) {
		return link.Kprobe("vprintk", p, nil)
	})
}

func probeFentry() error {
	spec := ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceFEntry, AttachTo: "vprintk"}
	return attach(spec, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachTracing(link.TracingOptions{Program: p})
	})
}

func probeWriteUser() error {
	p, err := load(ebpf.ProgramSpec{Type: ebpf.Kprobe},
		// bpf_probe_write_user(dst = NULL, src = stack, len = 1): never run, only verified.
		asm.Mov.Imm(asm.R1, 0),
		asm.Mov.Imm(asm.R3, 0),
		asm.StoreMem(asm.RFP, -8, asm.R3, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -8),
		asm.Mov.Imm(asm.R3, 1),
		asm.FnProbeWriteUser.Call(),
	)
	if err != nil {
		return err
	}
	return p.Close()
}

// lockedDown returns the kernel's lockdown mode when it is on, as the reason for
// a refused memory write. Where securityfs is not mounted the verifier's answer
// is the proof: it hides the helper from every program only under lockdown.
func lockedDown() string {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err == nil && !strings.Contains(string(b), "[none]") {
		return "lockdown " + strings.TrimSpace(string(b))
	}
	err = probeWriteUser()
	if errors.Is(err, os.ErrPermission) || err != nil && strings.Contains(err.Error(), "cannot use helper") {
		return "the verifier does not offer the helper: lockdown"
	}
	return ""
}

// refusedByHost says that kernel-function probes are switched off on this host
// although user-space probes work.
func refusedByHost() string {
	if probeUprobe() == nil {
		return "kernel functions cannot be probed although user-space ones can"
	}
	return ""
}
