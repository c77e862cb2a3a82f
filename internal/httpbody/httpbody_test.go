package httpbody

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// part builds a record of a body of operation (goid 7, start 1000).
func part(kind Kind, size int, raw string) []byte {
	ne := binary.NativeEndian
	b := make([]byte, headLen, headLen+len(raw))
	b[2] = RecordType
	ne.PutUint32(b[4:], uint32(headLen+len(raw)))
	own := b[event.HeaderLen:]
	ne.PutUint64(own, 7)
	ne.PutUint64(own[8:], 1000)
	ne.PutUint64(own[16:], uint64(size))
	ne.PutUint32(own[24:], uint32(kind))
	ne.PutUint32(own[28:], uint32(len(raw)))
	return append(b, raw...)
}

// collector wants some fields and notes what is missed.
func collector(t testing.TB) (*Open, *[]string) {
	t.Helper()
	var missed []string
	o, err := New(Fields{
		Request: []string{"symbol", "orders.0.quantity"}, Response: []string{"id"},
		Missed: func(body, reason string) { missed = append(missed, body+" "+reason) },
	}, redact.New(nil))
	if err != nil {
		t.Fatal(err)
	}
	return o, &missed
}

func feed(t testing.TB, o *Open, raw []byte) error {
	t.Helper()
	rec, err := event.Parse(raw)
	if err != nil {
		return err
	}
	return o.Take(rec)
}

// give is the operation that ends.
func give(o *Open, start uint64, method string) *telemetry.Operation {
	op := &telemetry.Operation{}
	o.Give(op, Key{Goid: 7, Start: start}, []byte(method))
	return op
}

func TestBodies(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(`{"id":5}`))
	z.Close()
	var asked bytes.Buffer
	z = gzip.NewWriter(&asked)
	_, _ = z.Write([]byte(`{"symbol":"A"}`))
	z.Close()
	var mass bytes.Buffer
	z = gzip.NewWriter(&mass)
	_, _ = z.Write([]byte(`{"id":5,"x":` + strings.Repeat("[", 60_000) + strings.Repeat("]", 60_000) + "}"))
	z.Close()
	const jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
	const ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
	request := func(size int, raw string) []byte { return part(Request, size, raw) }
	rest := func(raw string) []byte { return part(Rest, 0, raw) }
	piece := func(size int, raw string) []byte { return part(Piece, size, raw) }
	pieceAt := func(at int, raw string) []byte { return part(Piece|Kind(at)<<offsetShift, -1, raw) }
	answer := func(size int, raw string) []byte { return part(Answer, size, raw) }
	response := func(raw string) []byte { return part(Response, -1, raw) }
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
		"cut chunk":  {parts: [][]byte{request(-1, "5\r\n{\"sym\r\n9\r\nbol")}, request: map[string]any{}, missed: []string{"request incomplete"}},
		"no chunks":  {parts: [][]byte{request(-1, "zz")}, request: map[string]any{}, missed: []string{"request incomplete"}},
		"no JSON":    {parts: [][]byte{request(3, "a=b")}, request: map[string]any{}, missed: []string{"request not_json"}},
		"zip":        {parts: [][]byte{request(zipped.Len(), zipped.String())}, request: map[string]any{}, missed: []string{"request encoded"}},
		"piece, zip": {parts: [][]byte{piece(asked.Len(), asked.String())}, request: map[string]any{}, missed: []string{"request encoded"}},
		"JSON ends":  {parts: [][]byte{request(12, `{"symbol":"A`)}, request: map[string]any{}, missed: []string{"request not_json"}},
		"token":      {parts: [][]byte{request(13+len(jwt), `{"symbol":"`+jwt+`"}`)}, request: map[string]any{"symbol": "REDACTED"}},

		"response":        {parts: [][]byte{response(ok + "Content-Length: 8\r\n\r\n{\"id\":3}stale")}, response: map[string]any{"id": 3}},
		"response, chunk": {parts: [][]byte{response(ok + "Transfer-Encoding: chunked\r\n\r\n8\r\n{\"id\":3}\r\n0\r\n\r\n{\"id\":4}")}, response: map[string]any{"id": 3}},
		"response, cut":   {parts: [][]byte{response(ok + "Content-Length: 80\r\n\r\n{\"id\":3,")}, response: map[string]any{"id": 3}, missed: []string{"response incomplete"}},
		"response, zip": {parts: [][]byte{response(fmt.Sprintf("%sContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", ok, zipped.Len(), zipped.String()))},
			response: map[string]any{"id": 5}},
		"response, no zip":    {parts: [][]byte{response(ok + "Content-Encoding: gzip\r\nContent-Length: 8\r\n\r\n{\"id\":3}")}, missed: []string{"response encoded"}},
		"response, br":        {parts: [][]byte{response(ok + "Content-Encoding: br\r\nContent-Length: 8\r\n\r\n{\"id\":3}")}, missed: []string{"response encoded"}},
		"response, no end":    {parts: [][]byte{response(ok + "\r\n{\"id\":3}")}, missed: []string{"response incomplete"}},
		"response, text":      {parts: [][]byte{response("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\n{\"id\":3}")}},
		"response, no head":   {parts: [][]byte{response("8\r\n{\"id\":3}\r\n0\r\n\r\n")}},
		"piece":               {parts: [][]byte{piece(14, `{"symbol":"A"}`)}, request: map[string]any{"symbol": "A"}},
		"pieces":              {parts: [][]byte{piece(-1, ""), piece(-1, `{"sym`), pieceAt(5, `bol":"A"}`)}, request: map[string]any{"symbol": "A"}},
		"pieces, ends":        {parts: [][]byte{piece(14, ""), piece(14, `{"symbol":"A",`)}, request: map[string]any{"symbol": "A"}, missed: []string{"request not_json"}},
		"pieces, cut":         {parts: [][]byte{piece(99, `{"symbol":"A",`)}, request: map[string]any{"symbol": "A"}, missed: []string{"request incomplete"}},
		"pieces, gap":         {parts: [][]byte{piece(-1, `{"symbol":`), pieceAt(13, `"B"}`)}, request: map[string]any{}, missed: []string{"request incomplete"}},
		"pieces, no first":    {parts: [][]byte{piece(-1, ""), pieceAt(5, `{"symbol":"A"}`)}, request: map[string]any{}, missed: []string{"request incomplete"}},
		"pieces, none":        {parts: [][]byte{piece(-1, "")}, request: map[string]any{}, missed: []string{"request incomplete"}},
		"answer":              {parts: [][]byte{answer(8, `{"id":3}`)}, response: map[string]any{"id": 3}},
		"answer, none":        {parts: [][]byte{answer(9000, "")}, response: map[string]any{}, missed: []string{"response incomplete"}},
		"answer, zip":         {parts: [][]byte{answer(zipped.Len(), zipped.String())}, response: map[string]any{"id": 5}},
		"answer, zipped mass": {parts: [][]byte{answer(mass.Len(), mass.String())}, response: map[string]any{"id": 5}, missed: []string{"response incomplete"}},
		"answer, half zip":    {parts: [][]byte{answer(zipped.Len(), zipped.String()[:12])}, response: map[string]any{}, missed: []string{"response incomplete"}},
		"answer, no zip":      {parts: [][]byte{answer(3, "\x1f\x8bx")}, missed: []string{"response encoded"}},
		"answer to HEAD":      {parts: [][]byte{answer(8, `{"id":3}`)}, method: "HEAD"},
		"response of HEAD":    {parts: [][]byte{response(ok + "Content-Length: 8\r\n\r\n{\"id\":3}")}, method: "HEAD"},
	} {
		t.Run(name, func(t *testing.T) {
			d, missed := collector(t)
			for _, p := range c.parts {
				if err := feed(t, d, p); err != nil {
					t.Fatal(err)
				}
			}
			if c.method == "" {
				c.method = "POST"
			}
			// the goroutine's request before
			if op := give(d, 999, "POST"); op.RequestFields != nil || op.ResponseFields != nil {
				t.Error("another operation has the fields")
			}
			op := give(d, 1000, c.method)
			if diff := cmp.Diff([]any{c.request, c.response, c.missed}, []any{op.RequestFields, op.ResponseFields, *missed}); diff != "" {
				t.Error(diff)
			}
			if len(d.open) > 0 || d.unread != 0 {
				t.Errorf("%d bodies and %d bytes are kept", len(d.open), d.unread)
			}
		})
	}
}

// Bodies of operations that never end are few, the memory of those that wait for a rest is
// bounded, and each that is forgotten is counted.
func TestBodiesBounded(t *testing.T) {
	for name, p := range map[string][]byte{
		"request":       part(Request, 2*bodyMax-1, "x"),
		"long request":  part(Request, 2*bodyMax, strings.Repeat("x", bodyMax)),
		"piece":         part(Piece, -1, strings.Repeat("x", bodyMax/2+1)),
		"answer":        part(Answer, -1, strings.Repeat("x", bodyMax)),
		"read request":  part(Request, 14, `{"symbol":"A"}`),
		"read response": part(Response, -1, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"id\":3}"),
	} {
		t.Run(name, func(t *testing.T) {
			d, missed := collector(t)
			most := 0
			for n := range 3 * maxBodies {
				binary.NativeEndian.PutUint64(p[event.HeaderLen:], uint64(n)) // goid
				if err := feed(t, d, p); err != nil {
					t.Fatal(err)
				}
				at := d.open[Key{Goid: uint64(n), Start: 1000}]
				if at.given != nil { // the second piece, which makes the buffer grow
					second := part(Piece|Kind(len(at.given.raw))<<offsetShift, -1, "yy")
					binary.NativeEndian.PutUint64(second[event.HeaderLen:], uint64(n))
					if err := feed(t, d, second); err != nil {
						t.Fatal(err)
					}
				}
				if n%64 != 0 {
					continue
				}
				held := 0
				for _, at := range d.open {
					held += cap(at.begun)
					for _, p := range []*pieces{at.given, at.answered} {
						if p != nil {
							held += cap(p.raw)
						}
					}
				}
				most = max(most, held)
				if len(d.open) > maxBodies || held > maxUnread || held != d.unread {
					t.Fatalf("%d bodies, %d bytes are held and %d counted", len(d.open), held, d.unread)
				}
			}
			if waits := !strings.HasPrefix(name, "read"); waits != (most > maxUnread-4*bodyMax) {
				t.Errorf("at most %d bytes were held", most)
			}
			if len(*missed)+len(d.open) != 3*maxBodies {
				t.Errorf("%d counted and %d kept of %d", len(*missed), len(d.open), 3*maxBodies)
			}
		})
	}
}

// Bodies whose operation never comes are forgotten after a while, and what was awaited of
// them is counted.
func TestBodiesForgotten(t *testing.T) {
	for name, c := range map[string]struct {
		raw    []byte
		unread int
		missed []string
	}{
		"begun":      {part(Request, 50, `{"sym`), 50, []string{"request incomplete"}},
		"read":       {part(Request, 14, `{"symbol":"A"}`), 0, nil},
		"no JSON":    {part(Request, 3, "a=b"), 0, []string{"request not_json"}},
		"cut":        {part(Request, 1e6, `{"sym`), 0, []string{"request incomplete"}},
		"a piece":    {part(Piece, -1, "12345678"), 8, []string{"request incomplete"}},
		"all pieces": {part(Piece, 8, "12345678"), 8, nil},
		"an answer":  {part(Answer, 20, "12345678"), 8, []string{"response incomplete"}},
	} {
		t.Run(name, func(t *testing.T) {
			d, missed := collector(t)
			if err := feed(t, d, c.raw); err != nil {
				t.Fatal(err)
			}
			if len(d.open) != 1 || d.unread != c.unread {
				t.Fatalf("%d bodies, %d bytes are kept", len(d.open), d.unread)
			}
			later := part(Request, 2, `{}`)
			binary.NativeEndian.PutUint64(later[event.HeaderLen:], 8)                // goid
			binary.NativeEndian.PutUint64(later[event.HeaderLen+8:], 2000+2*maxWait) // start
			if err := feed(t, d, later); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.missed, *missed); diff != "" || len(d.open) != 1 || d.unread != 0 {
				t.Errorf("%d bodies, %d bytes are kept, missed %s", len(d.open), d.unread, diff)
			}
		})
	}
	t.Run("twice", func(t *testing.T) {
		d, missed := collector(t)
		for range 2 { // the second takes the first one's place
			if err := feed(t, d, part(Request, 50, `{"sym`)); err != nil {
				t.Fatal(err)
			}
		}
		if len(d.open) != 1 || d.unread != 50 || len(*missed) > 0 {
			t.Errorf("%d bodies, %d bytes are kept, missed %q", len(d.open), d.unread, *missed)
		}
	})
}

// A record that nobody can have sent is an error.
func TestBadBodies(t *testing.T) {
	d, _ := collector(t)
	long := part(Request, 3, "abc")
	binary.NativeEndian.PutUint32(long[headLen-4:], 4)
	for name, raw := range map[string][]byte{
		"kind": part(9, 3, "abc"), "length": long, "short": part(Request, 0, "")[:headLen-8],
	} {
		if name == "short" {
			binary.NativeEndian.PutUint32(raw[4:], uint32(len(raw)))
		}
		if err := feed(t, d, raw); !errors.Is(err, probe.ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
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
		d, _ := collector(t)
		for _, p := range [][]byte{
			part(Request, int(size), string(req)), part(Rest, 0, string(req)),
			part(Response, -1, string(resp)), part(Piece, int(size), string(req)), part(Answer, int(size), string(resp)),
		} {
			if err := feed(t, d, p); err != nil {
				t.Fatal(err)
			}
		}
		op := give(d, 1000, "POST")
		for path := range op.RequestFields {
			if path != "symbol" && path != "orders.0.quantity" {
				t.Errorf("field %q", path)
			}
		}
		if len(op.ResponseFields) > 1 || len(d.open) > 0 || d.unread != 0 {
			t.Errorf("%v; %d bodies and %d bytes are kept", op.ResponseFields, len(d.open), d.unread)
		}
	})
}
