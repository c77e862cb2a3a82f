package nethttp

import (
	"errors"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/httpbody"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/redact"
)

// TestBodyRecord: a record as the C has it is read, and its operation gets the fields; where
// nobody asked for them it is an error.
func TestBodyRecord(t *testing.T) {
	rec := bpfTrBody{Goid: 7, StartNs: 1000, Size: 14, Len: 14, Kind: uint32(bpfTrBodyKindBODY_PIECE)}
	copy(rec.Raw[:], `{"symbol":"A"}`)
	n := unsafe.Sizeof(rec)
	rec.Hdr.ProbeId, rec.Hdr.Type, rec.Hdr.Len = uint16(ID), httpbody.RecordType, uint32(n)
	parsed, err := event.Parse(append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&rec)), n)...))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Redact: redact.New(nil), Bodies: httpbody.Fields{Request: []string{"symbol"}}}
	if got := cfg.Bodies.Want(); got != uint32(bpfTrBodyWantWANT_REQUEST) {
		t.Errorf("wants %d", got)
	}
	d := newDecoder(probe.DecoderEnv{SetPoint: func(uint32, bool, ...string) {}}, cfg, nil)
	if err := d.Decode(parsed, nil); err != nil {
		t.Fatal(err)
	}
	r := newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, "POST")
	r.ev.Goid = 7
	if diff := cmp.Diff(map[string]any{"symbol": "A"}, decode(t, d, r)[0].RequestFields); diff != "" {
		t.Error(diff)
	}
	if err := newDecoder(probe.DecoderEnv{}, Config{}, nil).Decode(parsed, nil); !errors.Is(err, ErrRecord) {
		t.Errorf("nobody asks for bodies: %v", err)
	}
}
