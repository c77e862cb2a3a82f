package probe

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Call is the head of a client call's record: struct tr_call of bpf/lib/call.h.
type Call struct {
	TraceID          trace.TraceID
	SpanID, ParentID trace.SpanID
	StartNs, EndNs   uint64 // CLOCK_MONOTONIC
	Goid             uint64
	Flags            uint32 // the lower 24 bits are the probe's
	TailLen          uint32
	TraceFlags       uint8
	Cut, TailFull    bool // some string was cut, or left out
}

// CallLen is the size of struct tr_call in bytes.
const CallLen = event.HeaderLen + 72

// TypeUnsane is the type of records that say that an executable is not as its offsets
// have it: CALL_UNSANE. Call.Flags holds what was not.
const TypeUnsane = 255

// CheckG is the shared check of TypeUnsane records; a probe's own begin at 2.
const CheckG = 1

// Flags shared by all probes: CALL_CUT and so on.
const (
	callCut      = 1 << 31
	callTailFull = 1 << 30
)

// ErrRecord says that a record does not have the shape of its probe's records.
var ErrRecord = errors.New("bad record")

// ParseCall reads the head of a record whose tail begins at offset head. What is
// between, and the tail, alias raw.
func ParseCall(raw []byte, head int) (c Call, own, tail []byte, err error) {
	if head < CallLen || len(raw) < head {
		return Call{}, nil, nil, fmt.Errorf("%w: %d bytes, head of %d", ErrRecord, len(raw), head)
	}
	c.readHead(raw)
	if uint64(c.TailLen) > uint64(len(raw)-head) {
		return Call{}, nil, nil, fmt.Errorf("%w: tail of %d bytes in a record of %d", ErrRecord, c.TailLen, len(raw))
	}
	return c, raw[CallLen:head], raw[head : head+int(c.TailLen)], nil
}

// ParseUnsane reads what a TypeUnsane record says failed.
func ParseUnsane(raw []byte) (check uint32, err error) {
	if len(raw) < CallLen {
		return 0, fmt.Errorf("%w: %d bytes", ErrRecord, len(raw))
	}
	return binary.NativeEndian.Uint32(raw[event.HeaderLen+56:]), nil
}

func (c *Call) readHead(raw []byte) {
	b, ne := raw[event.HeaderLen:CallLen], binary.NativeEndian
	copy(c.TraceID[:], b)
	copy(c.SpanID[:], b[16:])
	copy(c.ParentID[:], b[24:])
	c.StartNs, c.EndNs, c.Goid = ne.Uint64(b[32:]), ne.Uint64(b[40:]), ne.Uint64(b[48:])
	flags := ne.Uint32(b[56:])
	c.Flags = flags & (1<<24 - 1)
	c.Cut, c.TailFull = flags&callCut != 0, flags&callTailFull != 0
	c.TailLen, c.TraceFlags = ne.Uint32(b[64:]), b[68]
}

// Str returns string s of a tail, nil when it is not within it.
func Str(tail []byte, off, length uint16) []byte {
	if end := int(off) + int(length); end <= len(tail) {
		return tail[off:end]
	}
	return nil
}

// Operation begins the operation of a call: process, ids and times. One that is not
// sampled is MetricsOnly; its attributes are still wanted, for its measurements.
func (c *Call) Operation(rec event.Record, probe string) *telemetry.Operation {
	op := telemetry.NewOperation()
	op.Process = telemetry.ProcessKey{PID: rec.PID, StartNs: rec.ProcStartNs}
	op.Probe = probe
	op.TraceID, op.SpanID, op.ParentSpanID = c.TraceID, c.SpanID, c.ParentID
	op.Flags = trace.TraceFlags(c.TraceFlags)
	op.MetricsOnly = !op.Flags.IsSampled()
	op.Kind = trace.SpanKindClient
	op.StartKtimeNs, op.EndKtimeNs = c.StartNs, c.EndNs
	return op
}

// UnsaneReason says for people what a shared check found.
func UnsaneReason(check uint32, own map[uint32]string) string {
	what := own[check]
	switch {
	case check == CheckG:
		what = "the goroutine structure (runtime.g)"
	case what == "":
		what = fmt.Sprintf("check %d", check)
	}
	return what + " is not where the known layouts of this version have it"
}
