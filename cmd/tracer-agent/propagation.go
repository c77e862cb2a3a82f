package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/kernel"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/supervise"
)

// propagation is how traces of some processes are handed on: what was asked for, and
// what of it this kernel allows.
type propagation struct {
	mode               string
	noMemory, noKernel error // why not; nil: allowed, or not asked for
}

// propagations are those that are in force, by mode. A mode that comes with a reload is
// added by the supervisor's goroutine.
type propagations map[string]*propagation

// errAtStart: what a mode needs is loaded or not when the agent starts.
var errAtStart = errors.New("the mode was not asked for when the agent started; start it again")

func newPropagations(modes []string, log *slog.Logger) propagations {
	writes := func(mode string) bool { return mode == config.PropagateAuto || mode == config.PropagateMemory }
	var noMemory error
	if slices.ContainsFunc(modes, writes) {
		noMemory = kernel.MayWriteUser()
	}
	if slices.Contains(modes, config.PropagateMemory) && noMemory != nil {
		log.Warn("propagation mode memory is not possible on this kernel; traces go on by connection only",
			"error", noMemory)
	}
	all := propagations{}
	for _, mode := range modes {
		p := &propagation{mode: mode}
		if writes(mode) {
			p.noMemory = noMemory
		}
		all[mode] = p
	}
	return all
}

// of returns what holds for processes with this mode.
func (all propagations) of(mode string) supervise.Propagation {
	p := all[mode]
	if p == nil {
		p = &propagation{mode: mode, noKernel: errAtStart}
		if !all.memory() {
			p.noMemory = errAtStart
		}
		all[mode] = p
	}
	return p
}

// memory says whether headers are written into some programs' memory.
func (all propagations) memory() bool {
	for _, p := range all {
		if p.memory() {
			return true
		}
	}
	return false
}

// refuseKernel notes why kernel mode is not possible.
func (all propagations) refuseKernel(why error) {
	for _, p := range all {
		if p.mode == config.PropagateKernel {
			p.noKernel = why
		}
	}
}

// memory says whether headers are written into the programs' memory.
func (p *propagation) memory() bool {
	return (p.mode == config.PropagateAuto || p.mode == config.PropagateMemory) && p.noMemory == nil
}

// Hand says what the programs in the kernel are to do.
func (p *propagation) Hand() (h probe.Hand) {
	if p.mode != config.PropagateOff {
		h |= probe.HandJoin
	}
	if p.memory() {
		h |= probe.HandMemory
	}
	if p.mode == config.PropagateKernel && p.noKernel == nil {
		h |= probe.HandKernel
	}
	return h
}

// Describe says which modes are in force for a process, in the order in which they are
// tried, and why these.
func (p *propagation) Describe(at *probe.Propagation) (mode, why string) {
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
