package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
)

// traps puts a program that does nothing where the agent would begin and end a request of p:
// what the kernel takes for two breakpoints, whatever runs in them. It returns what takes
// them off.
func (b *bench) traps(p *proc) (off func(), err error) {
	addrs, err := b.requestPoints(p)
	if err != nil {
		return nil, err
	}
	path := fmt.Sprintf("/proc/%d/exe", p.pid())
	parsed, err := goexe.Open(path)
	if err != nil {
		return nil, err
	}
	defer parsed.Close()
	var offsets []uint64
	for _, a := range addrs {
		at, err := parsed.FileOffset(a)
		if err != nil {
			return nil, err
		}
		offsets = append(offsets, at)
	}
	nothing, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceUprobeMulti, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load a program that does nothing: %w", err)
	}
	defer nothing.Close()
	exe, err := link.OpenExecutable(path)
	if err != nil {
		return nil, err
	}
	l, err := exe.UprobeMulti(nil, nothing, &link.UprobeMultiOptions{Addresses: offsets})
	if err != nil {
		return nil, fmt.Errorf("attach to %s: %w", path, err)
	}
	return func() { l.Close() }, nil
}

// requestPoints asks the agent where a request begins and ends; link-time addresses.
func (b *bench) requestPoints(p *proc) ([]uint64, error) {
	out, err := exec.Command(b.agentPath, "check", "--json", "--pid", strconv.Itoa(p.pid())).Output()
	if err != nil {
		return nil, fmt.Errorf("check --pid %d: %w", p.pid(), err)
	}
	var said struct {
		Process struct {
			Probes []struct {
				Name   string
				Groups []struct {
					Name   string
					Points []struct{ Name, Address string }
				}
			}
		}
	}
	if err := json.Unmarshal(out, &said); err != nil {
		return nil, fmt.Errorf("check --pid %d: %w", p.pid(), err)
	}
	var addrs []uint64
	for _, probe := range said.Process.Probes {
		for _, g := range probe.Groups {
			for _, pt := range g.Points {
				if probe.Name != "nethttp" || g.Name != "server" || pt.Name != "server_start" && pt.Name != "server_end" {
					continue
				}
				a, err := strconv.ParseUint(pt.Address, 0, 64)
				if err != nil {
					return nil, fmt.Errorf("check: point %s: %w", pt.Name, err)
				}
				addrs = append(addrs, a)
			}
		}
	}
	if len(addrs) != 2 {
		return nil, fmt.Errorf("check names %d points of a request, want 2", len(addrs))
	}
	return addrs, nil
}
