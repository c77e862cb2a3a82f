package probe

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/event"
)

// callRecord is a record of a probe with own bytes between head and tail.
func callRecord(own int, tail string) []byte {
	raw := make([]byte, CallLen+own, CallLen+own+len(tail))
	ne, b := binary.NativeEndian, raw[event.HeaderLen:]
	for i := range 32 {
		b[i] = byte(i + 1)
	}
	for i, v := range []uint64{100, 200, 7} {
		ne.PutUint64(b[32+8*i:], v)
	}
	ne.PutUint32(b[56:], 5|callCut)
	ne.PutUint32(b[64:], uint32(len(tail)))
	b[68] = 1
	raw = append(raw, tail...)
	ne.PutUint32(raw[4:], uint32(len(raw)))
	return raw
}

func TestParseCall(t *testing.T) {
	raw := callRecord(8, "find orders")
	c, own, tail, err := ParseCall(raw, CallLen+8)
	if err != nil {
		t.Fatal(err)
	}
	if c.StartNs != 100 || c.EndNs != 200 || c.Goid != 7 || c.Flags != 5 || !c.Cut || c.TailFull || c.TraceFlags != 1 {
		t.Errorf("%+v", c)
	}
	if c.TraceID[0] != 1 || c.TraceID[15] != 16 || c.SpanID[0] != 17 || c.ParentID[7] != 32 {
		t.Errorf("ids %v %v %v", c.TraceID, c.SpanID, c.ParentID)
	}
	if len(own) != 8 || string(tail) != "find orders" || string(Str(tail, 5, 6)) != "orders" || Str(tail, 6, 6) != nil {
		t.Errorf("own %d bytes, tail %q", len(own), tail)
	}
	if check, err := ParseUnsane(raw); err != nil || check&0xff != 5 {
		t.Errorf("check %d, %v", check, err)
	}
}

func TestParseCallTruncated(t *testing.T) {
	raw := callRecord(8, "find orders")
	for n := range len(raw) {
		if _, _, _, err := ParseCall(raw[:n], CallLen+8); !errors.Is(err, ErrRecord) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
