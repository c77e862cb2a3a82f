package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

func TestPropagations(t *testing.T) {
	locked := errors.New("locked down")
	all := propagations{}
	for _, p := range []*propagation{
		{mode: config.PropagateAuto}, {mode: config.PropagateMemory, noMemory: locked}, {mode: config.PropagateKernel}, {mode: config.PropagateOff},
	} {
		all[p.mode] = p
	}
	for mode, want := range map[string]probe.Hand{
		config.PropagateAuto: probe.HandJoin | probe.HandMemory, config.PropagateMemory: probe.HandJoin,
		config.PropagateKernel: probe.HandJoin | probe.HandKernel, config.PropagateOff: 0,
		config.PropagateJoin: probe.HandJoin, // it comes with a reload
	} {
		if got := all.of(mode).Hand(); got != want {
			t.Errorf("%s: %b, want %b", mode, got, want)
		}
	}
	late := propagations{config.PropagateJoin: {mode: config.PropagateJoin}}
	for _, mode := range []string{config.PropagateMemory, config.PropagateKernel} {
		if got := late.of(mode).Hand(); got != probe.HandJoin {
			t.Errorf("%s, which was not loaded at the start: %b, want %b", mode, got, probe.HandJoin)
		}
	}
	if !all.memory() || late.memory() {
		t.Error("memory is wanted where one of them is allowed to write, and only there")
	}
	all.refuseKernel(errors.New("FIONREAD not proven"))
	if got := all.of(config.PropagateKernel).Hand(); got != probe.HandJoin {
		t.Errorf("kernel mode refused: %b, want %b", got, probe.HandJoin)
	}
}

func TestDescribePropagation(t *testing.T) {
	locked, unproven := errors.New("locked down"), errors.New("FIONREAD not proven")
	all := &probe.Propagation{Written: []string{"HTTP/1", "HTTP/2"}, Joined: true}
	for _, c := range []struct {
		name string
		p    propagation
		at   *probe.Propagation
		mode string
		why  []string
	}{
		{"auto", propagation{mode: config.PropagateAuto}, all, "memory,join", []string{"mode is auto", "HTTP/1, HTTP/2"}},
		{"auto, locked down", propagation{mode: config.PropagateAuto, noMemory: locked}, all, "join", []string{"no memory: locked down"}},
		{"memory, locked down", propagation{mode: config.PropagateMemory, noMemory: locked}, all, "join", []string{"mode is memory", "locked down"}},
		{"a program that is only partly known", propagation{mode: config.PropagateMemory},
			&probe.Propagation{Written: []string{"HTTP/1"}, Refused: []error{errors.New("HTTP/2: too old")}}, "memory",
			[]string{"written into requests of HTTP/1;", "not written: HTTP/2: too old", "no join"}},
		{"a program without calls", propagation{mode: config.PropagateAuto}, &probe.Propagation{Joined: true}, "join",
			[]string{"no request of this program can be written into"}},
		{"join", propagation{mode: config.PropagateJoin}, all, "join", []string{"mode is join"}},
		{"kernel", propagation{mode: config.PropagateKernel}, all, "join,kernel", []string{"mode is kernel"}},
		{"kernel refused", propagation{mode: config.PropagateKernel, noKernel: unproven}, all, "join", []string{"no kernel: FIONREAD"}},
		{"off", propagation{mode: config.PropagateOff}, &probe.Propagation{}, "none", []string{"mode is off"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			mode, why := c.p.Describe(c.at)
			if mode != c.mode {
				t.Errorf("mode %q, want %q", mode, c.mode)
			}
			for _, text := range c.why {
				if !strings.Contains(why, text) {
					t.Errorf("why %q, want %q in it", why, text)
				}
			}
		})
	}
}
