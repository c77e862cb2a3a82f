package nethttp

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// record builds the bytes that a program would have sent.
type record struct {
	ev   bpfNethttpEvent
	kind bpfNethttpEventType
}

func newRecord(kind bpfNethttpEventType) *record {
	r := &record{kind: kind}
	r.ev.TraceId = [2]uint64{1, 2}
	r.ev.SpanId = 3
	r.ev.StartNs, r.ev.EndNs = 1000, 5000
	r.ev.ReqSize, r.ev.RespSize = -1, -1
	r.ev.TraceFlags = 1
	return r
}

func (r *record) str(i bpfNhStr, s string) *record {
	copy(r.ev.Tail[r.ev.TailLen:], s)
	r.ev.Str[i].Off, r.ev.Str[i].Len = uint16(r.ev.TailLen), uint16(len(s))
	r.ev.TailLen += uint32(len(s))
	return r
}

func (r *record) flags(fs ...bpfNhFlag) *record {
	for _, f := range fs {
		r.ev.Flags |= uint32(f)
	}
	return r
}

func (r *record) raw() []byte {
	n := headLen + int(r.ev.TailLen)
	r.ev.Hdr.ProbeId, r.ev.Hdr.Type, r.ev.Hdr.Len = uint16(ID), uint8(r.kind), uint32(n)
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&r.ev)), n)...)
}

// world is a decoder's surroundings; it notes what the decoder asked for.
type world struct {
	types   map[int32]string
	refused []string
	points  []bool
}

func (w *world) decoder(t testing.TB, capture ...string) *decoder {
	t.Helper()
	hdrs, err := wantedHeaders(capture)
	if err != nil {
		t.Fatal(err)
	}
	env := probe.DecoderEnv{
		TypeName: func(_ uint32, off int32) string { return w.types[off] },
		Refuse:   func(_ uint32, reason string) { w.refused = append(w.refused, reason) },
		SetPoint: func(_ uint32, on bool, _ ...string) { w.points = append(w.points, on) },
	}
	return newDecoder(env, Config{Redact: redact.New(nil), AnswerHeaders: []string{"x-fee", "x-link"}}, hdrs)
}

func decode(t testing.TB, d *decoder, r *record) []*telemetry.Operation {
	t.Helper()
	rec, err := event.Parse(r.raw())
	if err != nil {
		t.Fatal(err)
	}
	var ops []*telemetry.Operation
	if err := d.Decode(rec, func(op *telemetry.Operation) { ops = append(ops, op) }); err != nil {
		t.Fatal(err)
	}
	return ops
}

func attrs(op *telemetry.Operation) map[string]any {
	m := map[string]any{}
	for _, kv := range op.Attributes {
		m[string(kv.Key)] = kv.Value.AsInterface()
	}
	return m
}

func TestServer(t *testing.T) {
	w := &world{types: map[int32]string{7: "*errors.errorString", 8: "string", 9: "runtime.boundsError"}}
	base := func() *record {
		r := newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, "GET").str(bpfNhStrS_URI, "/a?x=1").
			str(bpfNhStrS_HOST, "shop:8080").str(bpfNhStrS_PEER, "10.0.0.7:4711")
		r.ev.ProtoMajor, r.ev.ProtoMinor, r.ev.Status, r.ev.RespSize = 1, 1, 200, 2
		return r.flags(bpfNhFlagF_WROTE_HEADER)
	}
	for name, c := range map[string]struct {
		edit func(*record)
		name string
		want map[string]any // a subset; nil means absent
		err  bool
		exc  string // exception.type of the one event, "" for no event
	}{
		"plain": {name: "GET", want: map[string]any{
			"http.request.method": "GET", "url.path": "/a", "url.query": "x=1", "url.scheme": "http",
			"server.address": "shop", "server.port": int64(8080), "network.peer.address": "10.0.0.7",
			"network.peer.port": int64(4711), "client.address": "10.0.0.7", "network.protocol.version": "1.1",
			"http.response.status_code": int64(200), "http.response.body.size": int64(2),
			"http.request.body.size": nil, "error.type": nil, "http.route": nil,
		}},
		"route with method and host": {edit: func(r *record) { r.str(bpfNhStrS_ROUTE, "GET shop/a/{id}") },
			name: "GET /a/{id}", want: map[string]any{"http.route": "/a/{id}"}},
		"CONNECT has an authority, no path": {edit: func(r *record) {
			r.str(bpfNhStrS_METHOD, "CONNECT").str(bpfNhStrS_URI, "user:canary@broker:443")
		}, name: "CONNECT", want: map[string]any{"url.path": nil, "url.query": nil}},
		"OPTIONS of the server": {edit: func(r *record) {
			r.str(bpfNhStrS_METHOD, "OPTIONS").str(bpfNhStrS_URI, "*")
		}, name: "OPTIONS", want: map[string]any{"url.path": nil}},
		"unknown method": {edit: func(r *record) { r.str(bpfNhStrS_METHOD, "BREW") }, name: "HTTP",
			want: map[string]any{"http.request.method": "_OTHER", "http.request.method_original": "BREW"}},
		"secret query": {edit: func(r *record) { r.str(bpfNhStrS_URI, "/a?token=canary") },
			name: "GET", want: map[string]any{"url.query": "token=REDACTED"}},
		"absolute target with credentials": {edit: func(r *record) { r.str(bpfNhStrS_URI, "http://u:canary@h/p?q=1") },
			name: "GET", want: map[string]any{"url.path": "/p", "url.query": "q=1"}},
		"forwarded": {edit: func(r *record) { r.str(bpfNhStrS_FORWARDED_FOR, "203.0.113.9, 10.0.0.1") },
			name: "GET", want: map[string]any{"client.address": "203.0.113.9", "network.peer.address": "10.0.0.7"}},
		"forwarded, RFC 7239": {edit: func(r *record) { r.str(bpfNhStrS_FORWARDED, `proto=https;for="[2001:db8::1]:99"`) },
			name: "GET", want: map[string]any{"client.address": "2001:db8::1"}},
		"forwarded, not an address": {edit: func(r *record) { r.str(bpfNhStrS_FORWARDED_FOR, "unknown") },
			name: "GET", want: map[string]any{"client.address": "10.0.0.7"}},
		"server error": {edit: func(r *record) { r.ev.Status = 503 }, name: "GET", err: true,
			want: map[string]any{"error.type": "503", "http.response.status_code": int64(503)}},
		"client's error is no error of ours": {edit: func(r *record) { r.ev.Status = 404 }, name: "GET",
			want: map[string]any{"error.type": nil}},
		"panic before anything was written": {edit: func(r *record) {
			r.ev.Flags, r.ev.Status = 0, 0
			r.flags(bpfNhFlagF_PANIC, bpfNhFlagF_SAW_PANIC).str(bpfNhStrS_PANIC_MSG, "boom")
			r.ev.PanicType.TypeName = 8
		}, name: "GET", err: true, exc: "string",
			want: map[string]any{"error.type": "string", "http.response.status_code": nil}},
		"recovered panic with 500": {edit: func(r *record) {
			r.flags(bpfNhFlagF_SAW_PANIC).str(bpfNhStrS_PANIC_MSG, "boom")
			r.ev.Status, r.ev.PanicType.TypeName = 500, 7
		}, name: "GET", err: true, exc: "*errors.errorString", want: map[string]any{"error.type": "500"}},
		"recovered panic, request served": {edit: func(r *record) {
			r.flags(bpfNhFlagF_SAW_PANIC)
			r.ev.PanicType.TypeName = 7
		}, name: "GET", want: map[string]any{"error.type": nil}},
		"ErrAbortHandler": {edit: func(r *record) {
			r.flags(bpfNhFlagF_PANIC, bpfNhFlagF_SAW_PANIC).str(bpfNhStrS_PANIC_MSG, errAbortHandler)
			r.ev.PanicType.TypeName = 7
		}, name: "GET", err: true, want: map[string]any{"error.type": "http.ErrAbortHandler"}},
		"hijacked": {edit: func(r *record) { r.ev.Flags, r.ev.Status = uint32(bpfNhFlagF_HIJACKED), 0 }, name: "GET",
			want: map[string]any{"http.response.status_code": nil, "http.response.body.size": nil}},
		"HTTP/2 over TLS": {edit: func(r *record) {
			r.ev.ProtoMajor, r.ev.ProtoMinor = 2, 0
			r.flags(bpfNhFlagF_TLS)
		}, name: "GET", want: map[string]any{"network.protocol.version": "2", "url.scheme": "https"}},
		"captured header": {edit: func(r *record) { r.str(bpfNhStrS_CAPTURE0, "c-1") }, name: "GET",
			want: map[string]any{"http.request.header.x-correlation-id": []string{"c-1"}}},
		"response headers": {edit: func(r *record) {
			r.str(bpfNhStrS_ANSWER0, "1.5").str(bpfNhStrS_ANSWER0+1, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl")
		}, name: "GET",
			want: map[string]any{"http.response.header.x-fee": []string{"1.5"}, "http.response.header.x-link": []string{redact.Mask}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := base()
			if c.edit != nil {
				c.edit(r)
			}
			ops := decode(t, w.decoder(t, "X-Correlation-ID"), r)
			if len(ops) != 1 {
				t.Fatalf("%d operations, want 1", len(ops))
			}
			op, got := ops[0], attrs(ops[0])
			if op.Name != c.name {
				t.Errorf("name %q, want %q", op.Name, c.name)
			}
			for k, v := range c.want {
				if diff := cmp.Diff(v, got[k]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", k, diff)
				}
			}
			if (op.Status == codes.Error) != c.err {
				t.Errorf("status %v, want error: %v", op.Status, c.err)
			}
			switch {
			case c.exc == "" && len(op.Events) > 0:
				t.Errorf("events %v, want none", op.Events)
			case c.exc != "" && (len(op.Events) != 1 || op.Events[0].Attributes[0].Value.AsString() != c.exc):
				t.Errorf("events %v, want one exception of type %s", op.Events, c.exc)
			}
			for _, kv := range op.Attributes {
				if strings.Contains(kv.Value.String(), "canary") {
					t.Errorf("secret leaks in %s=%s", kv.Key, kv.Value.String())
				}
			}
		})
	}
}

func TestClient(t *testing.T) {
	w := &world{types: map[int32]string{1: "*net.OpError", 2: "*os.SyscallError", 3: "*syscall.Errno", 4: "*errors.errorString"}}
	base := func() *record {
		r := newRecord(bpfNethttpEventTypeNH_CLIENT).str(bpfNhStrS_METHOD, "").str(bpfNhStrS_SCHEME, "https").
			str(bpfNhStrS_HOST, "[::1]:9443").str(bpfNhStrS_URI, "/a b").str(bpfNhStrS_QUERY, "api_key=canary&n=1")
		r.ev.ProtoMajor, r.ev.ProtoMinor, r.ev.Status, r.ev.RespSize = 2, 0, 200, 10
		return r
	}
	for name, c := range map[string]struct {
		edit func(*record)
		want map[string]any
		err  bool
	}{
		"plain": {want: map[string]any{
			"http.request.method": "GET", "url.full": "https://[::1]:9443/a%20b?api_key=REDACTED&n=1",
			"server.address": "::1", "server.port": int64(9443), "http.response.status_code": int64(200),
			"network.protocol.version": "2", "http.response.body.size": int64(10), "error.type": nil,
		}},
		"credentials": {edit: func(r *record) { r.flags(bpfNhFlagF_USERINFO) },
			want: map[string]any{"url.full": "https://REDACTED:REDACTED@[::1]:9443/a%20b?api_key=REDACTED&n=1"}},
		"path as encoded": {edit: func(r *record) { r.flags(bpfNhFlagF_RAW_PATH).str(bpfNhStrS_URI, "/a%2Fb") },
			want: map[string]any{"url.full": "https://[::1]:9443/a%2Fb?api_key=REDACTED&n=1"}},
		"404": {edit: func(r *record) { r.ev.Status = 404 }, err: true,
			want: map[string]any{"error.type": "404", "http.response.status_code": int64(404)}},
		"refused": {edit: func(r *record) {
			r.flags(bpfNhFlagF_ERROR, bpfNhFlagF_CONN_ERROR)
			r.ev.Status, r.ev.Err.N = 0, 3
			r.ev.Err.Type[0].TypeName, r.ev.Err.Type[1].TypeName = 1, 2
			r.ev.Err.Type[2].TypeName, r.ev.Err.Type[2].Tflag = 3, probe.TflagExtraStar
			r.ev.Err.Raw[0] = 111
		}, err: true, want: map[string]any{"error.type": "connection_refused", "http.response.status_code": nil}},
		"cancelled": {edit: func(r *record) {
			r.flags(bpfNhFlagF_ERROR).str(bpfNhStrS_ERR_MSG, "context canceled")
			r.ev.Err.N = 1
			r.ev.Err.Type[0].TypeName = 4
		}, err: true, want: map[string]any{"error.type": "canceled"}},
		"IPv4 peer in a 16-byte address": {edit: func(r *record) {
			copy(r.ev.PeerIp[:], []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1})
			r.ev.PeerIpLen, r.ev.PeerPort = 16, 9443
		}, want: map[string]any{"network.peer.address": "127.0.0.1", "network.peer.port": int64(9443)}},
	} {
		t.Run(name, func(t *testing.T) {
			r := base()
			if c.edit != nil {
				c.edit(r)
			}
			op := decode(t, w.decoder(t), r)[0]
			got := attrs(op)
			for k, v := range c.want {
				if diff := cmp.Diff(v, got[k]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", k, diff)
				}
			}
			if op.Name != "GET" || (op.Status == codes.Error) != c.err {
				t.Errorf("name %q status %v, want GET, error: %v", op.Name, op.Status, c.err)
			}
		})
	}
}

func TestPeerService(t *testing.T) {
	asked := 0
	d := newDecoder(probe.DecoderEnv{}, Config{Redact: redact.New(nil), PeerName: func(host string) string {
		asked++
		return map[string]string{"broker.example": "broker", "::1": "here"}[host]
	}}, nil)
	for _, c := range []struct{ host, want string }{
		{"broker.example:9443", "broker"}, {"broker.example", "broker"}, {"[::1]:80", "here"}, {"other", ""}, {"other", ""},
	} {
		r := newRecord(bpfNethttpEventTypeNH_CLIENT).str(bpfNhStrS_SCHEME, "https").str(bpfNhStrS_HOST, c.host)
		got, _ := attrs(decode(t, d, r)[0])["peer.service"].(string)
		if got != c.want {
			t.Errorf("%s: peer.service %q, want %q", c.host, got, c.want)
		}
	}
	if asked != 4 {
		t.Errorf("the rules were asked %d times for 4 hosts", asked)
	}
}

func TestUpgradeIs101(t *testing.T) {
	r := newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, "GET").str(bpfNhStrS_UPGRADE, "websocket").flags(bpfNhFlagF_HIJACKED)
	if got := attrs(decode(t, (&world{}).decoder(t), r)[0])["http.response.status_code"]; got != int64(101) {
		t.Errorf("status %v, want 101", got)
	}
}

func TestRefusesWhatIsNotSane(t *testing.T) {
	w := &world{}
	r := newRecord(bpfNethttpEventTypeNH_UNSANE)
	r.ev.Status = int32(bpfNhCheckCHECK_URL)
	if ops := decode(t, w.decoder(t), r); len(ops) != 0 || len(w.refused) != 1 {
		t.Fatalf("operations %v, refused %v; want none, one reason", ops, w.refused)
	}
	if !strings.Contains(w.refused[0], "http.Request.URL") {
		t.Errorf("reason %q does not name the field", w.refused[0])
	}
}

// The point on ServeMux goes when it only ever saw the server's own request, and
// comes back when a served request has no route.
func TestMuxPointIsTakenOffAndPutBack(t *testing.T) {
	w := &world{}
	d := w.decoder(t)
	served := func(f bpfNhFlag, route string) {
		r := newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, "GET").flags(f, bpfNhFlagF_WROTE_HEADER)
		r.ev.Status = 200
		if route != "" {
			r.str(bpfNhStrS_ROUTE, route)
		}
		decode(t, d, r)
	}
	for range muxTrial {
		served(bpfNhFlagF_MUX_SAME, "/a")
	}
	served(0, "/a")
	if diff := cmp.Diff([]bool{false}, w.points); diff != "" {
		t.Fatalf("after %d requests (-want +got):\n%s", muxTrial, diff)
	}
	served(0, "")
	if diff := cmp.Diff([]bool{false, true}, w.points); diff != "" {
		t.Fatalf("after a request without route (-want +got):\n%s", diff)
	}
	served(bpfNhFlagF_MUX_COPY, "/a")
	for range muxTrial * 40 {
		served(bpfNhFlagF_MUX_SAME, "/a")
	}
	if len(w.points) != 2 {
		t.Errorf("points %v: taken off although ServeMux was given copies", w.points)
	}
}

// TestMuxPointIsAskedForAgain: what was asked for may fail, which the decoder is not
// told; as long as the records do not show it, it asks again, ever more rarely.
func TestMuxPointIsAskedForAgain(t *testing.T) {
	w := &world{}
	d := w.decoder(t)
	served := func(n int, f bpfNhFlag) {
		for range n {
			r := newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, "GET").flags(f, bpfNhFlagF_WROTE_HEADER)
			r.ev.Status = 200
			decode(t, d, r)
		}
	}
	asked := func(what string, want ...bool) {
		t.Helper()
		if diff := cmp.Diff(want, w.points); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", what, diff)
		}
		w.points = nil
	}
	served(2*muxTrial, bpfNhFlagF_MUX_SAME)
	asked("it is still there after a request to take it off", false, false)
	served(1, 0)
	asked("first request without a route", true)
	served(15, 0)
	asked("it does not come", true)
	served(200, 0)
	asked("and not for long")
	served(muxTrial*16, bpfNhFlagF_MUX_SAME)
	asked("it came and is not needed", false)
	served(1, 0)
	asked("needed again", true)
}

// A record cut at any byte is an error or the whole operation, never a panic.
func TestTruncatedRecords(t *testing.T) {
	w := &world{}
	d := w.decoder(t)
	raw := newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, "GET").str(bpfNhStrS_HOST, "h").raw()
	for n := range raw {
		rec := event.Record{Header: event.Header{ProbeID: uint16(ID), Type: uint8(bpfNethttpEventTypeNH_SERVER)}, Raw: raw[:n]}
		if err := d.Decode(rec, func(*telemetry.Operation) {}); !errors.Is(err, ErrRecord) {
			t.Fatalf("cut at byte %d of %d: error %v, want ErrRecord", n, len(raw), err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, "GET").str(bpfNhStrS_URI, "/?a=b").raw())
	f.Add(newRecord(bpfNethttpEventTypeNH_CLIENT).str(bpfNhStrS_HOST, "h:1").flags(bpfNhFlagF_ERROR).raw())
	f.Add(rawCounted(bpfNethttpCounted{Method: 'G' | 'E'<<8 | 'T'<<16}, "/a"))
	f.Add([]byte{})
	w := &world{}
	d := w.decoder(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		rec, err := event.Parse(raw)
		if err != nil {
			return
		}
		_ = d.Decode(rec, func(op *telemetry.Operation) {
			if op.Name == "" && !op.MetricsOnly {
				t.Error("operation without a name")
			}
		})
	})
}

func BenchmarkDecodeServer(b *testing.B) {
	w := &world{}
	d := w.decoder(b)
	r := newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, "GET").str(bpfNhStrS_URI, "/orders/17?x=1").
		str(bpfNhStrS_HOST, "shop:8080").str(bpfNhStrS_PEER, "10.0.0.7:4711").str(bpfNhStrS_ROUTE, "GET /orders/{id}").
		str(bpfNhStrS_USER_AGENT, "Go-http-client/1.1").flags(bpfNhFlagF_WROTE_HEADER)
	r.ev.Status, r.ev.ProtoMajor, r.ev.ProtoMinor = 200, 1, 1
	rec, err := event.Parse(r.raw())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Decode(rec, func(*telemetry.Operation) {}); err != nil {
			b.Fatal(err)
		}
	}
}

// With rules that look at more, an operation that is only counted has what spans have.
func TestCountedInFull(t *testing.T) {
	for _, full := range []bool{false, true} {
		d := newDecoder(probe.DecoderEnv{}, Config{Redact: redact.New(nil), CountFull: full}, nil)
		r := newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, "GET").str(bpfNhStrS_URI, "/a").str(bpfNhStrS_HOST, "h")
		r.ev.TraceFlags = 0
		op := decode(t, d, r)[0]
		if _, has := attrs(op)["url.path"]; has != full || !op.MetricsOnly || len(op.Measurements) == 0 {
			t.Errorf("full %v: attributes %v, only counted %v, %d measurements", full, attrs(op), op.MetricsOnly, len(op.Measurements))
		}
	}
}

// rawCounted is the record of a request that is counted only.
func rawCounted(c bpfNethttpCounted, route string) []byte {
	n := countedHead + len(route)
	c.RouteLen = uint16(copy(c.Route[:], route))
	c.Hdr.ProbeId, c.Hdr.Type, c.Hdr.Len = uint16(ID), uint8(bpfNethttpEventTypeNH_COUNTED), uint32(n)
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&c)), n)...)
}

// The short record gives the same measurements as the long one of a request like it; cut
// anywhere it is refused.
func TestCountedRecord(t *testing.T) {
	d := newDecoder(probe.DecoderEnv{}, Config{Redact: redact.New(nil)}, nil)
	long := newRecord(bpfNethttpEventTypeNH_SERVER).str(bpfNhStrS_METHOD, "DELETE").str(bpfNhStrS_URI, "/a/7").
		str(bpfNhStrS_ROUTE, "DELETE /a/{id}").flags(bpfNhFlagF_TLS, bpfNhFlagF_WROTE_HEADER)
	long.ev.TraceFlags, long.ev.Status, long.ev.ReqSize, long.ev.RespSize = 0, 503, 5, 6
	long.ev.ProtoMajor, long.ev.ProtoMinor = 1, 1
	want := slices.Clone(decode(t, d, long)[0].Measurements)

	c := bpfNethttpCounted{StartNs: long.ev.StartNs, EndNs: long.ev.EndNs, ReqSize: 5, RespSize: 6, Status: 503,
		Flags: long.ev.Flags, ProtoMajor: 1, ProtoMinor: 1}
	copy((*[8]byte)(unsafe.Pointer(&c.Method))[:], "DELETE")
	raw := rawCounted(c, "DELETE /a/{id}")
	var got *telemetry.Operation
	rec, err := event.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Decode(rec, func(op *telemetry.Operation) { got = op }); err != nil {
		t.Fatal(err)
	}
	if !got.MetricsOnly || got.Status != codes.Error || len(got.Measurements) != 3 {
		t.Fatalf("only counted %v, status %v, %d measurements", got.MetricsOnly, got.Status, len(got.Measurements))
	}
	for i, m := range got.Measurements {
		if m.Instrument != want[i].Instrument || m.Value != want[i].Value || !m.Attributes.Equals(&want[i].Attributes) {
			t.Errorf("measurement %d: %v, of the long record %v", i, m, want[i])
		}
	}
	for n := range raw {
		rec.Raw = raw[:n]
		err := d.Decode(rec, func(*telemetry.Operation) {
			t.Errorf("an operation of the first %d bytes", n)
		})
		if !errors.Is(err, ErrRecord) {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
}
