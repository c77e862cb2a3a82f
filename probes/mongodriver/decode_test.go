package mongodriver

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.opentelemetry.io/otel/codes"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
	"github.com/tracer-agent/tracer-agent/probes/wire/mongo"
)

// TestLayout: what Go mirrors by hand is what the C has.
func TestLayout(t *testing.T) {
	var c bpfTrCall
	var e bpfMongoEvent
	for name, pair := range map[string][2]uintptr{
		"tr_call":               {unsafe.Sizeof(c), probe.CallLen},
		"tr_call.flags":         {unsafe.Offsetof(c.Flags), event.HeaderLen + 56},
		"tr_call.tail_len":      {unsafe.Offsetof(c.TailLen), event.HeaderLen + 64},
		"tr_call.trace_flags":   {unsafe.Offsetof(c.TraceFlags), event.HeaderLen + 68},
		"tr_errs":               {unsafe.Sizeof(bpfTrErrs{}), probe.ErrsLen},
		"mongo_event.got":       {unsafe.Offsetof(e.Got), probe.CallLen + 4},
		"mongo_event.reply":     {unsafe.Offsetof(e.Reply), probe.CallLen + 8},
		"mongo_event.text":      {unsafe.Offsetof(e.Text), probe.CallLen + 12},
		"mongo_event.errs":      {unsafe.Offsetof(e.Errs), probe.CallLen + 16},
		"mongo_event.addr":      {unsafe.Offsetof(e.Addr), probe.CallLen + 20},
		"mongo_event.pool":      {unsafe.Offsetof(e.Pool), probe.CallLen + 24},
		"mongo_event.waited_ns": {unsafe.Offsetof(e.WaitedNs), probe.CallLen + 32},
		"mongo_event.waits":     {unsafe.Offsetof(e.Waits), probe.CallLen + 40},
		"mongo_event.sent":      {unsafe.Offsetof(e.Sent), probe.CallLen + 48},
		"mongo_event.request":   {unsafe.Offsetof(e.Request), probe.CallLen + 52},
		"mongo_event.end":       {unsafe.Offsetof(e.End), probe.CallLen + 56},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %d in C, %d in Go", name, pair[0], pair[1])
		}
	}
}

func TestOffsets(t *testing.T) {
	if _, err := offsets.Parse(offsetsJSON); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("fields.json"); err != nil {
		t.Fatal(err)
	}
}

// message is an OP_MSG.
func message(t testing.TB, id, to int32, doc bson.D) []byte {
	t.Helper()
	body, err := bson.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 21, 21+len(body))
	le := binary.LittleEndian
	le.PutUint32(b, uint32(21+len(body)))
	le.PutUint32(b[4:], uint32(id))
	le.PutUint32(b[8:], uint32(to))
	le.PutUint32(b[12:], 2013)
	return append(b, body...)
}

// raw is a record as the programs make it.
func raw(edit func(*bpfMongoEvent), request, reply []byte) []byte {
	var e bpfMongoEvent
	e.Call.SpanId, e.Call.TraceId, e.Call.TraceFlags = 3, [2]uint64{1, 2}, 1
	e.Call.StartNs, e.Call.EndNs = 100, 200
	e.Sent, e.Got = -1, -1
	put := func(off, length *uint16, b []byte) {
		*off, *length = uint16(e.Call.TailLen), uint16(len(b))
		e.Call.TailLen += uint32(copy(e.Tail[e.Call.TailLen:], b))
	}
	put(&e.Addr.Off, &e.Addr.Len, []byte("db.example:27018"))
	put(&e.Request.Off, &e.Request.Len, request)
	put(&e.Reply.Off, &e.Reply.Len, reply)
	e.Call.Hdr.Type = uint8(bpfMongoEventTypeMG_COMMAND)
	if edit != nil {
		edit(&e)
	}
	n := headLen + int(e.Call.TailLen)
	e.Call.Hdr.ProbeId, e.Call.Hdr.Len = uint16(ID), uint32(n)
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&e)), n)...)
}

func decode(t testing.TB, b []byte, mode mongo.TextMode) (ops []*telemetry.Operation, err error) {
	t.Helper()
	ops, _, err = decodeAsking(t, b, mode)
	return ops, err
}

// decodeAsking also returns the points that the decoder asked for.
func decodeAsking(t testing.TB, b []byte, mode mongo.TextMode) (ops []*telemetry.Operation, asked []string, err error) {
	t.Helper()
	env := probe.DecoderEnv{
		TypeName: func(uint32, int32) string { return "*net.OpError" }, Refuse: func(uint32, string) {},
		SetPoint: func(_ uint32, _ bool, points ...string) { asked = append(asked, points...) },
	}
	rec, err := event.Parse(b)
	if err != nil {
		return nil, nil, err
	}
	err = newDecoder(env, Config{QueryText: mode}).Decode(rec, func(op *telemetry.Operation) { ops = append(ops, op) })
	return ops, asked, err
}

func TestDecode(t *testing.T) {
	const canary = "CANARY"
	d := func(kv ...any) (out bson.D) {
		for i := 0; i < len(kv); i += 2 {
			out = append(out, bson.E{Key: kv[i].(string), Value: kv[i+1]})
		}
		return out
	}
	find := message(t, 7, 0, d("find", "orders", "filter", d("user", canary), "$db", "shop"))
	ok := message(t, 1, 7, d("cursor", d("firstBatch", bson.A{d("a", 1)}), "ok", 1.0))
	dup := message(t, 1, 7, d("n", 0, "writeErrors", bson.A{d("index", 0, "code", 11000, "errmsg", `dup key: { _id: "CANARY" }`)}, "ok", 1.0))
	for name, c := range map[string]struct {
		edit    func(*bpfMongoEvent)
		request []byte
		reply   []byte
		name    string
		status  codes.Code
		desc    string
		want    map[string]any
	}{
		"find": {request: find, reply: ok, name: "find orders", want: map[string]any{
			"db.system.name": "mongodb", "db.namespace": "shop", "db.collection.name": "orders", "db.operation.name": "find",
			"server.address": "db.example", "server.port": int64(27018), "db.query.text": `{find: "orders", filter: {user: ?}}`,
			"db.response.returned_rows": int64(1),
		}},
		"a failed write in a command that is ok": {request: message(t, 7, 0, d("insert", "orders", "documents", bson.A{d("_id", canary), d("_id", canary)}, "$db", "shop")), reply: dup,
			name: "insert orders", status: codes.Error, desc: "dup key: {?}", want: map[string]any{
				"db.system.name": "mongodb", "db.namespace": "shop", "db.collection.name": "orders", "db.operation.name": "insert",
				"server.address": "db.example", "server.port": int64(27018), "db.query.text": `{insert: "orders", documents: [?]}`,
				"db.operation.batch.size": int64(2), "mongodb.response.n": int64(0), "mongodb.response.write_errors": int64(1),
				"db.response.status_code": "11000", "error.type": "11000",
			}},
		"another command's reply": {request: find, reply: message(t, 1, 6, d("ok", 0.0)), name: "find orders", want: map[string]any{
			"db.system.name": "mongodb", "db.namespace": "shop", "db.collection.name": "orders", "db.operation.name": "find",
			"server.address": "db.example", "server.port": int64(27018), "db.query.text": `{find: "orders", filter: {user: ?}}`,
		}},
		"a reply whose header is made up": {request: find, reply: message(t, 0, 0, d("cursor", d("firstBatch", bson.A{d("a", 1), d("a", 2)}), "ok", 1.0)),
			edit: func(e *bpfMongoEvent) { e.Call.Flags |= uint32(bpfMgFlagF_NO_HEADER) }, name: "find orders", want: map[string]any{
				"db.system.name": "mongodb", "db.namespace": "shop", "db.collection.name": "orders", "db.operation.name": "find",
				"server.address": "db.example", "server.port": int64(27018), "db.query.text": `{find: "orders", filter: {user: ?}}`,
				"db.response.returned_rows": int64(2),
			}},
		"the network": {request: find, edit: func(e *bpfMongoEvent) {
			e.Call.Flags |= uint32(bpfMgFlagF_FAILED)
			errs := unsafe.Slice((*byte)(unsafe.Pointer(&bpfTrErrs{N: 1})), probe.ErrsLen)
			e.Errs.Off, e.Errs.Len = uint16(e.Call.TailLen), probe.ErrsLen
			e.Call.TailLen += uint32(copy(e.Tail[e.Call.TailLen:], errs))
		}, name: "find orders", status: codes.Error, desc: "*net.OpError", want: map[string]any{
			"db.system.name": "mongodb", "db.namespace": "shop", "db.collection.name": "orders", "db.operation.name": "find",
			"server.address": "db.example", "server.port": int64(27018), "db.query.text": `{find: "orders", filter: {user: ?}}`,
			"error.type": "*net.OpError",
		}},
		"monitoring": {request: message(t, 7, 0, d("hello", 1, "$db", "admin")), reply: ok},
	} {
		t.Run(name, func(t *testing.T) {
			b := raw(c.edit, c.request, c.reply)
			ops, err := decode(t, b, mongo.TextShape)
			if err != nil {
				t.Fatal(err)
			}
			if c.want == nil {
				if len(ops) != 0 {
					t.Fatalf("%d operations, want none", len(ops))
				}
				return
			}
			op, got := ops[0], map[string]any{}
			for _, kv := range op.Attributes {
				got[string(kv.Key)] = kv.Value.AsInterface()
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if op.Name != c.name || op.Status != c.status || op.StatusDescription != c.desc || strings.Contains(op.StatusDescription, canary) {
				t.Errorf("%q, status %v %q", op.Name, op.Status, op.StatusDescription)
			}
			for n := range len(b) {
				_, _ = decode(t, b[:n], mongo.TextFull) // must not panic
			}
		})
	}
}

// TestUndecodable: a command or reply that cannot be read is still a span with its
// duration, and is counted. Where it can be read before it is compressed, or after it has been
// decompressed, that is asked for.
func TestUndecodable(t *testing.T) {
	info := message(t, 7, 0, bson.D{{Key: "buildInfo", Value: 1}, {Key: "$db", Value: "admin"}})
	ok := message(t, 1, 7, bson.D{{Key: "ok", Value: 1}})
	packed := func(b []byte, missing uint32) []byte { // a zstd block's beginning
		out := append([]byte(nil), b[:16]...)
		binary.LittleEndian.PutUint32(out[12:], 2012)
		out = binary.LittleEndian.AppendUint32(out, 2013)
		out = binary.LittleEndian.AppendUint32(out, 100000)
		out = append(append(out, 3), 0x28, 0xb5, 0x2f, 0xfd, 0x04)
		binary.LittleEndian.PutUint32(out, uint32(len(out))+missing)
		return out
	}
	insert := message(t, 7, 0, bson.D{{Key: "insert", Value: "o"}, {Key: "$db", Value: "shop"}, {Key: "documents", Value: bson.A{bson.D{{Key: "a", Value: 1}}, bson.D{{Key: "a", Value: 2}}}}})
	batch := message(t, 1, 7, bson.D{{Key: "cursor", Value: bson.D{{Key: "firstBatch", Value: bson.A{bson.D{{Key: "a", Value: 1}}, bson.D{{Key: "a", Value: 2}}}}}}})
	snappy := func(b []byte) []byte { // all but the last bytes of a message, as one literal
		out := append([]byte(nil), b[:16]...)
		binary.LittleEndian.PutUint32(out[12:], 2012)
		out = binary.LittleEndian.AppendUint32(out, 2013)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(b)-16))
		out = append(out, 1, byte(len(b)-16)|0x80, byte((len(b)-16)>>7), 60<<2, byte(len(b)-16-1))
		out = append(out, b[16:]...)
		binary.LittleEndian.PutUint32(out, uint32(len(out)))
		return out[:len(out)-8]
	}
	for _, c := range []struct {
		what, name     string
		request, reply []byte
		asked          []string
	}{
		{"the beginning of a reply", "buildInfo admin", info, packed(ok, 2000), []string{"v1_read_failed", "v1_unpack_failed", "v1_decode", "v2_read_failed", "v2_unpack_failed", "v2_decode"}},
		{"the beginning of a command", "_OTHER", packed(info, 2000), ok, []string{"v1_pack", "v2_pack"}},
		{"both", "_OTHER", packed(info, 2000), packed(ok, 2000), []string{"v1_pack", "v2_pack", "v1_read_failed", "v1_unpack_failed", "v1_decode", "v2_read_failed", "v2_unpack_failed", "v2_decode"}},
		{"a batch and its beginning", "insert o", snappy(insert), snappy(batch), []string{"v1_pack", "v2_pack", "v1_read_failed", "v1_unpack_failed", "v1_decode", "v2_read_failed", "v2_unpack_failed", "v2_decode"}},
		{"no batch", "buildInfo", snappy(info), snappy(ok), nil},
		{"broken, but all there", "_OTHER", packed(info, 0), packed(ok, 0), nil},
	} {
		ops, asked, err := decodeAsking(t, raw(nil, c.request, c.reply), mongo.TextShape)
		if (err == nil) != strings.Contains(c.what, "batch") {
			t.Errorf("%s: error %v", c.what, err)
		}
		if len(ops) != 1 || ops[0].Name != c.name || len(ops[0].Measurements) != 1 {
			t.Errorf("%s: %v", c.what, ops)
		}
		if !slices.Equal(asked, c.asked) {
			t.Errorf("%s: asked for %v, want %v", c.what, asked, c.asked)
		}
	}
}

func TestRefuses(t *testing.T) {
	b := raw(func(e *bpfMongoEvent) {
		e.Call.Hdr.Type = probe.TypeUnsane
		e.Call.Flags = uint32(bpfMgCheckCHECK_ADDRESS)
	}, nil, nil)
	rec, err := event.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	var why string
	env := probe.DecoderEnv{Refuse: func(_ uint32, reason string) { why = reason }}
	if err := newDecoder(env, Config{}).Decode(rec, nil); err != nil || !strings.Contains(why, "connection.addr") {
		t.Errorf("%v, reason %q", err, why)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(raw(nil, message(f, 7, 0, bson.D{{Key: "ping", Value: 1}}), message(f, 1, 7, bson.D{{Key: "ok", Value: 1}})))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = decode(t, b, mongo.TextFull) })
}

// TestAllocations: of a command like one before, the span itself is allocated: the
// operation, its name, its attributes, its measurement, and one small temporary.
func TestAllocations(t *testing.T) {
	request := message(t, 7, 0, bson.D{{Key: "find", Value: "orders"}, {Key: "filter", Value: bson.D{{Key: "user", Value: "x"}}}, {Key: "$db", Value: "shop"}})
	reply := message(t, 1, 7, bson.D{{Key: "cursor", Value: bson.D{{Key: "firstBatch", Value: bson.A{}}}}, {Key: "ok", Value: 1.0}})
	rec, err := event.Parse(raw(nil, request, reply))
	if err != nil {
		t.Fatal(err)
	}
	d := newDecoder(probe.DecoderEnv{}, Config{QueryText: mongo.TextShape})
	spans := 0
	emit := func(*telemetry.Operation) { spans++ }
	n := testing.AllocsPerRun(1000, func() {
		if err := d.Decode(rec, emit); err != nil {
			t.Fatal(err)
		}
	})
	if n > 5 || spans == 0 {
		t.Errorf("%v allocations a command, want 5 at most; %d spans", n, spans)
	}
}

// TestSpare: what a program says it can do without is taken off its executable, of that major
// version only.
func TestSpare(t *testing.T) {
	find := message(t, 7, 0, bson.D{{Key: "find", Value: "orders"}, {Key: "$db", Value: "shop"}})
	for flag, want := range map[bpfMgFlag]string{bpfMgFlagF_SPARE_V1: "v1_read", bpfMgFlagF_SPARE_V2: "v2_read"} {
		var off []string
		env := probe.DecoderEnv{SetPoint: func(_ uint32, on bool, points ...string) {
			if !on {
				off = append(off, points...)
			}
		}}
		rec, err := event.Parse(raw(func(e *bpfMongoEvent) { e.Call.Flags |= uint32(flag) }, find, nil))
		if err != nil {
			t.Fatal(err)
		}
		d := newDecoder(env, Config{})
		for range 2 { // asked once
			if err := d.Decode(rec, func(*telemetry.Operation) {}); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(off, []string{want}) {
			t.Errorf("taken off: %v, want %s", off, want)
		}
	}
}
