package pipeline

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// wallClock is a machine whose wall clock can be set.
type wallClock struct{ mono, offset int64 }

func (w *wallClock) read() (mono, wall int64) { return w.mono, w.mono + w.offset }

const (
	ms   = int64(time.Millisecond)
	sec  = int64(time.Second)
	noon = int64(1_800_000_000) * sec
)

func span(traceN int, start, end int64) *telemetry.Operation {
	o := &telemetry.Operation{StartKtimeNs: uint64(start), EndKtimeNs: uint64(end)}
	binary.LittleEndian.PutUint64(o.TraceID[8:], uint64(traceN)+1)
	return o
}

func TestSystemClock(t *testing.T) {
	mono, wall := SystemClock()
	now := time.Now()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	if d := now.UnixNano() - wall; d < 0 || d > sec {
		t.Errorf("wall clock is %v off", time.Duration(d))
	}
	if d := ts.Nano() - mono; d < 0 || d > sec {
		t.Errorf("monotonic clock is %v off", time.Duration(d))
	}
	// Readings of an unmoved clock must not look like steps.
	tl := newTimeline(SystemClock)
	for range 200 {
		tl.observe(tl.measuredNs + remeasureNs)
	}
	if tl.count != 1 {
		t.Errorf("%d offsets after 200 readings of an unmoved clock: %v", tl.count, tl.steps)
	}
}

func TestStepIsFollowed(t *testing.T) {
	for _, by := range []int64{3600 * sec, -3600 * sec, 50 * ms, -50 * ms} {
		w := &wallClock{mono: 100 * sec, offset: noon}
		tl := newTimeline(w.read)
		stamp := func(n int, start int64) time.Time {
			w.mono = max(w.mono, start)
			o := span(n, start, start+ms)
			tl.stamp(o)
			if d := o.End.Sub(o.Start); d != time.Millisecond {
				t.Errorf("a step changed a duration to %v", d)
			}
			return o.Start
		}
		if got := stamp(1, 101*sec); got.UnixNano() != noon+101*sec {
			t.Errorf("before the step: %v", got)
		}
		w.offset += by
		if got := stamp(2, 105*sec); got.UnixNano() != noon+105*sec+by {
			t.Errorf("step of %v: new trace at %v, want the new clock", time.Duration(by), got)
		}
		if got := stamp(3, 100*sec+ms); got.UnixNano() != noon+100*sec+ms {
			t.Errorf("step of %v: a late span from before it is at %v, want the old clock", time.Duration(by), got)
		}
		if got := stamp(1, 106*sec); got.UnixNano() != noon+106*sec {
			t.Errorf("step of %v: a trace under way changed clocks", time.Duration(by))
		}
		if got := stamp(1, 100*sec+anchorLifeNs+2*sec); got.UnixNano() != noon+100*sec+anchorLifeNs+2*sec+by {
			t.Errorf("step of %v: a trace keeps the old clock for ever", time.Duration(by))
		}
	}
}

// TestOrderInTrace submits random traces, children before parents as they end,
// while the clock is set forth and back: no child may start before its parent.
func TestOrderInTrace(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	w := &wallClock{mono: 100 * sec, offset: noon}
	tl := newTimeline(w.read)
	type open struct {
		parent, child, last *telemetry.Operation // last is the one of them that ends later
		ends                int64
	}
	var under []open
	checked := 0
	for i := range 20_000 {
		w.mono += rng.Int64N(5 * ms)
		if rng.IntN(400) == 0 {
			w.offset += (rng.Int64N(20) - 10) * sec / 2
		}
		start := w.mono
		childAt := start + rng.Int64N(ms)
		o := open{parent: span(i, start, 0), child: span(i, childAt, 0), ends: start + rng.Int64N(3*sec)}
		first := o.child
		if o.last = o.parent; rng.IntN(5) == 0 { // a call that outlives what started it
			first, o.last = o.parent, o.child
		}
		first.EndKtimeNs = uint64(childAt)
		tl.stamp(first)
		under = append(under, o)
		for len(under) > 0 && under[0].ends <= w.mono {
			u := under[0]
			under = under[1:]
			u.last.EndKtimeNs = uint64(w.mono)
			tl.stamp(u.last)
			checked++
			if u.child.Start.Before(u.parent.Start) {
				t.Fatalf("trace %d: child at %v, parent at %v", i, u.child.Start, u.parent.Start)
			}
		}
	}
	if tl.count < maxSteps || checked < 10_000 {
		t.Errorf("only %d steps and %d traces were tried", tl.count, checked)
	}
}

func TestStampEdges(t *testing.T) {
	w := &wallClock{mono: 100 * sec, offset: noon}
	tl := newTimeline(w.read)
	o := span(1, 10*sec, 9*sec) // an end before the start
	o.Events = []telemetry.Event{{KtimeNs: uint64(11 * sec)}}
	o.TraceID = trace.TraceID{}
	tl.stamp(o)
	if o.End.Before(o.Start) {
		t.Error("a span ends before it starts")
	}
	if got := o.Events[0].Time.UnixNano(); got != noon+11*sec {
		t.Errorf("event at %d", got)
	}
}

func BenchmarkStamp(b *testing.B) {
	tl := newTimeline(SystemClock)
	o := span(1, 10*sec, 11*sec)
	for b.Loop() {
		o.TraceID[8]++
		tl.stamp(o)
	}
}
