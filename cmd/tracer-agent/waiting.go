package main

import (
	"slices"

	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/policy"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// maxHeld bounds the operations that wait for the pods of their processes; what comes
// above that goes without the pod's names.
const maxHeld = 8192

// waiting is a process whose pod is not known yet, with what it has done meanwhile.
type waiting struct {
	p         discover.Process
	policy    *policy.Policy
	at        *probe.Attached
	container string
	ops       []*telemetry.Operation
}

// hold keeps an operation back until its process's pod is known, for as long as the pod
// watcher waits for one (seconds); false: it can go now.
func (d *directory) hold(op *telemetry.Operation) bool {
	if d.pods == nil || op.MetricsOnly {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.waiting[op.Process]
	if w == nil || d.held >= maxHeld {
		return false
	}
	op.Measurements = slices.Clone(op.Measurements) // the memory is the decoder's
	w.ops = append(w.ops, op)
	d.held++
	return true
}

// settle describes the processes again whose pods are decided, and lets their operations go.
func (d *directory) settle(submit func(*telemetry.Operation)) {
	var decided []*waiting
	d.mu.Lock()
	for key, w := range d.waiting {
		if _, known := d.pods.PodOf(w.container); known {
			decided = append(decided, w)
			delete(d.waiting, key)
			d.held -= len(w.ops)
		}
	}
	d.mu.Unlock()
	for _, w := range decided {
		d.describe(w.p, w.policy, w.at)
		for _, op := range w.ops {
			submit(op)
		}
	}
}

// release lets every operation go, because the agent ends.
func (d *directory) release(submit func(*telemetry.Operation)) {
	d.mu.Lock()
	all := d.waiting
	d.waiting, d.held = map[telemetry.ProcessKey]*waiting{}, 0
	d.mu.Unlock()
	for _, w := range all {
		for _, op := range w.ops {
			submit(op)
		}
	}
}
