package mongo

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"
)

const canary = "CANARY"

func marshal(t testing.TB, doc any) []byte {
	t.Helper()
	b, err := bson.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// msg is an OP_MSG with a body and, if id is given, a sequence.
func msg(t testing.TB, flags uint32, body any, id string, docs ...any) []byte {
	t.Helper()
	le := binary.LittleEndian
	b := make([]byte, headerLen+4)
	le.PutUint32(b[4:], 7)
	le.PutUint32(b[12:], opMsg)
	le.PutUint32(b[16:], flags)
	b = append(append(b, 0), marshal(t, body)...)
	if id != "" {
		at := len(b) + 1
		b = append(append(append(b, 1, 0, 0, 0, 0), id...), 0)
		for _, d := range docs {
			b = append(b, marshal(t, d)...)
		}
		le.PutUint32(b[at:], uint32(len(b)-at))
	}
	if flags&flagSum != 0 {
		b = append(b, 1, 2, 3, 4)
	}
	le.PutUint32(b, uint32(len(b)))
	return b
}

func d(kv ...any) bson.D {
	out := bson.D{}
	for i := 0; i < len(kv); i += 2 {
		out = append(out, bson.E{Key: kv[i].(string), Value: kv[i+1]})
	}
	return out
}

func TestShape(t *testing.T) {
	in := func(v ...any) bson.A { return v }
	for name, c := range map[string]struct {
		body bson.D
		id   string
		docs []any
		want string
	}{
		"find": {body: d("find", "orders", "filter", d("user", canary, "px", d("$gt", 5)), "$db", "shop"),
			want: `{find: "orders", filter: {user: ?, px: {$gt: ?}}}`},
		"$in and lists of literals": {body: d("find", "o", "filter", d("a", d("$in", in(canary, 1, d(canary, canary))), "b", in(canary))),
			want: `{find: "o", filter: {a: {$in: [?]}, b: [?]}}`},
		"a document as a literal": {body: d("find", "o", "filter", d("address", d(canary, d(canary, 1)))),
			want: `{find: "o", filter: {address: ?}}`},
		"$or, $not, $elemMatch": {body: d("find", "o", "filter", d("$or", in(d("a", canary), d("b", d("$not", d("$gt", canary)))), "c", d("$elemMatch", d("x", canary, "y", d("$lt", 1))))),
			want: `{find: "o", filter: {$or: [{a: ?}, {b: {$not: {$gt: ?}}}], c: {$elemMatch: {x: ?, y: {$lt: ?}}}}}`},
		"$expr": {body: d("find", "o", "filter", d("$expr", d("$gt", in("$a", canary)))),
			want: `{find: "o", filter: {$expr: {$gt: [?]}}}`},
		"keys that are data": {body: d("find", "o", "filter", d("users."+canary+"@example.com.n", 1, "by.5f1e9a3b.n", 2, "a b", 3)),
			want: `{find: "o", filter: {?: ?, ?: ?, ?: ?}}`},
		"insert in the body": {body: d("insert", "o", "documents", in(d(canary, canary), d("x", 1))),
			want: `{insert: "o", documents: [?]}`},
		"insert beside the body": {body: d("insert", "o", "ordered", true), id: "documents", docs: []any{d(canary, canary)},
			want: `{insert: "o", ordered: ?, documents: [?]}`},
		"update": {body: d("update", "o"), id: "updates", docs: []any{d("q", d("user", canary), "u", d("$set", d("px", 1, "address", d(canary, canary)), "$push", d("l", d("$each", in(canary)))))},
			want: `{update: "o", updates: [{q: {user: ?}, u: {$set: {px: ?, address: ?}, $push: {l: {$each: [?]}}}}]}`},
		"many updates": {body: d("update", "o"), id: "updates", docs: []any{d("q", d("user", canary), "u", d("$set", d("px", 1))), d("q", d(), "u", d())},
			want: `{update: "o", updates: [{q: {user: ?}, u: {$set: {px: ?}}}, ...]}`},
		"replacement": {body: d("update", "o"), id: "updates", docs: []any{d("q", d("_id", canary), "u", d(canary, canary))},
			want: `{update: "o", updates: [{q: {_id: ?}, u: ?}]}`},
		"findAndModify": {body: d("findAndModify", "o", "query", d("user", canary), "update", d("$inc", d("px", 1)), "new", true),
			want: `{findAndModify: "o", query: {user: ?}, update: {$inc: {px: ?}}, new: ?}`},
		"findAndModify with a replacement": {body: d("findAndModify", "o", "query", d(), "update", d(canary, canary)),
			want: `{findAndModify: "o", query: {}, update: ?}`},
		"aggregate": {body: d("aggregate", "o", "pipeline", in(d("$match", d("user", canary)), d("$group", d("_id", "$sym", "n", d("$sum", 1))), d("$limit", 5)), "cursor", d("batchSize", 7)),
			want: `{aggregate: "o", pipeline: [{$match: {user: ?}}, {$group: {_id: ?, n: {$sum: ?}}}, {$limit: ?}], cursor: {batchSize: ?}}`},
		"getMore": {body: d("getMore", int64(99), "collection", "o"), want: `{getMore: ?, collection: "o"}`},
		"unknown": {body: d("frobnicate", canary, "arg", canary, "filter", d("a", canary)),
			want: `{frobnicate: ?, arg: ?, filter: {a: ?}}`},
		"a first key that is data": {body: d(canary+" x", 1), want: `{?: 1}`},
		"plumbing":                 {body: d("buildInfo", 1, "lsid", d("id", canary), "$db", "admin", "comment", canary), want: `{buildInfo: 1}`},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := NewParser(TextShape).Request(msg(t, 0, c.body, c.id, c.docs...), nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Text != c.want {
				t.Errorf("got  %s\nwant %s", r.Text, c.want)
			}
			if strings.Contains(r.Text, canary) {
				t.Errorf("a value leaves: %s", r.Text)
			}
			if r, _ = NewParser(TextOff).Request(msg(t, 0, c.body, c.id, c.docs...), nil); r.Text != "" {
				t.Errorf("off: %s", r.Text)
			}
		})
	}
}

func TestFull(t *testing.T) {
	id := bson.ObjectID{1, 2}
	body := d("find", "o", "filter", d("user", "x\"y", "n", 5, "f", 1.5, "ok", true, "no", nil, "_id", id, "in", bson.A{1, d("a", "b")}, "od d", 1), "$db", "shop")
	r, err := NewParser(TextFull).Request(msg(t, 0, body, ""), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := `{find: "o", filter: {user: "x\"y", n: 5, f: 1.5, ok: true, no: null, _id: ObjectId("010200000000000000000000"), in: [1, {a: "b"}], "od d": 1}}`
	if r.Text != want {
		t.Errorf("got  %s\nwant %s", r.Text, want)
	}
}

func TestRequest(t *testing.T) {
	for name, c := range map[string]struct {
		msg  []byte
		want Request
	}{
		"checksum": {msg(t, flagSum, d("insert", "o", "$db", "shop"), "documents", d("a", 1), d("a", 2)),
			Request{Command: "insert", DB: "shop", Collection: "o", Documents: 2}},
		"no reply": {msg(t, flagMore, d("insert", "o", "documents", bson.A{d()}, "$db", "shop"), ""),
			Request{Command: "insert", DB: "shop", Collection: "o", Documents: 1, NoReply: true}},
		"no collection": {msg(t, 0, d("aggregate", 1, "pipeline", bson.A{}, "$db", "admin"), ""),
			Request{Command: "aggregate", DB: "admin", Documents: -1}},
		"no command": {msg(t, 0, d("$eval 'x'", 1, "$db", "admin"), ""), Request{Command: Other, DB: "admin", Documents: -1}},
		"empty":      {msg(t, 0, d(), ""), Request{Documents: -1}},
	} {
		got, err := NewParser(TextOff).Request(c.msg, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got.Header = Header{}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(Header{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestEnd: the database of a body that was cut is found in its end.
func TestEnd(t *testing.T) {
	body := d("find", "o", "filter", d("a", strings.Repeat("x", 3000)), "lsid", d("id", 1), "$db", "shop", "$readPreference", d("mode", "primaryPreferred"))
	b := msg(t, 0, body, "")
	r, err := NewParser(TextShape).Request(b[:1023], b[len(b)-127:])
	if err != nil {
		t.Fatal(err)
	}
	if r.DB != "shop" || r.Text != `{find: "o", filter: {a: ?...}, ...}` {
		t.Errorf("database %q, text %s", r.DB, r.Text)
	}
}

func TestReply(t *testing.T) {
	for name, c := range map[string]struct {
		body bson.D
		want Reply
	}{
		"write": {d("n", 3, "nModified", 2, "ok", 1.0), Reply{N: 3, Modified: 2, Upserted: -1, Returned: -1}},
		"find": {d("cursor", d("firstBatch", bson.A{d("a", 1), d("a", 2)}, "id", int64(0), "ns", "shop.o"), "ok", 1.0),
			Reply{N: -1, Modified: -1, Upserted: -1, Returned: 2}},
		"failed": {d("ok", 0.0, "errmsg", "no", "code", 59, "codeName", "CommandNotFound"),
			Reply{N: -1, Modified: -1, Upserted: -1, Returned: -1, Failed: true, Err: Failure{59, "CommandNotFound", "no"}}},
		"write errors": {d("n", 1, "writeErrors", bson.A{d("index", 1, "code", 11000, "errmsg", "E11000"), d("index", 2, "code", 1)}, "ok", 1.0),
			Reply{N: 1, Modified: -1, Upserted: -1, Returned: -1, WriteErrors: 2, WriteErr: Failure{11000, "", "E11000"}}},
		"write concern": {d("n", 1, "writeConcernError", d("code", 64, "codeName", "WriteConcernTimeout", "errmsg", "slow"), "ok", 1.0),
			Reply{N: 1, Modified: -1, Upserted: -1, Returned: -1, ConcernErr: Failure{64, "WriteConcernTimeout", "slow"}}},
		"findAndModify": {d("lastErrorObject", d("updatedExisting", true, "n", 1), "value", d(), "ok", 1.0),
			Reply{N: 1, Modified: -1, Upserted: -1, Returned: -1}},
		"distinct": {d("values", bson.A{1, 2, 3}, "ok", 1.0), Reply{N: -1, Modified: -1, Upserted: -1, Returned: 3}},
	} {
		got, err := NewParser(TextOff).Reply(msg(t, 0, c.body, ""))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got.Header = Header{}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(Header{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestBulkWrite: what MongoDB 8 replies to the command bulkWrite, whole and cut anywhere;
// the same documents found by a find are the program's own.
func TestBulkWrite(t *testing.T) {
	row := func(i int) bson.D {
		return d("ok", 0.0, "idx", i, "code", 11000, "errmsg", "E11000", "n", 0)
	}
	b := msg(t, 0, d("cursor", d("id", int64(0), "firstBatch", bson.A{d("ok", 1.0, "idx", 0, "n", 1), row(1), row(2)}, "ns", "admin.$cmd.bulkWrite"),
		"nErrors", 2, "nInserted", 1, "nMatched", 0, "nModified", 0, "nUpserted", 0, "nDeleted", 0, "ok", 1.0), "")
	got, err := NewParser(TextOff).ReplyTo(b, bulkWrite)
	if err != nil {
		t.Fatal(err)
	}
	got.Header = Header{}
	want := Reply{N: 1, Modified: 0, Upserted: 0, Returned: -1, WriteErrors: 2, WriteErr: Failure{11000, "", "E11000"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Header{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if r, err := NewParser(TextOff).ReplyTo(b, "find"); err != nil || r.WriteErrors != 0 || r.Returned != 3 {
		t.Errorf("found: %+v, %v", r, err)
	}
	seen := map[int]bool{}
	for n := range len(b) {
		r, err := NewParser(TextOff).ReplyTo(b[:n], bulkWrite)
		if err == nil {
			seen[r.WriteErrors] = true
		}
	}
	if diff := cmp.Diff(map[int]bool{0: true, -1: true, 2: true}, seen); diff != "" {
		t.Errorf("numbers of errors in cut replies (-want +got):\n%s", diff)
	}
}

// TestCutWriteErrors: of a list that is cut the number is not known, the first error is.
func TestCutWriteErrors(t *testing.T) {
	var list bson.A
	for i := range 20 {
		list = append(list, d("index", i, "code", 11000, "errmsg", strings.Repeat("E", 80)))
	}
	b := msg(t, 0, d("n", 0, "writeErrors", list, "ok", 1.0), "")
	r, err := NewParser(TextOff).Reply(b[:1023])
	if err != nil || r.WriteErrors != -1 || r.WriteErr.Code != 11000 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := NewParser(TextOff).Reply(b); err != nil || r.WriteErrors != 20 {
		t.Errorf("whole: %+v, %v", r, err)
	}
}

// TestUndecodable: after a message that is none the next ones are still cut right.
func TestUndecodable(t *testing.T) {
	bad := msg(t, 0, d("ping", 1), "")
	bad[20] = 9 // a section of a kind that does not exist
	good := msg(t, 0, d("ping", 1, "$db", "admin"), "")
	answer := msg(t, 0, d("ok", 1.0), "")
	binary.LittleEndian.PutUint32(answer[8:], 7)
	n := 0
	c := NewConn(NewParser(TextOff), func(*Exchange) { n++ })
	if err := c.Client(append(append(bad[:len(bad):len(bad)], good...), good[:10]...), 1); err == nil {
		t.Error("the bad message is not told")
	}
	if err := c.Client(good[10:], 2); err != nil {
		t.Error(err)
	}
	if err := c.Server(answer, 3); err != nil || n != 1 {
		t.Errorf("%d commands, %v", n, err)
	}
}

func TestScrubMessage(t *testing.T) {
	for in, want := range map[string]string{
		`E11000 duplicate key error collection: shop.twice index: _id_ dup key: { _id: "CANARY" }`: `E11000 duplicate key error collection: shop.twice index: _id_ dup key: {?}`,
		`can't parse 'CANARY \' CANARY' as "CANARY`:                                                `can't parse '?' as "?"`,
		`value 4711 of type int32 is no string`:                                                    `value ? of type int32 is no string`,
	} {
		got := ScrubMessage(in)
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// TestSplitReads: whatever the pieces and the order, each command has its own reply.
func TestSplitReads(t *testing.T) {
	var out, in []byte
	for i := range 3 {
		q := msg(t, 0, d("find", "o", "filter", d("a", strings.Repeat("x", i*3000)), "$db", "shop"), "")
		binary.LittleEndian.PutUint32(q[4:], uint32(100+i))
		out = append(out, q...)
		a := msg(t, 0, d("n", 2-i, "ok", 1.0), "")
		binary.LittleEndian.PutUint32(a[8:], uint32(100+2-i)) // the last first
		in = append(in, a...)
	}
	for _, size := range []int{1, 7, 16, 1000, 100000} {
		got := map[int32]int64{}
		c := NewConn(NewParser(TextShape), func(x *Exchange) { got[x.RequestID] = x.Reply.N })
		feed := func(b []byte, f func([]byte, uint64) error) {
			for len(b) > 0 {
				n := min(size, len(b))
				if err := f(b[:n], 1); err != nil {
					t.Fatal(err)
				}
				b = b[n:]
			}
		}
		feed(out, c.Client)
		feed(in, c.Server)
		if diff := cmp.Diff(map[int32]int64{100: 0, 101: 1, 102: 2}, got); diff != "" {
			t.Errorf("pieces of %d (-want +got):\n%s", size, diff)
		}
	}
	c := NewConn(NewParser(TextOff), func(*Exchange) {})
	if err := c.Client([]byte("GET / HTTP/1.1\r\n\r\n"), 1); err == nil {
		t.Error("HTTP is taken for MongoDB")
	}
}
