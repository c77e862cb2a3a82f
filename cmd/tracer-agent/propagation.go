package main

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/kernel"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// propagation is how traces are handed on here: what was asked for, and what of it this
// kernel allows.
type propagation struct {
	mode               string
	noMemory, noKernel error // why not; nil: allowed, or not asked for
}

func newPropagation(mode string, log *slog.Logger) *propagation {
	p := &propagation{mode: mode}
	if mode == config.PropagateAuto || mode == config.PropagateMemory {
		p.noMemory = kernel.MayWriteUser()
	}
	if mode == config.PropagateMemory && p.noMemory != nil {
		log.Warn("propagation mode memory is not possible on this kernel; traces go on by connection only",
			"error", p.noMemory)
	}
	return p
}

// memory says whether headers are written into the programs' memory.
func (p *propagation) memory() bool {
	return (p.mode == config.PropagateAuto || p.mode == config.PropagateMemory) && p.noMemory == nil
}

// describe says which modes are in force for a process, in the order in which they are
// tried, and why these.
func (p *propagation) describe(at *probe.Propagation) (mode, why string) {
	var modes []string
	because := []string{"mode is " + p.mode}
	switch {
	case p.memory() && len(at.Written) > 0:
		modes = append(modes, "memory")
		because = append(because, "written into requests of "+strings.Join(at.Written, ", "))
	case p.memory():
		because = append(because, "no request of this program can be written into")
	case p.noMemory != nil:
		because = append(because, "no memory: "+oneLine(p.noMemory))
	}
	if p.memory() {
		for _, err := range at.Refused {
			because = append(because, "not written: "+oneLine(err))
		}
	}
	switch {
	case p.mode == config.PropagateOff:
	case at.Joined:
		modes = append(modes, "join")
	default:
		because = append(because, "no join: where connections are kept is not known for this program")
	}
	if p.mode == config.PropagateKernel {
		if p.noKernel == nil {
			modes = append(modes, "kernel")
		} else {
			because = append(because, fmt.Sprintf("no kernel: %s", oneLine(p.noKernel)))
		}
	}
	if len(modes) == 0 {
		modes = append(modes, "none")
	}
	return strings.Join(modes, ","), strings.Join(because, "; ")
}
