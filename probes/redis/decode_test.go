package redis

import (
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// record builds the bytes that a program would have sent.
type record struct{ ev bpfRedisEvent }

func newRecord(lib bpfRdLib) *record {
	r := &record{}
	r.ev.Lib = uint32(lib)
	r.ev.Call.TraceId, r.ev.Call.SpanId = [2]uint64{1, 2}, 3
	r.ev.Call.StartNs, r.ev.Call.EndNs = 1000, 5000
	r.ev.Call.Flags = uint32(bpfRdFlagF_DB)
	return r
}

func (r *record) str(i int, s string) *record {
	at := r.ev.Call.TailLen
	copy(r.ev.Tail[at:], s)
	r.ev.Str[i].Off, r.ev.Str[i].Len = uint16(at), uint16(len(s))
	r.ev.Call.TailLen += uint32(len(s))
	return r
}

// cmd adds a command with its number of words.
func (r *record) cmd(i int, name string, words int) *record {
	r.ev.N_args[i] = uint32(words)
	return r.str(int(bpfRdStrS_NAME0)+i, name)
}

func (r *record) batch(n int) *record {
	r.ev.Batch = uint32(n)
	r.ev.Call.Flags |= uint32(bpfRdFlagF_BATCH)
	return r
}

func (r *record) arg(i int, kind uint8, s string) *record {
	r.ev.ArgKind[i] = kind
	return r.str(int(bpfRdStrS_ARG0)+i, s)
}

// err adds an error of the type with number typ.
func (r *record) err(typ int32, text string) *record {
	r.ev.Call.Flags |= uint32(bpfRdFlagF_ERROR)
	r.ev.Err.Type[0].TypeName, r.ev.Err.N = typ, 1
	return r.str(int(bpfRdStrS_ERR), text)
}

func (r *record) raw() []byte {
	n := headLen + int(r.ev.Call.TailLen)
	h := &r.ev.Call.Hdr
	h.ProbeId, h.Type, h.Len = uint16(ID), uint8(bpfRedisEventTypeRD_CALL), uint32(n)
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&r.ev)), n)...)
}

var types = map[int32]string{1: "proto.RedisError", 2: "*errors.errorString", 3: "*proto.LoadingError"}

func newDecoder(cfg Config, refused *[]string) probe.Decoder {
	return New(cfg).NewDecoder(probe.DecoderEnv{
		TypeName: func(_ uint32, off int32) string { return types[off] },
		Refuse:   func(_ uint32, reason string) { *refused = append(*refused, reason) },
	})
}

func decode(t testing.TB, d probe.Decoder, raw []byte) (ops []*telemetry.Operation, err error) {
	t.Helper()
	rec, err := event.Parse(raw)
	if err != nil {
		return nil, err
	}
	err = d.Decode(rec, func(op *telemetry.Operation) { ops = append(ops, op) })
	return ops, err
}

func TestDecode(t *testing.T) {
	const addr = int(bpfRdStrS_ADDR)
	for _, c := range []struct {
		name  string
		rec   *record
		text  QueryText
		op    string
		attrs map[string]string // besides db.system.name and db.operation.name
		code  codes.Code
	}{
		{name: "command", rec: newRecord(bpfRdLibLIB_V9).cmd(0, "set", 3).str(addr, "cache:6379"), op: "SET",
			attrs: map[string]string{"db.namespace": "0", "db.redis.key_count": "1", "db.query.text": "SET ? ?", "server.address": "cache", "server.port": "6379"}},
		{name: "socket", rec: newRecord(bpfRdLibLIB_V8).cmd(0, "ping", 1).str(addr, "/run/redis.sock"), op: "PING",
			attrs: map[string]string{"db.namespace": "0", "db.query.text": "PING", "server.address": "/run/redis.sock"}},
		{name: "sentinel's stand-in", rec: newRecord(bpfRdLibLIB_V9).cmd(0, "ping", 1).str(addr, "FailoverClient"), op: "PING",
			attrs: map[string]string{"db.namespace": "0", "db.query.text": "PING"}},
		{name: "keys in pairs", rec: newRecord(bpfRdLibLIB_V9).cmd(0, "mset", 7), op: "MSET", text: TextOff,
			attrs: map[string]string{"db.namespace": "0", "db.redis.key_count": "3"}},
		{name: "no name", rec: newRecord(bpfRdLibLIB_V9).cmd(0, "", 0), op: "UNKNOWN",
			attrs: map[string]string{"db.namespace": "0", "db.query.text": "UNKNOWN"}},
		{name: "many words", rec: newRecord(bpfRdLibLIB_V9).cmd(0, "del", 1000000), op: "DEL",
			attrs: map[string]string{"db.namespace": "0", "db.redis.key_count": "999999", "db.query.text": "DEL" + strings.Repeat(" ?", 64) + " ..."}},
		{name: "values", rec: newRecord(bpfRdLibLIB_V9).cmd(0, "set", 5).arg(0, 24, "k").arg(1, 23, "v\n").arg(2, 6, "\x07\x00\x00\x00\x00\x00\x00\x00"), op: "SET", text: TextFull,
			attrs: map[string]string{"db.namespace": "0", "db.redis.key_count": "1", "db.query.text": `SET "k" "v\n" 7 ?`}},
		{name: "pipeline", rec: newRecord(bpfRdLibLIB_V9).batch(2).cmd(0, "get", 2).cmd(1, "GET", 2), op: "PIPELINE GET",
			attrs: map[string]string{"db.namespace": "0", "db.operation.batch.size": "2", "db.query.text": "GET ?; GET ?"}},
		{name: "transaction", rec: newRecord(bpfRdLibLIB_V9).batch(4).cmd(0, "multi", 1).cmd(1, "incr", 2).cmd(2, "get", 2).cmd(3, "exec", 1), op: "MULTI",
			attrs: map[string]string{"db.namespace": "0", "db.operation.batch.size": "2", "db.query.text": "INCR ?; GET ?"}},
		{name: "transaction of nothing", rec: newRecord(bpfRdLibLIB_V9).batch(2).cmd(0, "multi", 1).cmd(1, "exec", 1), op: "MULTI",
			attrs: map[string]string{"db.namespace": "0"}},
		{name: "no such key", rec: newRecord(bpfRdLibLIB_V9).cmd(0, "get", 2).err(1, "redis: nil"), op: "GET", text: TextOff,
			attrs: map[string]string{"db.namespace": "0", "db.redis.key_count": "1"}},
		{name: "server's error", rec: newRecord(bpfRdLibLIB_V9).cmd(0, "get", 2).err(1, "WRONGTYPE secret"), op: "GET", text: TextOff, code: codes.Error,
			attrs: map[string]string{"db.namespace": "0", "db.redis.key_count": "1", "db.response.status_code": "WRONGTYPE", "error.type": "WRONGTYPE"}},
		{name: "server's typed error", rec: newRecord(bpfRdLibLIB_V9).cmd(0, "get", 2).err(3, "LOADING it"), op: "GET", text: TextOff, code: codes.Error,
			attrs: map[string]string{"db.namespace": "0", "db.redis.key_count": "1", "db.response.status_code": "LOADING", "error.type": "LOADING"}},
		{name: "error without a class", rec: newRecord(bpfRdLibLIB_V9).cmd(0, "get", 2).err(1, "secret things"), op: "GET", text: TextOff, code: codes.Error,
			attrs: map[string]string{"db.namespace": "0", "db.redis.key_count": "1", "db.response.status_code": "ERR", "error.type": "ERR"}},
		{name: "pool timeout", rec: newRecord(bpfRdLibLIB_V9).cmd(0, "get", 2).err(2, "redis: connection pool timeout"), op: "GET", text: TextOff, code: codes.Error,
			attrs: map[string]string{"db.namespace": "0", "db.redis.key_count": "1", "error.type": "pool_timeout"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.text == "" {
				c.text = TextShape
			}
			ops, err := decode(t, newDecoder(Config{QueryText: c.text}, new([]string)), c.rec.raw())
			if err != nil || len(ops) != 1 {
				t.Fatalf("%d operations, %v", len(ops), err)
			}
			got := map[string]string{}
			for _, kv := range ops[0].Attributes {
				got[string(kv.Key)] = kv.Value.String()
			}
			c.attrs["db.system.name"], c.attrs["db.operation.name"] = "redis", c.op
			if diff := cmp.Diff(c.attrs, got); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
			if ops[0].Status != c.code || ops[0].Name != c.op {
				t.Errorf("status %v, name %q", ops[0].Status, ops[0].Name)
			}
		})
	}
}

func TestUnsane(t *testing.T) {
	r := newRecord(bpfRdLibLIB_V9)
	r.ev.Call.Flags = uint32(bpfRdCheckCHECK_ARGS)
	raw := r.raw()
	raw[2] = probe.TypeUnsane
	var refused []string
	if ops, err := decode(t, newDecoder(Config{}, &refused), raw); err != nil || len(ops) != 0 {
		t.Fatalf("%d operations, %v", len(ops), err)
	}
	if len(refused) != 1 || !strings.Contains(refused[0], "arguments") {
		t.Errorf("refused: %q", refused)
	}
}

// TestTruncated: a record cut at any byte is refused or decoded, never a panic.
func TestTruncated(t *testing.T) {
	raw := newRecord(bpfRdLibLIB_V9).batch(2).cmd(0, "get", 2).cmd(1, "get", 2).err(1, "ERR x").raw()
	for n := range raw {
		cut := append([]byte(nil), raw[:n]...)
		if n >= event.HeaderLen {
			cut[4], cut[5] = byte(n), byte(n>>8)
		}
		if ops, err := decode(t, newDecoder(Config{QueryText: TextFull}, new([]string)), cut); err == nil || len(ops) > 0 {
			t.Fatalf("a record of %d of %d bytes is taken", n, len(raw))
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(newRecord(bpfRdLibLIB_V9).cmd(0, "set", 3).arg(0, 24, "k").raw())
	f.Add(newRecord(bpfRdLibLIB_V8).batch(4).cmd(0, "multi", 1).cmd(1, "incr", 2).err(1, "ERR x").raw())
	f.Add(newRecord(bpfRdLibLIB_REDIGO).batch(2).cmd(0, "EXEC", 1).raw())
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, text := range []QueryText{TextOff, TextShape, TextFull} {
			ops, err := decode(t, newDecoder(Config{QueryText: text}, new([]string)), raw)
			if err != nil {
				continue
			}
			for _, op := range ops {
				if len(op.Name) == 0 || len(op.Name) > 64 {
					t.Errorf("name %q", op.Name)
				}
			}
		}
	})
}
