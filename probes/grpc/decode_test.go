package grpc

import (
	"errors"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// record builds the bytes that a program would have sent.
type record struct {
	ev   bpfGrpcEvent
	kind bpfGrpcEventType
}

func newRecord(kind bpfGrpcEventType) *record {
	r := &record{kind: kind}
	r.ev.Call.TraceId, r.ev.Call.SpanId = [2]uint64{1, 2}, 3
	r.ev.Call.StartNs, r.ev.Call.EndNs = 1000, 5000
	r.ev.Call.TraceFlags = 1
	return r
}

func (r *record) str(i bpfGrStr, s string) *record {
	n := r.ev.Call.TailLen
	copy(r.ev.Tail[n:], s)
	r.ev.Str[i].Off, r.ev.Str[i].Len = uint16(n), uint16(len(s))
	r.ev.Call.TailLen += uint32(len(s))
	return r
}

func (r *record) flags(fs ...bpfGrFlag) *record {
	for _, f := range fs {
		r.ev.Call.Flags |= uint32(f)
	}
	return r
}

// status is a google.rpc.Status as new generators lay it out.
func (r *record) status(code uint64, message string) *record {
	r.ev.Status[1] = code
	if message != "" {
		r.ev.Status[2], r.ev.Status[3] = 0xc000010000, uint64(len(message))
		r.str(bpfGrStrS_MESSAGE, message)
	}
	return r.flags(bpfGrFlagF_STATUS)
}

// err is an error of one level, whose type has the number.
func (r *record) err(typ int32, text string) *record {
	r.ev.Errs.N, r.ev.Errs.Type[0].TypeName = 1, typ
	return r.str(bpfGrStrS_MESSAGE, text).flags(bpfGrFlagF_ERROR)
}

func (r *record) peer(port uint32, ip ...byte) *record {
	r.ev.PeerIpLen, r.ev.PeerPort = uint8(copy(r.ev.PeerIp[:], ip)), port
	return r
}

func (r *record) raw() []byte {
	n := headLen + int(r.ev.Call.TailLen)
	h := &r.ev.Call.Hdr
	h.ProbeId, h.Type, h.Len = uint16(ID), uint8(r.kind), uint32(n)
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&r.ev)), n)...)
}

var types = map[int32]string{
	7: "*errors.errorString", 8: "string", 9: "context.deadlineExceededError", 10: "transport.ConnectionError", 11: "*main.oops",
}

func newTestDecoder(cfg Config, refused *[]string) *decoder {
	return newDecoder(probe.DecoderEnv{
		TypeName: func(_ uint32, off int32) string { return types[off] },
		Refuse:   func(_ uint32, reason string) { *refused = append(*refused, reason) },
	}, cfg)
}

func decode(t testing.TB, d *decoder, raw []byte) *telemetry.Operation {
	t.Helper()
	rec, err := event.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	var ops []*telemetry.Operation
	if err := d.Decode(rec, func(op *telemetry.Operation) { ops = append(ops, op) }); err != nil {
		t.Fatal(err)
	}
	if len(ops) != 1 {
		t.Fatalf("%d operations of one record", len(ops))
	}
	return ops[0]
}

func attrs(op *telemetry.Operation) map[string]any {
	m := map[string]any{}
	for _, kv := range op.Attributes {
		m[string(kv.Key)] = kv.Value.AsInterface()
	}
	return m
}

type m = map[string]any

func TestDecode(t *testing.T) {
	const (
		serve = bpfGrpcEventTypeGR_SERVER
		call  = bpfGrpcEventTypeGR_CLIENT
	)
	method := func(kind bpfGrpcEventType) *record { return newRecord(kind).str(bpfGrStrS_METHOD, "/shop.Cart/Add") }
	own := func(add m) m {
		out := m{"rpc.system.name": "grpc", "rpc.method": "shop.Cart/Add"}
		for k, v := range add {
			out[k] = v
		}
		return out
	}
	for name, c := range map[string]struct {
		rec   *record
		cfg   Config
		name  string
		attrs m
		err   bool
		desc  string
		exc   int
	}{
		"served": {rec: method(serve).str(bpfGrStrS_TARGET, "shop:8080").peer(4711, 10, 0, 0, 7).status(0, ""),
			attrs: own(m{"server.address": "shop", "server.port": int64(8080), "client.address": "10.0.0.7",
				"network.peer.address": "10.0.0.7", "network.peer.port": int64(4711), "rpc.response.status_code": "OK"})},
		"the client's fault is no error of the server": {rec: method(serve).status(5, "no user bob"),
			attrs: own(m{"rpc.response.status_code": "NOT_FOUND"})},
		"the server's fault": {rec: method(serve).status(13, "no user bob"), err: true,
			attrs: own(m{"rpc.response.status_code": "INTERNAL", "error.type": "INTERNAL"})},
		"message wanted": {rec: method(serve).status(13, "no user bob"), cfg: Config{StatusMessages: true}, err: true, desc: "no user bob",
			attrs: own(m{"rpc.response.status_code": "INTERNAL", "error.type": "INTERNAL"})},
		"code of nobody": {rec: method(call).status(77, ""), err: true,
			attrs: own(m{"rpc.response.status_code": "CODE(77)", "error.type": "CODE(77)"})},
		"method of nobody": {rec: method(serve).status(12, "unknown service shop.Cart"), name: "grpc", err: true,
			attrs: m{"rpc.system.name": "grpc", "rpc.method": "_OTHER", "rpc.method_original": "shop.Cart/Add",
				"rpc.response.status_code": "UNIMPLEMENTED", "error.type": "UNIMPLEMENTED"}},
		"handler says unimplemented": {rec: method(serve).status(12, "later"), err: true,
			attrs: own(m{"rpc.response.status_code": "UNIMPLEMENTED", "error.type": "UNIMPLEMENTED"})},
		"recovered panic": {rec: func() *record {
			r := method(serve).status(13, "").flags(bpfGrFlagF_SAW_PANIC).str(bpfGrStrS_PANIC, "boom")
			r.ev.PanicType.TypeName = 8
			return r
		}(), err: true, exc: 1, attrs: own(m{"rpc.response.status_code": "INTERNAL", "error.type": "INTERNAL"})},
		"panic that the handler dealt with": {rec: method(serve).status(0, "").flags(bpfGrFlagF_SAW_PANIC),
			attrs: own(m{"rpc.response.status_code": "OK"})},
		"panic": {rec: func() *record {
			r := method(serve).flags(bpfGrFlagF_SAW_PANIC, bpfGrFlagF_PANIC).str(bpfGrStrS_PANIC, "boom")
			r.ev.PanicType.TypeName = 8
			return r
		}(), err: true, desc: "handler panicked", exc: 1, attrs: own(m{"error.type": "string"})},
		"goexit": {rec: method(serve).flags(bpfGrFlagF_GOEXIT), err: true, desc: "handler called runtime.Goexit",
			attrs: own(m{"error.type": "runtime.Goexit"})},
		"response not sent": {rec: method(serve).err(10, "").flags(bpfGrFlagF_UNSENT), err: true, desc: "the response could not be sent",
			attrs: own(m{"error.type": "connection_closed"})},
		"called": {rec: method(call).str(bpfGrStrS_TARGET, "dns:///shop.example:443").peer(443, 10, 0, 0, 7),
			attrs: own(m{"server.address": "shop.example", "server.port": int64(443), "network.peer.address": "10.0.0.7",
				"network.peer.port": int64(443), "rpc.response.status_code": "OK"})},
		"end of stream": {rec: method(call).err(7, "EOF"), attrs: own(m{"rpc.response.status_code": "OK"})},
		"every code is an error of the client": {rec: method(call).status(5, "no user bob"), err: true,
			attrs: own(m{"rpc.response.status_code": "NOT_FOUND", "error.type": "NOT_FOUND"})},
		"refused": {rec: method(call).status(14, `connection error: desc = "transport: dial tcp 10.0.0.7:1: connect: connection refused"`), err: true,
			desc: "connection refused", attrs: own(m{"rpc.response.status_code": "UNAVAILABLE", "error.type": "UNAVAILABLE"})},
		"no status: deadline": {rec: method(call).err(9, ""), err: true, desc: "context deadline exceeded",
			attrs: own(m{"rpc.response.status_code": "DEADLINE_EXCEEDED", "error.type": "DEADLINE_EXCEEDED"})},
		"no status: cancelled": {rec: method(call).err(7, "context canceled"), err: true, desc: "context canceled",
			attrs: own(m{"rpc.response.status_code": "CANCELLED", "error.type": "CANCELLED"})},
		"no status: connection": {rec: method(call).err(10, ""), err: true,
			attrs: own(m{"rpc.response.status_code": "UNAVAILABLE", "error.type": "UNAVAILABLE"})},
		"no status: anything": {rec: method(call).err(11, "password"), err: true,
			attrs: own(m{"rpc.response.status_code": "UNKNOWN", "error.type": "UNKNOWN"})},
	} {
		t.Run(name, func(t *testing.T) {
			op := decode(t, newTestDecoder(c.cfg, nil), c.rec.raw())
			if c.name == "" {
				c.name = "shop.Cart/Add"
			}
			if diff := cmp.Diff(c.attrs, attrs(op)); diff != "" || op.Name != c.name {
				t.Errorf("name %q, want %q; attributes (-want +got):\n%s", op.Name, c.name, diff)
			}
			if (op.Status == codes.Error) != c.err || op.StatusDescription != c.desc || len(op.Events) != c.exc {
				t.Errorf("status %v %q, %d events; want error %v %q, %d", op.Status, op.StatusDescription, len(op.Events), c.err, c.desc, c.exc)
			}
			want := trace.SpanKindServer
			if c.rec.kind == call {
				want = trace.SpanKindClient
			}
			if op.Kind != want {
				t.Errorf("kind %v, want %v", op.Kind, want)
			}
		})
	}
}

// Both layouts of google.rpc.Status are told apart by what is in them.
func TestStatusCode(t *testing.T) {
	const ptr = 0xc000010000
	for name, c := range map[string]struct {
		w    [8]uint64
		want uint32
	}{
		"nothing":                       {want: 0},
		"new, code":                     {[8]uint64{1: 5}, 5},
		"new, message":                  {[8]uint64{1: 5, 2: ptr, 3: 4}, 5},
		"new, OK with message":          {[8]uint64{2: ptr, 3: 4}, 0},
		"new, details":                  {[8]uint64{1: 9, 4: ptr, 5: 1, 6: 1}, 9},
		"new, message and details":      {[8]uint64{1: 9, 2: ptr, 3: 4, 4: ptr, 5: 1, 6: 1}, 9},
		"old, code":                     {[8]uint64{5: 5}, 5},
		"old, message":                  {[8]uint64{5: 5, 6: ptr, 7: 4}, 5},
		"old, OK with message":          {[8]uint64{6: ptr, 7: 4}, 0},
		"old, that was marshalled once": {[8]uint64{1: 17, 5: 5, 6: ptr, 7: 4}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			if got := statusCode(c.w); got != c.want {
				t.Errorf("code %d, want %d", got, c.want)
			}
		})
	}
}

func TestEndpoint(t *testing.T) {
	for target, want := range map[string]string{
		"shop:80": "shop:80", "dns:///shop:80": "shop:80", "dns://8.8.8.8/shop:80": "shop:80", "passthrough:///10.0.0.1:80": "10.0.0.1:80",
		"unix:///run/x.sock": "/run/x.sock", "unix:/run/x.sock": "/run/x.sock", "[::1]:80": "[::1]:80", "dns:shop:80": "shop:80", "": "", "://": "", "x://": "",
	} {
		if got := endpoint(target); got != want {
			t.Errorf("endpoint of %q: %q, want %q", target, got, want)
		}
	}
}

func TestUnsane(t *testing.T) {
	var refused []string
	r := newRecord(bpfGrpcEventType(probe.TypeUnsane))
	r.ev.Call.Flags = uint32(bpfGrCheckCHECK_STREAM)
	rec, err := event.Parse(r.raw())
	if err != nil {
		t.Fatal(err)
	}
	if err := newTestDecoder(Config{}, &refused).Decode(rec, nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"grpc's transport.Stream is not where the known layouts of this version have it"}
	if diff := cmp.Diff(want, refused); diff != "" {
		t.Error(diff)
	}
}

// A record cut at any byte is an error, never a panic.
func TestTruncatedRecords(t *testing.T) {
	d := newTestDecoder(Config{}, nil)
	raw := newRecord(bpfGrpcEventTypeGR_SERVER).str(bpfGrStrS_METHOD, "/a/b").status(13, "no").raw()
	for n := range raw {
		rec := event.Record{Header: event.Header{ProbeID: uint16(ID), Type: uint8(bpfGrpcEventTypeGR_SERVER)}, Raw: raw[:n]}
		if err := d.Decode(rec, func(*telemetry.Operation) {}); !errors.Is(err, ErrRecord) {
			t.Fatalf("cut at byte %d of %d: error %v, want ErrRecord", n, len(raw), err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(newRecord(bpfGrpcEventTypeGR_SERVER).str(bpfGrStrS_METHOD, "/a/b").status(12, "unknown service a").raw())
	f.Add(newRecord(bpfGrpcEventTypeGR_CLIENT).str(bpfGrStrS_TARGET, "dns:///h:1").err(7, "EOF").raw())
	f.Add([]byte{})
	var refused []string
	d := newTestDecoder(Config{StatusMessages: true}, &refused)
	f.Fuzz(func(_ *testing.T, raw []byte) {
		rec, err := event.Parse(raw)
		if err != nil {
			return
		}
		_ = d.Decode(rec, func(*telemetry.Operation) {})
	})
}
