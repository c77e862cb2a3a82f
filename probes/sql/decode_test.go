package sql

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
type record struct{ ev bpfSqlEvent }

func newRecord(flags ...bpfSqFlag) *record {
	r := &record{}
	r.ev.Call.TraceId, r.ev.Call.SpanId = [2]uint64{1, 2}, 3
	for _, f := range flags {
		r.ev.Call.Flags |= uint32(f)
	}
	return r
}

func (r *record) str(i bpfSqStr, s string) *record {
	at := r.ev.Call.TailLen
	copy(r.ev.Tail[at:], s)
	r.ev.Str[i].Off, r.ev.Str[i].Len = uint16(at), uint16(len(s))
	r.ev.Call.TailLen += uint32(len(s))
	return r
}

// with changes the record.
func (r *record) with(f func(*bpfSqlEvent)) *record { f(&r.ev); return r }

func (r *record) raw() []byte {
	n := headLen + int(r.ev.Call.TailLen)
	h := &r.ev.Call.Hdr
	h.ProbeId, h.Type, h.Len = uint16(ID), uint8(bpfSqlEventTypeSQ_CALL), uint32(n)
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&r.ev)), n)...)
}

var types = map[int32]string{1: "*pq.conn", 2: "*mysql.connector", 3: "driver.RowsAffected", 4: "*pgconn.PgError",
	5: "*mysql.MySQLError", 6: "*errors.errorString", 7: "*sqlite.conn", 8: "*sqlite.Error", 9: "*sql.dsnConnector"}

func decode(raw []byte, cfg Config) (ops []*telemetry.Operation, err error) {
	d := New(cfg).NewDecoder(probe.DecoderEnv{
		TypeName: func(_ uint32, off int32) string { return types[off] },
		Refuse:   func(uint32, string) {},
	})
	rec, err := event.Parse(raw)
	if err != nil {
		return nil, err
	}
	err = d.Decode(rec, func(op *telemetry.Operation) { ops = append(ops, op) })
	return ops, err
}

func TestDecode(t *testing.T) {
	driver := func(n int32) func(*bpfSqlEvent) { return func(e *bpfSqlEvent) { e.Driver.TypeName = n } }
	failed := func(n int32, raw uint64) func(*bpfSqlEvent) {
		return func(e *bpfSqlEvent) {
			e.Call.Flags |= uint32(bpfSqFlagF_ERROR)
			e.Err.Type[0].TypeName, e.Err.N, e.Err.Raw[0] = n, 1, raw
		}
	}
	for _, c := range []struct {
		name, span string
		rec        *record
		cfg        Config
		attrs      map[string]string
		code       codes.Code
	}{
		{name: "query of pgx", span: "SELECT t", cfg: Config{QueryText: TextShape},
			rec: newRecord(bpfSqFlagF_PGX, bpfSqFlagF_TAG).str(bpfSqStrS_HOST, "db").str(bpfSqStrS_DATABASE, "shop").
				str(bpfSqStrS_TEXT, "SELECT 1 FROM t").str(bpfSqStrS_TAG, "SELECT 3").with(func(e *bpfSqlEvent) { e.Port = 5432 }),
			attrs: map[string]string{"db.system.name": "postgresql", "db.operation.name": "SELECT", "db.collection.name": "t", "db.namespace": "shop",
				"db.query.text": "SELECT ? FROM t", "server.address": "db", "server.port": "5432", "db.response.returned_rows": "3"}},
		{name: "socket", span: "INSERT t", cfg: Config{QueryText: TextOff},
			rec:   newRecord(bpfSqFlagF_PGX, bpfSqFlagF_TAG).str(bpfSqStrS_HOST, "/run").str(bpfSqStrS_TEXT, "INSERT INTO t VALUES (1)").str(bpfSqStrS_TAG, "INSERT 0 7"),
			attrs: map[string]string{"db.system.name": "postgresql", "db.operation.name": "INSERT", "db.collection.name": "t", "server.address": "/run", "db.response.affected_rows": "7"}},
		{name: "full text", span: "UPDATE t", cfg: Config{QueryText: TextFull},
			rec: newRecord(bpfSqFlagF_RESULT).str(bpfSqStrS_TEXT, "UPDATE t SET a = 'x'").with(driver(1)).
				with(func(e *bpfSqlEvent) { e.Result.TypeName, e.ResultRaw[0] = 3, 5 }),
			attrs: map[string]string{"db.system.name": "postgresql", "db.operation.name": "UPDATE", "db.collection.name": "t",
				"db.query.text": "UPDATE t SET a = 'x'", "db.response.affected_rows": "5"}},
		{name: "cut", span: "SELECT", cfg: Config{QueryText: TextShape},
			rec:   newRecord(bpfSqFlagF_PGX).str(bpfSqStrS_TEXT, "SELECT 'abc").with(func(e *bpfSqlEvent) { e.Call.Flags |= 1 << 31 }),
			attrs: map[string]string{"db.system.name": "postgresql", "db.operation.name": "SELECT", "db.query.text": "SELECT ? ..."}},
		{name: "SQLSTATE", span: "SELECT t", cfg: Config{QueryText: TextOff}, code: codes.Error,
			rec: newRecord(bpfSqFlagF_PGX).str(bpfSqStrS_TEXT, "SELECT 1 FROM t").str(bpfSqStrS_CODE, "42P01").with(failed(4, 0)),
			attrs: map[string]string{"db.system.name": "postgresql", "db.operation.name": "SELECT", "db.collection.name": "t",
				"db.response.status_code": "42P01", "error.type": "42P01"}},
		{name: "MySQL's number", span: "SELECT t", cfg: Config{QueryText: TextOff}, code: codes.Error,
			rec: newRecord().str(bpfSqStrS_TEXT, "SELECT 1 FROM t").with(driver(2)).with(failed(5, 0x3130_3031_0000_047a)),
			attrs: map[string]string{"db.system.name": "mysql", "db.operation.name": "SELECT", "db.collection.name": "t",
				"db.response.status_code": "1146", "error.type": "1146"}},
		{name: "SQLite's number", span: "SELECT t", cfg: Config{QueryText: TextOff}, code: codes.Error,
			rec: newRecord(bpfSqFlagF_CODE).str(bpfSqStrS_TEXT, "SELECT 1 FROM t").with(driver(7)).with(failed(8, 0)).with(func(e *bpfSqlEvent) { e.Code[0] = 19 }),
			attrs: map[string]string{"db.system.name": "sqlite", "db.operation.name": "SELECT", "db.collection.name": "t",
				"db.response.status_code": "19", "error.type": "19"}},
		{name: "bad connection", span: "SELECT t", cfg: Config{QueryText: TextOff}, code: codes.Error,
			rec:   newRecord().str(bpfSqStrS_TEXT, "SELECT 1 FROM t").str(bpfSqStrS_ERR, "driver: bad connection").with(driver(1)).with(failed(6, 0)),
			attrs: map[string]string{"db.system.name": "postgresql", "db.operation.name": "SELECT", "db.collection.name": "t", "error.type": "connection_closed"}},
		{name: "commit", span: "COMMIT", cfg: Config{QueryText: TextShape},
			rec:   newRecord().with(driver(9)).with(func(e *bpfSqlEvent) { e.Kind, e.Driver2.TypeName = uint8(bpfSqKindK_COMMIT), 1 }),
			attrs: map[string]string{"db.system.name": "postgresql", "db.operation.name": "COMMIT"}},
		{name: "unknown driver, hostile text", span: "other_sql", cfg: Config{QueryText: TextShape},
			rec:   newRecord().str(bpfSqStrS_TEXT, "\xff' XQ"),
			attrs: map[string]string{"db.system.name": "other_sql", "db.query.text": "?"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ops, err := decode(c.rec.raw(), c.cfg)
			if err != nil || len(ops) != 1 {
				t.Fatalf("%d operations, %v", len(ops), err)
			}
			got := map[string]string{}
			for _, kv := range ops[0].Attributes {
				got[string(kv.Key)] = kv.Value.String()
			}
			if diff := cmp.Diff(c.attrs, got); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
			if ops[0].Status != c.code || ops[0].Name != c.span {
				t.Errorf("status %v, name %q", ops[0].Status, ops[0].Name)
			}
		})
	}
}

// TestPing: what pgx asks to see whether a connection lives is no statement.
func TestPing(t *testing.T) {
	if ops, err := decode(newRecord(bpfSqFlagF_PGX).str(bpfSqStrS_TEXT, "-- ping").raw(), Config{}); err != nil || len(ops) != 0 {
		t.Errorf("%d operations, %v", len(ops), err)
	}
}

// TestTruncated: a record cut at any byte is refused, never a panic.
func TestTruncated(t *testing.T) {
	raw := newRecord(bpfSqFlagF_PGX).str(bpfSqStrS_TEXT, "SELECT 1").raw()
	for n := range raw {
		cut := append([]byte(nil), raw[:n]...)
		if n >= event.HeaderLen {
			cut[4], cut[5] = byte(n), byte(n>>8)
		}
		if ops, err := decode(cut, Config{QueryText: TextShape}); err == nil || len(ops) > 0 {
			t.Fatalf("a record of %d of %d bytes is taken", n, len(raw))
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(newRecord(bpfSqFlagF_PGX, bpfSqFlagF_TAG).str(bpfSqStrS_TEXT, "SELECT 1").str(bpfSqStrS_TAG, "SELECT 1").raw())
	f.Add(newRecord(bpfSqFlagF_ERROR).str(bpfSqStrS_TEXT, "x").str(bpfSqStrS_CODE, "42P01").raw())
	f.Fuzz(func(t *testing.T, raw []byte) {
		ops, err := decode(raw, Config{QueryText: TextShape})
		if err != nil {
			return
		}
		for _, op := range ops {
			if op.Name == "" || strings.Contains(op.Name, "'") {
				t.Errorf("name %q", op.Name)
			}
		}
	})
}
