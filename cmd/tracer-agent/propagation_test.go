package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

func TestPropagations(t *testing.T) {
	all := propagations{
		{mode: config.PropagateAuto}, {mode: config.PropagateMemory, noMemory: errors.New("locked down")},
		{mode: config.PropagateKernel}, {mode: config.PropagateJoin}, {mode: config.PropagateOff},
	}
	want := []probe.Hand{probe.HandJoin | probe.HandMemory, probe.HandJoin, probe.HandJoin | probe.HandKernel, probe.HandJoin, 0}
	for i := range all {
		if got := all.of(i).Hand(); got != want[i] {
			t.Errorf("%s: %b, want %b", all[i].mode, got, want[i])
		}
	}
	if !all.memory() || all[1:].memory() {
		t.Error("memory is wanted where one of them is allowed to write, and only there")
	}
	all.refuseKernel(errors.New("FIONREAD not proven"))
	if got := all.of(2).Hand(); got != probe.HandJoin {
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
