package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

const mongoTargets = "testdata/targets/mongo/"

// mongoBuilds are drivers, the oldest and the newest of each major version, with Go
// releases and ways of linking.
var mongoBuilds = []harness.Build{
	{Dir: mongoTargets + "v2"},
	{Dir: mongoTargets + "v1old", Go: "1.18.10", Mode: harness.Stripped},
	{Dir: mongoTargets + "v1", Go: "1.21.13"},
	{Dir: mongoTargets + "v2old", Go: "1.22.12", Mode: harness.PIE},
	{Dir: mongoTargets + "v2", Go: "1.27.4", Mode: harness.Stripped},
}

// startMongo runs a server and returns its address.
func startMongo(t *testing.T) string {
	t.Helper()
	path := harness.Build{Dir: "testdata/mongoserver"}.Path(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	cmd := exec.Command(path, "-addr", addr, "-dir", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server does not listen: %v", err)
		}
	}
}

// mongoProxy passes bytes on until it is told to cut: then every connection ends as soon
// as the client sends something. Who has the gate holds up what clients send.
type mongoProxy struct {
	addr string
	cut  atomic.Bool
	// What follows the header of a compressed message from the server is made another.
	garble atomic.Bool
	gate   sync.RWMutex
	slow   atomic.Int64 // nanoseconds by which everything is late
	open   sync.Map     // net.Conn
}

// drop closes all connections.
func (p *mongoProxy) drop() {
	p.open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
}

func startMongoProxy(t *testing.T, server string, conf *tls.Config) *mongoProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &mongoProxy{addr: ln.Addr().String()}
	if conf != nil {
		ln = tls.NewListener(ln, conf)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		p.drop()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", server)
			if err != nil {
				client.Close()
				continue
			}
			p.open.Store(client, nil)
			p.open.Store(up, nil)
			wg.Go(func() { _, _ = io.Copy(client, garbler{up, &p.garble}); client.Close() })
			wg.Go(func() {
				defer up.Close()
				defer client.Close()
				buf := make([]byte, 32<<10)
				for {
					n, err := client.Read(buf)
					if err != nil || p.cut.Load() {
						return
					}
					p.gate.RLock()
					p.gate.RUnlock() //nolint:staticcheck // only to wait for it
					time.Sleep(time.Duration(p.slow.Load()))
					if _, err := up.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return p
}

// garbler reads messages of which each comes in one piece.
type garbler struct {
	net.Conn
	on *atomic.Bool
}

func (g garbler) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if g.on.Load() {
		for i := 25; i < n; i++ {
			b[i] ^= 0xff
		}
	}
	return n, err
}

// mongoCase is one call and its spans whole but for the server's address.
type mongoCase struct {
	op    string
	name  string
	error string // status description
	attrs map[string]string
	more  []string // names of further spans
}

var mongoCases = []mongoCase{
	{op: "insertOne", name: "insert orders", attrs: map[string]string{"db.operation.name": "insert", "db.collection.name": "orders",
		"db.query.text": `{insert: "orders", ordered: ?, documents: [?]}`, "mongodb.response.n": "1"}},
	{op: "find", name: "find orders", attrs: map[string]string{"db.operation.name": "find", "db.collection.name": "orders",
		"db.query.text": `{find: "orders", filter: {user: ?, px: {$gt: ?}}}`, "db.response.returned_rows": "1"}},
	{op: "update", name: "update orders", attrs: map[string]string{"db.operation.name": "update", "db.collection.name": "orders",
		"db.query.text":      `{update: "orders", ordered: ?, updates: [{q: {user: ?}, u: {$set: {px: ?, address: ?}}, multi: ?}]}`,
		"mongodb.response.n": "1", "mongodb.response.n_modified": "1"}},
	{op: "insertMany", name: "insert orders", attrs: map[string]string{"db.operation.name": "insert", "db.collection.name": "orders",
		"db.query.text": `{insert: "orders", ordered: ?, documents: [?]}`, "mongodb.response.n": "5", "db.operation.batch.size": "5"}},
	{op: "insertBig", name: "insert big", attrs: map[string]string{"db.operation.name": "insert", "db.collection.name": "big",
		"db.query.text": `{insert: "big", ordered: ?, documents: [?]}`, "mongodb.response.n": "100", "db.operation.batch.size": "100"}},
	{op: "findBig", name: "find big", more: []string{"getMore big"}, attrs: map[string]string{"db.operation.name": "find", "db.collection.name": "big",
		"db.query.text": `{find: "big", batchSize: ?, filter: {}}`, "db.response.returned_rows": "60"}},
	{op: "insertTwice", name: "insert twice", error: "E11000 duplicate key error collection: shop.twice", attrs: map[string]string{
		"db.operation.name": "insert", "db.collection.name": "twice", "db.operation.batch.size": "3",
		"db.query.text": `{insert: "twice", ordered: ?, documents: [?]}`, "mongodb.response.n": "2", "mongodb.response.write_errors": "1",
		"db.response.status_code": "11000", "error.type": "11000"}},
	{op: "aggregate", name: "aggregate orders", attrs: map[string]string{"db.operation.name": "aggregate", "db.collection.name": "orders",
		"db.query.text":             `{aggregate: "orders", pipeline: [{$match: {user: ?}}, {$group: {_id: ?, total: {$sum: ?}}}], cursor: {}}`,
		"db.response.returned_rows": "1"}},
	{op: "lookup", name: "aggregate orders", error: "NotImplemented: `?` stage \"?\" is not implemented yet", attrs: map[string]string{
		"db.operation.name": "aggregate", "db.collection.name": "orders",
		"db.query.text":           `{aggregate: "orders", pipeline: [{$lookup: {from: ?, localField: ?, foreignField: ?, as: ?}}], cursor: {}}`,
		"db.response.status_code": "238", "error.type": "238"}},
	{op: "unknown", name: "frobnicate shop", error: "CommandNotFound: no such command: '?'", attrs: map[string]string{
		"db.operation.name": "frobnicate", "db.query.text": `{frobnicate: ?, arg: ?}`, "db.response.status_code": "59", "error.type": "59"}},
	{op: "distinct", name: "distinct orders", attrs: map[string]string{"db.operation.name": "distinct", "db.collection.name": "orders",
		"db.query.text": `{distinct: "orders", key: ?, query: {user: ?}}`, "db.response.returned_rows": "1"}},
	{op: "replace", name: "update orders", attrs: map[string]string{"db.operation.name": "update", "db.collection.name": "orders",
		"db.query.text": `{update: "orders", ordered: ?, updates: [{q: {user: ?}, u: ?}]}`, "mongodb.response.n": "1", "mongodb.response.n_modified": "1"}},
	{op: "createIndex", name: "createIndexes orders", attrs: map[string]string{"db.operation.name": "createIndexes", "db.collection.name": "orders",
		"db.query.text": `{createIndexes: "orders", indexes: [{key: {px: ?}, name: ?}]}`}},
	{op: "delete", name: "delete orders", attrs: map[string]string{"db.operation.name": "delete", "db.collection.name": "orders",
		"db.query.text": `{delete: "orders", ordered: ?, deletes: [{q: {user: {$eq: ?}}, limit: ?}]}`, "mongodb.response.n": "1"}},
	{op: "hello", name: ""}, // looks at the server are no spans
	{op: "ping", name: ""},
}

// mongoSpans are the MongoDB spans since the mark.
func mongoSpans(spans []harness.Span) []harness.Span {
	return harness.Of(spans, func(s harness.Span) bool { return s.Attr("db.system.name") == "mongodb" })
}

// TestMongo: each command, whole; with its parent, on plain and stripped programs, with
// old and new drivers.
func TestMongo(t *testing.T) {
	needs(t)
	for _, b := range mongoBuilds {
		t.Run(strings.TrimPrefix(b.Dir, mongoTargets)+"-"+b.Go+string(b.Mode), func(t *testing.T) {
			addr := startMongo(t)
			host, port, _ := net.SplitHostPort(addr)
			tg := harness.StartTarget(t, b.Path(t), "-uri", "mongodb://"+addr+"/")
			agent := harness.Trace(t, tg)
			for _, c := range mongoCases {
				mark, want := agent.Mark(), 1+len(c.more)
				if c.name == "" {
					want = 0
				}
				if _, err := harness.TryGet(tg.URL("/do?op=" + c.op)); err != nil {
					t.Fatal(err)
				}
				spans := agent.Settle(mark, want+1, tg)
				got := mongoSpans(spans)
				if len(got) != want {
					t.Fatalf("%s: %d spans, want %d: %v", c.op, len(got), want, got)
				}
				request := harness.Of(spans, harness.Kind("server"))
				if len(request) != 1 {
					t.Fatalf("%s: %d requests", c.op, len(request))
				}
				for i, s := range got {
					if s.ParentSpanID != request[0].SpanID || s.TraceID != request[0].TraceID || s.Kind != "client" {
						t.Errorf("%s: not a child of its request: %v", c.op, s)
					}
					if strings.Contains(s.String(), "CANARY") {
						t.Errorf("%s: a value leaves: %v", c.op, s)
					}
					if i > 0 && s.Name != c.more[i-1] {
						t.Errorf("%s: %q, want %q", c.op, s.Name, c.more[i-1])
					}
				}
				if want == 0 {
					continue
				}
				attrs := maps.Clone(c.attrs)
				attrs["db.system.name"], attrs["db.namespace"] = "mongodb", "shop"
				attrs["server.address"], attrs["server.port"] = host, port
				if diff := cmp.Diff(attrs, got[0].Texts()); diff != "" {
					t.Errorf("%s (-want +got):\n%s", c.op, diff)
				}
				if got[0].Name != c.name || got[0].StatusText != c.error || (got[0].Status == "error") != (c.error != "") {
					t.Errorf("%s: %v, want %q, error %q", c.op, got[0], c.name, c.error)
				}
			}
			t.Run("worker", func(t *testing.T) { mongoWorker(t, tg, agent) })
			t.Run("unacknowledged", func(t *testing.T) { // last: this server answers nevertheless
				mark := agent.Mark()
				harness.Get(t, tg.URL("/do?op=insertUnacknowledged"))
				got := mongoSpans(agent.Settle(mark, 2, tg))
				if len(got) != 1 || got[0].Attr("mongodb.request.unacknowledged") != "true" || got[0].Status == "error" {
					t.Errorf("%v", got)
				}
			})
		})
	}
}

// mongoWorker: a call made by a goroutine that no request started belongs to the request
// whose context it has.
func mongoWorker(t *testing.T, tg *harness.Target, agent *harness.Agent) {
	mark := agent.Mark()
	harness.Get(t, tg.URL("/pool?op=findOne"))
	spans := agent.Settle(mark, 2, tg)
	got, request := mongoSpans(spans), harness.Of(spans, harness.Kind("server"))
	if len(got) != 1 || len(request) != 1 || got[0].ParentSpanID != request[0].SpanID {
		t.Errorf("%v of %v", got, request)
	}
}

// TestMongoHits: two hits a command.
func TestMongoHits(t *testing.T) {
	needs(t)
	harness.CountRuns(t)
	tg := harness.StartTarget(t, mongoBuilds[0].Path(t), "-uri", "mongodb://"+startMongo(t)+"/?heartbeatFrequencyMS=600000&maxPoolSize=1&serverMonitoringMode=poll")
	agent := harness.Trace(t, tg)
	harness.Get(t, tg.URL("/burst?n=20&c=1&op=findOne"))
	const n = 400
	before := agent.Runs()
	if got := harness.Get(t, tg.URL(fmt.Sprintf("/burst?n=%d&c=1&op=findOne&op=insertOne", n))); got != strconv.Itoa(n) {
		t.Fatalf("%s of %d commands succeeded", got, n)
	}
	hits := delta(before, agent.Runs())
	mongo := 0
	for k, v := range hits {
		if strings.Contains(k, "mg_") || strings.Contains(k, "mongodriver") {
			mongo += int(v)
		}
	}
	if mongo != 2*n {
		t.Errorf("%d hits for %d commands, want %d: %v", mongo, n, 2*n, hits)
	}
}

// TestMongoQueryText: what is in db.query.text is the user's choice.
func TestMongoQueryText(t *testing.T) {
	needs(t)
	tg := harness.StartTarget(t, mongoBuilds[0].Path(t), "-uri", "mongodb://"+startMongo(t)+"/")
	for mode, want := range map[string]string{"off": "", "full": "CANARY"} {
		t.Run(mode, func(t *testing.T) {
			agent := traceWith(t, tg, "mongodb:\n  query_text: "+mode+"\n")
			mark := agent.Mark()
			harness.Get(t, tg.URL("/do?op=insertOne"))
			got := mongoSpans(agent.Settle(mark, 2, tg))
			if len(got) != 1 || got[0].Attr("db.collection.name") != "orders" || !strings.Contains(got[0].Attr("db.query.text"), want) ||
				(want == "") != (got[0].Attr("db.query.text") == "") {
				t.Errorf("got %v, want one with %q in db.query.text", got, want)
			}
		})
	}
}

// TestMongoNetwork: over TLS everything is seen as without, and a connection that is cut
// in the middle of a command is an error of the network.
func TestMongoNetwork(t *testing.T) {
	needs(t)
	cert, _ := harness.Certificate(t)
	proxy := startMongoProxy(t, startMongo(t), &tls.Config{Certificates: []tls.Certificate{cert}})
	tg := harness.StartTarget(t, mongoBuilds[0].Path(t), "-tls", "-uri", "mongodb://"+proxy.addr+"/?retryReads=false&retryWrites=false")
	agent := harness.Trace(t, tg)
	mark := agent.Mark()
	if got := harness.Get(t, tg.URL("/do?op=insertOne")); got != "ok" {
		t.Fatal(got)
	}
	got := mongoSpans(agent.Settle(mark, 2, tg))
	if len(got) != 1 || got[0].Attr("mongodb.response.n") != "1" {
		t.Fatalf("over TLS: %v", got)
	}
	proxy.cut.Store(true)
	mark = agent.Mark()
	if got := harness.Get(t, tg.URL("/do?op=findOne")); got == "ok" {
		t.Fatal("the call succeeded on a connection that was cut")
	}
	got = mongoSpans(agent.Settle(mark, 2, tg))
	if len(got) != 1 || got[0].Status != "error" || !strings.HasPrefix(got[0].Attr("error.type"), "connection_") || got[0].Attr("db.response.status_code") != "" {
		t.Errorf("cut: %v", got)
	}
}
