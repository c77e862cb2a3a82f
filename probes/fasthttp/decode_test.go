package fasthttp

import (
	"maps"
	"testing"
	"unsafe"

	"go.opentelemetry.io/otel/codes"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/httpattr"
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

func decodeRaw(b []byte, emit func(*telemetry.Operation)) error {
	rec, err := event.Parse(b)
	if err != nil {
		return err
	}
	return (&decoder{duration: httpattr.NewServerDuration(), cfg: Config{Redact: redact.New(nil)}, env: probe.DecoderEnv{Refuse: func(uint32, string) {}}}).Decode(rec, emit)
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

func FuzzDecode(f *testing.F) {
	f.Add(raw(&bpfFhEvent{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = decodeRaw(b, func(*telemetry.Operation) {})
	})
}
