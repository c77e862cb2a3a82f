package pipeline

import (
	"encoding/binary"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Clock reads the machine's clocks: CLOCK_MONOTONIC, which kernel records
// carry, and the wall clock, both in nanoseconds and as near as possible to the
// same moment.
type Clock func() (monotonicNs, wallNs int64)

// SystemClock reads the real clocks. The wall clock is read between two
// readings of the monotonic one; of several tries the tightest counts, so that
// being preempted in between does not look like a clock step.
func SystemClock() (monotonicNs, wallNs int64) {
	best := int64(1<<63 - 1)
	for range 4 {
		before, wall, after := clockNs(unix.CLOCK_MONOTONIC), clockNs(unix.CLOCK_REALTIME), clockNs(unix.CLOCK_MONOTONIC)
		if gap := after - before; gap < best {
			best, monotonicNs, wallNs = gap, before+gap/2, wall
		}
		if best < 500 {
			break
		}
	}
	return monotonicNs, wallNs
}

func clockNs(id int32) int64 {
	var ts unix.Timespec
	// Both clocks exist on every Linux; the call cannot fail with a valid pointer.
	_ = unix.ClockGettime(id, &ts)
	return ts.Nano()
}

const (
	// remeasureNs is how much kernel time may pass until the offset is read again.
	remeasureNs = int64(time.Second)
	// stepNs is the smallest difference taken for a step of the wall clock. The
	// kernel slews both clocks alike, so the true offset is constant between
	// steps, and anything smaller is the noise of reading two clocks.
	stepNs = int64(20 * time.Microsecond)
	// anchorSlots is a power of two; 16,384 traces of 32 bytes are 512 KiB.
	anchorSlots = 1 << 14
	// anchorLifeNs bounds how long a trace keeps its first offset.
	anchorLifeNs = int64(10 * time.Minute)
	// maxSteps is how many clock steps are remembered for late spans.
	maxSteps = 8
)

// timeline turns monotonic times into wall-clock times. The offset follows
// steps of the wall clock, but all spans of one trace get the offset that its
// first submitted span got: otherwise a step between two spans of a trace would
// let a child start before its parent. The table of traces is direct mapped: a
// collision costs a trace its anchor, which matters only if the clock steps
// while that trace is under way.
//
// It is used under the pipeline's lock.
type timeline struct {
	clock      Clock
	measuredNs int64 // monotonic time of the last reading
	steps      [maxSteps]step
	count      int // steps in use, newest last
	anchors    []anchor
}

// step is an offset and the monotonic time from which it holds.
type step struct{ fromNs, offsetNs int64 }

type anchor struct {
	trace          trace.TraceID
	sinceNs, offNs int64
}

func newTimeline(clock Clock) *timeline {
	mono, wall := clock()
	t := &timeline{clock: clock, measuredNs: mono, count: 1, anchors: make([]anchor, anchorSlots)}
	// Records from before the agent's start do not exist, but rounding might
	// put one there: the first offset holds from the beginning of time.
	t.steps[0] = step{fromNs: 0, offsetNs: wall - mono}
	return t
}

// observe reads the clocks again when enough time has passed since the last reading.
func (t *timeline) observe(nowNs int64) {
	if nowNs-t.measuredNs < remeasureNs {
		return
	}
	mono, wall := t.clock()
	offset := wall - mono
	if d := offset - t.steps[t.count-1].offsetNs; d > stepNs || d < -stepNs {
		if t.count == maxSteps {
			copy(t.steps[:], t.steps[1:])
			t.count--
		}
		// The old offset was last seen to hold at measuredNs.
		t.steps[t.count] = step{fromNs: t.measuredNs, offsetNs: offset}
		t.count++
	}
	t.measuredNs = mono
}

// offsetAt is the offset that held at a monotonic time.
func (t *timeline) offsetAt(ns int64) int64 {
	for i := t.count - 1; i > 0; i-- {
		if ns >= t.steps[i].fromNs {
			return t.steps[i].offsetNs
		}
	}
	return t.steps[0].offsetNs
}

// stamp sets the wall-clock times of op.
func (t *timeline) stamp(op *telemetry.Operation) {
	start, end := int64(op.StartKtimeNs), int64(op.EndKtimeNs)
	t.observe(end)
	a := &t.anchors[binary.LittleEndian.Uint64(op.TraceID[8:])&(anchorSlots-1)]
	// A slot that was never used has offset 0, which no machine's clocks have.
	if a.trace != op.TraceID || a.offNs == 0 || start-a.sinceNs > anchorLifeNs {
		*a = anchor{trace: op.TraceID, sinceNs: start, offNs: t.offsetAt(start)}
	}
	op.Start = time.Unix(0, start+a.offNs)
	op.End = time.Unix(0, max(start, end)+a.offNs)
	for i := range op.Events {
		op.Events[i].Time = time.Unix(0, int64(op.Events[i].KtimeNs)+a.offNs)
	}
}
