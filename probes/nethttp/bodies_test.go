package nethttp

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// part builds a record of a body of operation (goid 7, start 1000).
func part(kind bpfNhBodyKind, size int, raw string) []byte {
	var b bpfNhBody
	b.Goid, b.StartNs, b.Size, b.Kind, b.Len = 7, 1000, int64(size), uint32(kind), uint32(len(raw))
	copy(b.Raw[:], raw)
	n := bodyHead + len(raw)
	b.Hdr.ProbeId, b.Hdr.Type, b.Hdr.Len = uint16(ID), uint8(bpfNethttpEventTypeNH_BODY), uint32(n)
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&b)), n)...)
}

// bodyDecoder wants some fields and notes what is missed.
func bodyDecoder(t testing.TB) (*decoder, *[]string) {
	t.Helper()
	var missed []string
	cfg := Config{Redact: redact.New(nil), Bodies: Bodies{
		Request: []string{"symbol", "orders.0.quantity"}, Response: []string{"id"},
		Missed: func(body, reason string) { missed = append(missed, body+" "+reason) },
	}}
	return newDecoder(probe.DecoderEnv{SetPoint: func(uint32, bool, ...string) {}}, cfg, nil), &missed
}

func feed(t testing.TB, d *decoder, raw []byte) (ops []*telemetry.Operation, err error) {
	t.Helper()
	rec, err := event.Parse(raw)
	if err != nil {
		return nil, err
	}
	err = d.Decode(rec, func(op *telemetry.Operation) { ops = append(ops, op) })
	return ops, err
}

func TestBodies(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(`{"id":5}`))
	z.Close()
	const jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
	const ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
	request := func(size int, raw string) []byte { return part(bpfNhBodyKindBODY_REQUEST, size, raw) }
	rest := func(raw string) []byte { return part(bpfNhBodyKindBODY_REST, 0, raw) }
	response := func(raw string) []byte { return part(bpfNhBodyKindBODY_RESPONSE, -1, raw) }
	for name, c := range map[string]struct {
		parts             [][]byte
		method            string
		request, response map[string]any
		missed            []string
	}{
		"none":         {},
		"whole":        {parts: [][]byte{request(14, `{"symbol":"A"}`)}, request: map[string]any{"symbol": "A"}},
		"nested":       {parts: [][]byte{request(29, `{"orders":[{"quantity":1.5}]}`)}, request: map[string]any{"orders.0.quantity": 1.5}},
		"two pieces":   {parts: [][]byte{request(14, `{"sym`), rest(`bol":"A"}`)}, request: map[string]any{"symbol": "A"}},
		"rest only":    {parts: [][]byte{request(14, ``), rest(`{"symbol":"A"}`)}, request: map[string]any{"symbol": "A"}},
		"no rest":      {parts: [][]byte{request(50, `{"symbol":"A",`)}, request: map[string]any{"symbol": "A"}, missed: []string{"request incomplete"}},
		"another rest": {parts: [][]byte{request(14, `{"sym`), rest(`bol":"ABC"}`)}, request: map[string]any{}, missed: []string{"request incomplete"}},
		"lost begin":   {parts: [][]byte{rest(`{"symbol":"A"}`)}},
		"long":         {parts: [][]byte{request(1e6, `{"symbol":"A",`)}, request: map[string]any{"symbol": "A"}, missed: []string{"request incomplete"}},
		"chunks":       {parts: [][]byte{request(-1, "5\r\n{\"sym\r\n9\r\nbol\":\"A\"}\r\n0\r\n\r\n")}, request: map[string]any{"symbol": "A"}},
		"half a rune": {parts: [][]byte{request(273, `{"symbol":"`+strings.Repeat("x", maxText-1)+`€"}`+"   ")},
			request: map[string]any{"symbol": strings.Repeat("x", maxText-1)}},
		"half a secret": {parts: [][]byte{request(1000, `{"symbol":"https://u:`+strings.Repeat("p", 966)+`@h.example/"}`)},
			request: map[string]any{"symbol": "REDACTED"}},
		"cut chunk": {parts: [][]byte{request(-1, "5\r\n{\"sym\r\n9\r\nbol")}, request: map[string]any{}, missed: []string{"request incomplete"}},
		"no chunks": {parts: [][]byte{request(-1, "zz")}, request: map[string]any{}, missed: []string{"request incomplete"}},
		"no JSON":   {parts: [][]byte{request(3, "a=b")}, request: map[string]any{}, missed: []string{"request not_json"}},
		"JSON ends": {parts: [][]byte{request(12, `{"symbol":"A`)}, request: map[string]any{}, missed: []string{"request not_json"}},
		"token":     {parts: [][]byte{request(13+len(jwt), `{"symbol":"`+jwt+`"}`)}, request: map[string]any{"symbol": "REDACTED"}},

		"response":        {parts: [][]byte{response(ok + "Content-Length: 8\r\n\r\n{\"id\":3}stale")}, response: map[string]any{"id": 3}},
		"response, chunk": {parts: [][]byte{response(ok + "Transfer-Encoding: chunked\r\n\r\n8\r\n{\"id\":3}\r\n0\r\n\r\n{\"id\":4}")}, response: map[string]any{"id": 3}},
		"response, cut":   {parts: [][]byte{response(ok + "Content-Length: 80\r\n\r\n{\"id\":3,")}, response: map[string]any{"id": 3}, missed: []string{"response incomplete"}},
		"response, zip": {parts: [][]byte{response(fmt.Sprintf("%sContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", ok, zipped.Len(), zipped.String()))},
			response: map[string]any{"id": 5}},
		"response, no zip":  {parts: [][]byte{response(ok + "Content-Encoding: gzip\r\nContent-Length: 8\r\n\r\n{\"id\":3}")}, missed: []string{"response encoded"}},
		"response, br":      {parts: [][]byte{response(ok + "Content-Encoding: br\r\nContent-Length: 8\r\n\r\n{\"id\":3}")}, missed: []string{"response encoded"}},
		"response, no end":  {parts: [][]byte{response(ok + "\r\n{\"id\":3}")}, missed: []string{"response incomplete"}},
		"response, text":    {parts: [][]byte{response("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\n{\"id\":3}")}},
		"response, no head": {parts: [][]byte{response("8\r\n{\"id\":3}\r\n0\r\n\r\n")}},
		"response of HEAD":  {parts: [][]byte{response(ok + "Content-Length: 8\r\n\r\n{\"id\":3}")}, method: "HEAD"},
	} {
		t.Run(name, func(t *testing.T) {
			d, missed := bodyDecoder(t)
			for _, p := range c.parts {
				if ops, err := feed(t, d, p); err != nil || len(ops) > 0 {
					t.Fatal(ops, err)
				}
			}
			if c.method == "" {
				c.method = "POST"
			}
			r := newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, c.method)
			r.ev.Goid = 7
			other := newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, "POST")
			other.ev.Goid, other.ev.StartNs = 7, 999 // the goroutine's request before
			for _, op := range decode(t, d, other) {
				if op.RequestFields != nil || op.ResponseFields != nil {
					t.Error("another operation has the fields")
				}
			}
			op := decode(t, d, r)[0]
			if diff := cmp.Diff([]any{c.request, c.response, c.missed}, []any{op.RequestFields, op.ResponseFields, *missed}); diff != "" {
				t.Error(diff)
			}
			if len(d.bodies.open) > 0 || d.bodies.unread != 0 {
				t.Errorf("%d bodies and %d bytes are kept", len(d.bodies.open), d.bodies.unread)
			}
		})
	}
}

// Bodies of operations that never end are few, and those that wait for a rest bounded.
func TestBodiesBounded(t *testing.T) {
	d, _ := bodyDecoder(t)
	for n := range 3 * maxBodies {
		p := part(bpfNhBodyKindBODY_REQUEST, 2*bodyMax, strings.Repeat("x", bodyMax))
		binary.NativeEndian.PutUint64(p[event.HeaderLen:], uint64(n)) // goid
		if _, err := feed(t, d, p); err != nil {
			t.Fatal(err)
		}
		if len(d.bodies.open) > maxBodies || d.bodies.unread > maxUnread {
			t.Fatalf("%d bodies, %d bytes are kept", len(d.bodies.open), d.bodies.unread)
		}
	}
}

// Bodies whose operation never comes are forgotten after a while, and counted.
func TestBodiesForgotten(t *testing.T) {
	d, missed := bodyDecoder(t)
	p := part(bpfNhBodyKindBODY_REQUEST, 50, `{"sym`)
	for range 2 { // the second takes the first one's place
		if _, err := feed(t, d, p); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.bodies.open) != 1 || d.bodies.unread != 5 {
		t.Fatalf("%d bodies, %d bytes are kept", len(d.bodies.open), d.bodies.unread)
	}
	binary.NativeEndian.PutUint64(p[event.HeaderLen:], 8)                // goid
	binary.NativeEndian.PutUint64(p[event.HeaderLen+8:], 2000+2*maxWait) // start
	if _, err := feed(t, d, p); err != nil {
		t.Fatal(err)
	}
	if len(d.bodies.open) != 1 || d.bodies.unread != 5 || len(*missed) != 1 {
		t.Errorf("%d bodies, %d bytes are kept, missed %q", len(d.bodies.open), d.bodies.unread, *missed)
	}
}

// A record that nobody can have sent is an error.
func TestBadBodies(t *testing.T) {
	d, _ := bodyDecoder(t)
	long := part(bpfNhBodyKindBODY_REQUEST, 3, "abc")
	binary.NativeEndian.PutUint32(long[bodyHead-4:], 4)
	for name, raw := range map[string][]byte{
		"kind": part(9, 3, "abc"), "length": long, "short": part(bpfNhBodyKindBODY_REQUEST, 0, "")[:bodyHead-8],
	} {
		if name == "short" {
			binary.NativeEndian.PutUint32(raw[4:], uint32(len(raw)))
		}
		if _, err := feed(t, d, raw); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	plain := newDecoder(probe.DecoderEnv{}, Config{}, nil)
	if _, err := feed(t, plain, part(bpfNhBodyKindBODY_REQUEST, 2, "{}")); !errors.Is(err, ErrRecord) {
		t.Errorf("nobody asks for bodies: %v", err)
	}
}

// Whatever is in the buffers: no panic, nothing but wanted fields, nothing kept.
func FuzzBodies(f *testing.F) {
	f.Add([]byte(`{"symbol":"A"}`), int64(14), []byte(``))
	f.Add([]byte("5\r\n{\"sym"), int64(-1), []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"id\":3}"))
	f.Add([]byte(`{"orders":[`), int64(40), []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\x1f\x8b\x08"))
	f.Fuzz(func(t *testing.T, req []byte, size int64, resp []byte) {
		if len(req) > bodyMax || len(resp) > bodyMax {
			return
		}
		d, _ := bodyDecoder(t)
		for _, p := range [][]byte{
			part(bpfNhBodyKindBODY_REQUEST, int(size), string(req)), part(bpfNhBodyKindBODY_REST, 0, string(req)),
			part(bpfNhBodyKindBODY_RESPONSE, -1, string(resp)),
		} {
			if _, err := feed(t, d, p); err != nil {
				t.Fatal(err)
			}
		}
		r := newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, "POST")
		r.ev.Goid = 7
		op := decode(t, d, r)[0]
		for path := range op.RequestFields {
			if path != "symbol" && path != "orders.0.quantity" {
				t.Errorf("field %q", path)
			}
		}
		if len(op.ResponseFields) > 1 || len(d.bodies.open) > 0 || d.bodies.unread != 0 {
			t.Errorf("%v; %d bodies and %d bytes are kept", op.ResponseFields, len(d.bodies.open), d.bodies.unread)
		}
	})
}
