package e2e

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/tracer-agent/tracer-agent/probes/wire/mongo/standin"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// bsonDoc is a document of keys and values; nested ones are documents or lists of them.
func bsonDoc(kv ...any) bsoncore.Document {
	var b []byte
	for i := 0; i+1 < len(kv); i += 2 {
		key := kv[i].(string)
		switch v := kv[i+1].(type) {
		case string:
			b = bsoncore.AppendStringElement(b, key, v)
		case int:
			b = bsoncore.AppendInt32Element(b, key, int32(v))
		case int64:
			b = bsoncore.AppendInt64Element(b, key, v)
		case bsoncore.Document:
			b = bsoncore.AppendDocumentElement(b, key, v)
		case []bsoncore.Document:
			var list []bsoncore.Value
			for _, d := range v {
				list = append(list, bsoncore.Value{Type: bsoncore.TypeEmbeddedDocument, Data: d})
			}
			b = bsoncore.AppendArrayElement(b, key, bsoncore.BuildArray(nil, list...))
		}
	}
	return bsoncore.BuildDocument(nil, b)
}

// Messages as a mongod words them; what is in them of a document's must not leave.
const (
	dupKey  = `E11000 duplicate key error collection: shop.orders index: user_1 dup key: { user: "` + canary + `" }`
	dupText = "E11000 duplicate key error collection: shop.orders index: user_1 dup key: {?}"
)

// standInCase is a call and the spans of its commands; the reply of a command is answer's,
// or has more in it.
type standInCase struct {
	op     string
	answer map[string]bsoncore.Document
	more   map[string][]any
	spans  []mongoCase
}

func wantMongo(name, op, coll, db, text string, more ...string) mongoCase {
	m := map[string]string{"db.system.name": "mongodb", "db.operation.name": op, "db.namespace": db, "db.query.text": text}
	if coll != "" {
		m["db.collection.name"] = coll
	}
	for i := 0; i+1 < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return mongoCase{name: name, attrs: m}
}

func failing(c mongoCase, code, text string) mongoCase {
	c.error = text
	c.attrs["db.response.status_code"], c.attrs["error.type"] = code, code
	return c
}

func standInCases() []standInCase {
	okay := bsonDoc("ok", 1)
	const inserted, n = `{insert: "orders", ordered: ?, documents: [?]}`, "mongodb.response.n"
	insert := func(more ...string) mongoCase {
		return wantMongo("insert orders", "insert", "orders", "shop", inserted, append([]string{n, "1"}, more...)...)
	}
	update := wantMongo("update orders", "update", "orders", "shop",
		`{update: "orders", ordered: ?, updates: [{q: {user: ?}, u: {$set: {px: ?}}}]}`, n, "1", "mongodb.response.n_modified", any_)
	end := map[string]bsoncore.Document{"commitTransaction": okay, "abortTransaction": okay}
	return []standInCase{
		{op: "commit", answer: end, spans: []mongoCase{insert(), update,
			wantMongo("commitTransaction admin", "commitTransaction", "", "admin", "{commitTransaction: 1}")}},
		{op: "abort", answer: end, spans: []mongoCase{insert(), update,
			wantMongo("abortTransaction admin", "abortTransaction", "", "admin", "{abortTransaction: 1}")}},
		{op: "insertOne", more: map[string][]any{"insert": {"writeConcernError", bsonDoc("code", 64, "codeName", "WriteConcernFailed",
			"errmsg", "waiting for replication timed out: "+`"`+canary+`"`)}},
			spans: []mongoCase{failing(insert("mongodb.response.write_concern_error", "WriteConcernFailed"), "64",
				`WriteConcernFailed: waiting for replication timed out: "?"`)}},
		{op: "insertOne", answer: map[string]bsoncore.Document{"insert": bsonDoc("n", 0, "writeErrors", []bsoncore.Document{
			bsonDoc("index", 0, "code", 11000, "keyPattern", bsonDoc("user", 1), "keyValue", bsonDoc("user", canary), "errmsg", dupKey)}, "ok", 1)},
			spans: []mongoCase{failing(wantMongo("insert orders", "insert", "orders", "shop", inserted, n, "0", "mongodb.response.write_errors", "1"),
				"11000", dupText)}},
		{op: "count", answer: map[string]bsoncore.Document{"count": bsonDoc("ok", 0, "code", 241, "codeName", "ConversionFailure",
			"errmsg", "Failed to parse number '"+canary+"' in $convert with no onError value")},
			spans: []mongoCase{failing(wantMongo("count orders", "count", "orders", "shop", `{count: "orders", query: {user: ?}}`),
				"241", "ConversionFailure: Failed to parse number '?' in $convert with no onError value")}},
	}
}

// bulkCase is the command bulkWrite, which drivers v2 have since 2.1.
func bulkCase() standInCase {
	results := []bsoncore.Document{bsonDoc("ok", 1, "idx", 0, "n", 1), bsonDoc("ok", 0, "idx", 1, "code", 11000, "errmsg", dupKey, "n", 0)}
	return standInCase{op: "clientBulkWrite",
		answer: map[string]bsoncore.Document{"bulkWrite": bsonDoc("cursor", bsonDoc("id", 0, "firstBatch", results, "ns", "admin.$cmd.bulkWrite"),
			"nErrors", 1, "nInserted", 1, "nMatched", 0, "nModified", 0, "nUpserted", 0, "nDeleted", 0, "ok", 1)},
		spans: []mongoCase{failing(wantMongo("bulkWrite admin", "bulkWrite", "", "admin", any_, "db.operation.batch.size", "2",
			"mongodb.response.n", "1", "mongodb.response.n_modified", "0", "mongodb.response.n_upserted", "0", "mongodb.response.write_errors", "1"), "11000", dupText)},
	}
}

// TestMongoStandIn: transactions, the command bulkWrite, writes that fail although the
// command is ok, and errors that quote values, of real drivers to a server, or what stands
// in for it where it cannot; with every compressor.
func TestMongoStandIn(t *testing.T) {
	needs(t)
	server := startMongo(t)
	var now atomic.Pointer[standInCase]
	now.Store(&standInCase{})
	type driver struct {
		compressor, version string
		tg                  *harness.Target
	}
	var drivers []driver
	var all []*harness.Target
	for _, c := range []string{"", "snappy", "zlib", "zstd"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		s := &standin.StandIn{Compressor: c, Mongos: true,
			Answer: func(name string, _ bsoncore.Document) bsoncore.Document { return now.Load().answer[name] },
			Change: func(name string, reply bsoncore.Document) bsoncore.Document {
				more := now.Load().more[name]
				if len(more) == 0 {
					return reply
				}
				return standin.With(reply, func(b []byte) []byte { return append(b, bsonDoc(more...)[4:len(bsonDoc(more...))-1]...) })
			},
		}
		go s.Serve(ln, server)
		uri := "mongodb://" + ln.Addr().String() + "/?retryWrites=false"
		if c != "" {
			uri += "&compressors=" + c
		}
		for _, b := range []harness.Build{mongoBuilds[0], mongoBuilds[2]} {
			version := strings.TrimPrefix(b.Dir, mongoTargets)
			if version == "v1" && c != "" {
				continue
			}
			tg := harness.StartTarget(t, b.Path(t), "-uri", uri)
			drivers, all = append(drivers, driver{c, version, tg}), append(all, tg)
		}
	}
	agent := harness.Trace(t, all...)
	for _, d := range drivers {
		cases := standInCases()
		switch {
		case d.compressor != "":
			cases = []standInCase{cases[0], cases[3]} // a commit, a duplicate key
		case d.version == "v2":
			cases = append(cases, bulkCase())
		}
		for _, c := range cases {
			now.Store(&c)
			mark := agent.Mark()
			harness.Get(t, d.tg.URL("/do?op="+c.op))
			checkStandIn(t, d.version+" "+d.compressor+" "+c.op, agent.Settle(mark, len(c.spans)+1, d.tg), c.spans)
		}
	}
	checkCanary(t, agent.Since(0))
}

func checkStandIn(t *testing.T, what string, spans []harness.Span, want []mongoCase) {
	t.Helper()
	got, request := mongoSpans(spans), harness.Of(spans, harness.Kind("server"))
	if len(got) != len(want) || len(request) != 1 {
		t.Errorf("%s: %d spans, want %d: %v", what, len(got), len(want), spans)
		return
	}
	for i, s := range got {
		texts, attrs := s.Texts(), maps.Clone(want[i].attrs)
		maps.DeleteFunc(texts, func(k, _ string) bool { return strings.HasPrefix(k, "server.") })
		for k, v := range attrs {
			if v == any_ {
				attrs[k] = texts[k]
			}
		}
		if diff := cmp.Diff(attrs, texts); diff != "" || s.Name != want[i].name || s.StatusText != want[i].error ||
			(s.Status == "error") != (want[i].error != "") || s.ParentSpanID != request[0].SpanID {
			t.Errorf("%s: %v, want %q, error %q, child of its request (-want +got):\n%s", what, s, want[i].name, want[i].error, diff)
		}
	}
}

// TestMongoServers: a goroutine's commands to two servers by turns, over connections that come
// and go, so that one is where another server's was: each span has the address of the server
// that has answered, which tells by its rows which one it is. Connections come and go, too, while
// the probe is off.
func TestMongoServers(t *testing.T) {
	needs(t)
	server := startMongo(t)
	rows := map[string]string{}
	var addrs []string
	for _, batch := range [][]bsoncore.Document{{bsonDoc("a", 1)}, {bsonDoc("a", 1), bsonDoc("a", 2)}} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		found := bsonDoc("cursor", bsonDoc("firstBatch", batch, "id", int64(0), "ns", "shop.orders"), "ok", 1)
		s := &standin.StandIn{Mongos: true, Answer: func(name string, _ bsoncore.Document) bsoncore.Document {
			if name == "find" {
				return found
			}
			return nil
		}}
		go s.Serve(ln, server)
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		rows[port] = strconv.Itoa(len(batch))
		addrs = append(addrs, ln.Addr().String())
	}
	args := []string{"--config", ""}
	var targets []*harness.Target
	for _, b := range mongoBuilds[:3] {
		// Memory of what is gone is used again at once.
		tg := harness.StartTargetEnv(t, []string{"GOGC=1"}, b.Path(t), "-uri", "mongodb://"+strings.Join(addrs, ",")+"/?maxIdleTimeMS=1")
		targets, args = append(targets, tg), append(args, "--pid", strconv.Itoa(tg.PID))
	}
	r := &reloadRig{t: t, file: filepath.Join(t.TempDir(), "agent.yaml")}
	r.write("enabled: true\n")
	args[1] = r.file
	r.Agent = harness.StartAgent(t, args...)
	// Between two of them connections have become too old; who comes next closes them.
	const each = 10
	bursts := func(tg *harness.Target, n int) {
		t.Helper()
		for range n {
			if got := harness.Get(t, tg.URL(fmt.Sprintf("/burst?n=%d&c=4&op=findOne", each))); got != strconv.Itoa(each) {
				t.Fatalf("%s of %d commands succeeded", got, each)
			}
		}
	}
	check := func(i, n int) {
		t.Helper()
		mark := r.Mark()
		bursts(targets[i], n)
		seen := map[string]int{}
		for _, s := range mongoSpans(r.Settle(mark, n*(each+1), targets[i])) {
			port := s.Attr("server.port")
			seen[port]++
			if s.Attr("db.response.returned_rows") != rows[port] {
				t.Errorf("%s: of another server than %s: %v", mongoBuilds[i].Dir, port, s)
				return
			}
		}
		for port := range rows {
			if seen[port] < n*each/4 {
				t.Errorf("%s: %d commands to %s of %d: %v", mongoBuilds[i].Dir, seen[port], port, n*each, seen)
			}
		}
	}
	for i, tg := range targets {
		r.WaitInstrumented(tg.PID)
		check(i, 200)
	}
	full := r.Links()
	r.reload("probes: {mongodriver: false}\n")
	r.until("detached", withinKill, func() bool { return r.Links() < full })
	for _, tg := range targets {
		bursts(tg, 10)
	}
	r.reload("probes: {mongodriver: true}\n")
	r.until("attached again", withinKill, func() bool { return r.Links() == full })
	for i := range targets {
		check(i, 30)
	}
}
