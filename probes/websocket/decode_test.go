package websocket

import (
	"slices"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// raw is the bytes that a program would have sent.
func raw(e *bpfWsEvent) []byte {
	n := headLen + int(e.Call.TailLen)
	e.Call.Hdr.ProbeId, e.Call.Hdr.Type, e.Call.Hdr.Len = uint16(ID), uint8(bpfWsTypeWS_CONN), uint32(n)
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(e)), n)...)
}

func decodeRaw(b []byte, emit func(*telemetry.Operation)) error {
	rec, err := event.Parse(b)
	if err != nil {
		return err
	}
	d := &decoder{asked: probe.Asking{}, env: probe.DecoderEnv{SetPoint: func(uint32, bool, ...string) {}}}
	return d.Decode(rec, emit)
}

// TestTaken: the point that sees ends is asked for with the first connection, and not with
// each of many.
func TestTaken(t *testing.T) {
	asked := 0
	d := &decoder{asked: probe.Asking{}, env: probe.DecoderEnv{SetPoint: func(_ uint32, on bool, points ...string) {
		if !slices.Equal(points, []string{pointTakenEnd}) || !on {
			t.Errorf("points %s, %v", points, on)
		}
		asked++
	}}}
	for _, at := range []uint64{0, 1, probe.AskAgainNs, probe.AskAgainNs + 1, probe.AskAgainNs + 2} {
		e := &bpfWsEvent{}
		e.Call.StartNs = at
		b := raw(e)
		b[unsafe.Offsetof(e.Call.Hdr.Type)] = uint8(bpfWsTypeWS_TAKEN)
		rec, err := event.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Decode(rec, func(op *telemetry.Operation) { t.Errorf("an operation: %v", op) }); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times, want 2", asked)
	}
}

func TestConnection(t *testing.T) {
	e := &bpfWsEvent{MsgsIn: 1, BytesIn: 2, MsgsOut: 3, BytesOut: 4, CloseCode: 1000, PeerPort: 99}
	copy(e.PeerIp[:], []byte{10: 0xff, 11: 0xff, 12: 10, 13: 0, 14: 0, 15: 1})
	for _, flags := range []uint32{0, uint32(bpfWsFlagWS_CLIENT), uint32(bpfWsFlagWS_RAW)} {
		e.Call.Flags = flags
		var op *telemetry.Operation
		if err := decodeRaw(raw(e), func(o *telemetry.Operation) { op = o }); err != nil {
			t.Fatal(err)
		}
		got := map[string]any{}
		for _, kv := range op.Attributes {
			got[string(kv.Key)] = kv.Value.AsInterface()
		}
		want := map[string]any{
			"network.protocol.name": "websocket", "websocket.messages.received": int64(1), "websocket.bytes.received": int64(2),
			"websocket.messages.sent": int64(3), "websocket.bytes.sent": int64(4), "websocket.close.code": int64(1000),
			"network.peer.address": "10.0.0.1", "network.peer.port": int64(99),
		}
		kind := trace.SpanKindInternal
		switch flags {
		case uint32(bpfWsFlagWS_RAW):
			delete(want, "websocket.messages.received")
			delete(want, "websocket.messages.sent")
		case uint32(bpfWsFlagWS_CLIENT):
			kind = trace.SpanKindClient
			want["server.address"], want["server.port"] = "10.0.0.1", int64(99)
		}
		if diff := cmp.Diff(want, got); diff != "" || op.Kind != kind {
			t.Errorf("kind %v, want %v; attributes (-want +got):\n%s", op.Kind, kind, diff)
		}
	}
}

func TestTruncatedRecords(t *testing.T) {
	whole := raw(&bpfWsEvent{})
	for n := range whole {
		if err := decodeRaw(whole[:n], func(*telemetry.Operation) {}); err == nil {
			t.Errorf("a record of %d of %d bytes was taken", n, len(whole))
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(raw(&bpfWsEvent{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = decodeRaw(b, func(*telemetry.Operation) {})
	})
}
