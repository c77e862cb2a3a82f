package fasthttp

import (
	"encoding/binary"
	"errors"
	"maps"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/httpbody"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// raw is the bytes that a program would have sent.
func raw(e *bpfFhEvent) []byte {
	n := headLen + int(e.Call.TailLen)
	e.Call.Hdr.ProbeId, e.Call.Hdr.Type, e.Call.Hdr.Len = uint16(ID), uint8(bpfFhTypeFH_SERVER), uint32(n)
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(e)), n)...)
}

// all is a configuration with everything on that adds to a request.
func all() Config {
	return Config{
		Redact: redact.New(nil), CaptureHeaders: []string{"X-Request-ID"}, AnswerHeaders: []string{"X-Fee", "x-request-id"},
		Bodies: httpbody.Fields{Request: []string{"symbol"}, Response: []string{"id"}},
	}
}

func decodeWith(cfg Config, raws ...[]byte) (ops []*telemetry.Operation, err error) {
	d := newDecoder(probe.DecoderEnv{Refuse: func(uint32, string) {}}, cfg)
	for _, b := range raws {
		rec, err := event.Parse(b)
		if err != nil {
			return ops, err
		}
		if err := d.Decode(rec, func(op *telemetry.Operation) { ops = append(ops, op) }); err != nil {
			return ops, err
		}
	}
	return ops, nil
}

func decodeRaw(b []byte, emit func(*telemetry.Operation)) error {
	ops, err := decodeWith(Config{Redact: redact.New(nil)}, b)
	for _, op := range ops {
		emit(op)
	}
	return err
}

func TestServer(t *testing.T) {
	base := func() *bpfFhEvent {
		e := &bpfFhEvent{ReqSize: -2, RespSize: 2, Status: 200}
		put(e, bpfFhStrFS_METHOD, "GET")
		put(e, bpfFhStrFS_URI, "/orders/7?token=canary&n=1")
		put(e, bpfFhStrFS_HOST, "shop:8080")
		return e
	}
	for name, c := range map[string]struct {
		edit func(*bpfFhEvent)
		span string
		want map[string]any
		code codes.Code
	}{
		"plain": {func(*bpfFhEvent) {}, "GET", map[string]any{"url.path": "/orders/7", "url.query": "token=REDACTED&n=1",
			"server.address": "shop", "server.port": int64(8080), "http.route": nil, "http.request.body.size": nil, "network.peer.address": nil}, codes.Unset},
		"route": {func(e *bpfFhEvent) { put(e, bpfFhStrFS_ROUTE, "/orders/:id") }, "GET /orders/:id",
			map[string]any{"http.route": "/orders/:id"}, codes.Unset},
		"no template":    {func(e *bpfFhEvent) { put(e, bpfFhStrFS_ROUTE, "*") }, "GET", map[string]any{"http.route": nil}, codes.Unset},
		"server error":   {func(e *bpfFhEvent) { e.Status = 503 }, "GET", map[string]any{"error.type": "503"}, codes.Error},
		"unknown status": {func(e *bpfFhEvent) { e.Status = -7 }, "GET", map[string]any{"http.response.status_code": nil}, codes.Unset},
		"forwarded": {func(e *bpfFhEvent) { put(e, bpfFhStrFS_FORWARDED_FOR, "203.0.113.9, 10.0.0.1") }, "GET",
			map[string]any{"client.address": "203.0.113.9"}, codes.Unset},
		"peer": {func(e *bpfFhEvent) {
			e.PeerPort = 99
			copy(e.PeerIp[:], []byte{10: 0xff, 11: 0xff, 12: 10, 13: 0, 14: 0, 15: 1})
		}, "GET", map[string]any{"network.peer.address": "10.0.0.1", "network.peer.port": int64(99), "client.address": "10.0.0.1"}, codes.Unset},
	} {
		t.Run(name, func(t *testing.T) {
			e := base()
			c.edit(e)
			var op *telemetry.Operation
			if err := decodeRaw(raw(e), func(o *telemetry.Operation) { op = o }); err != nil {
				t.Fatal(err)
			}
			got := map[string]any{}
			for _, kv := range op.Attributes {
				got[string(kv.Key)] = kv.Value.AsInterface()
			}
			for k, v := range c.want {
				if got[k] != v {
					t.Errorf("%s is %v, want %v", k, got[k], v)
				}
			}
			if op.Name != c.span || op.Status.String() != c.code.String() {
				t.Errorf("span %q, status %v; want %q, %v", op.Name, op.Status, c.span, c.code)
			}
		})
	}
}

// TestSizes: sizes of bodies are measured where they are known.
func TestSizes(t *testing.T) {
	const request, response = "http.server.request.body.size", "http.server.response.body.size"
	for name, c := range map[string]struct {
		method    string
		req, resp int64
		want      map[string]float64
	}{
		"both":      {"POST", 12, 34, map[string]float64{request: 12, response: 34}},
		"no body":   {"GET", -2, 0, map[string]float64{request: 0, response: 0}},
		"chunked":   {"POST", -1, 5, map[string]float64{response: 5}},
		"a stream":  {"POST", 1, -1, map[string]float64{request: 1}},
		"head only": {"HEAD", -2, 9, map[string]float64{request: 0}},
	} {
		t.Run(name, func(t *testing.T) {
			e := &bpfFhEvent{ReqSize: c.req, RespSize: c.resp, Status: 200}
			put(e, bpfFhStrFS_METHOD, c.method)
			got := map[string]float64{}
			if err := decodeRaw(raw(e), func(op *telemetry.Operation) {
				for _, m := range op.Measurements[1:] {
					got[m.Instrument.Name] = m.Value
					if !m.Attributes.Equals(&op.Measurements[0].Attributes) {
						t.Errorf("%s has other attributes than the duration", m.Instrument.Name)
					}
				}
			}); err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("measured %v, want %v", got, c.want)
			}
		})
	}
}

func put(e *bpfFhEvent, i bpfFhStr, s string) {
	n := e.Call.TailLen
	copy(e.Tail[n:], s)
	e.Str[i].Off, e.Str[i].Len = uint16(n), uint16(len(s))
	e.Call.TailLen += uint32(len(s))
}

func TestTruncatedRecords(t *testing.T) {
	whole := raw(&bpfFhEvent{})
	for n := range whole {
		if err := decodeRaw(whole[:n], func(*telemetry.Operation) {}); err == nil {
			t.Errorf("a record of %d of %d bytes was taken", n, len(whole))
		}
	}
}

// body is the record of a body of operation (goid 7, start 1000), struct tr_body.
func body(kind httpbody.Kind, text string) []byte {
	ne := binary.NativeEndian
	b := make([]byte, event.HeaderLen, event.HeaderLen+32+len(text))
	ne.PutUint16(b, uint16(ID))
	b[2] = httpbody.RecordType
	ne.PutUint32(b[4:], uint32(event.HeaderLen+32+len(text)))
	for _, v := range []uint64{7, 1000, uint64(len(text)), uint64(kind) | uint64(len(text))<<32} {
		b = ne.AppendUint64(b, v)
	}
	return append(b, text...)
}

// TestBodyRecord: a request gets the fields of its bodies; where nobody asked for them a body
// is an error.
func TestBodyRecord(t *testing.T) {
	e := &bpfFhEvent{Status: 200}
	e.Call.Goid, e.Call.StartNs = 7, 1000
	put(e, bpfFhStrFS_METHOD, "POST")
	ops, err := decodeWith(all(), body(httpbody.Piece, `{"symbol":"A"}`), body(httpbody.Answer, `{"id":3}`), raw(e), raw(e))
	if err != nil || len(ops) != 2 {
		t.Fatalf("%d operations, %v", len(ops), err)
	}
	want := []map[string]any{{"symbol": "A"}, {"id": 3}, nil, nil}
	got := []map[string]any{ops[0].RequestFields, ops[0].ResponseFields, ops[1].RequestFields, ops[1].ResponseFields}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := decodeWith(Config{Redact: redact.New(nil)}, body(httpbody.Piece, "{}")); !errors.Is(err, probe.ErrRecord) {
		t.Errorf("nobody asks for bodies: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	whole := &bpfFhEvent{Status: 200}
	whole.Call.Goid, whole.Call.StartNs = 7, 1000
	for i := range bpfFhStrFS_COUNT {
		put(whole, i, "/a?b=c")
	}
	f.Add(raw(&bpfFhEvent{}), body(httpbody.Piece, `{"symbol":"A"}`))
	f.Add(raw(whole), body(httpbody.Answer, "\x1f\x8b{"))
	cfg := all()
	f.Fuzz(func(t *testing.T, b, first []byte) {
		d := newDecoder(probe.DecoderEnv{Refuse: func(uint32, string) {}}, cfg)
		for _, raw := range [][]byte{first, b} { // whatever comes first, what follows is read
			rec, err := event.Parse(raw)
			if err != nil {
				continue
			}
			_ = d.Decode(rec, func(op *telemetry.Operation) {
				if len(op.RequestFields) > 1 || len(op.ResponseFields) > 1 {
					t.Errorf("fields %v and %v", op.RequestFields, op.ResponseFields)
				}
			})
		}
	})
}
