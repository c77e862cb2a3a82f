package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/tracer-agent/tracer-agent/probes/wire/mongo/standin"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// packedCases: commands and replies that do not become small when they are compressed, one
// after the other.
var packedCases = []struct {
	op string
	mongoCase
}{
	{"insert1k", mongoCase{name: "insert random", attrs: map[string]string{"mongodb.response.n": "1"}}},
	{"insert16k", mongoCase{name: "insert random", attrs: map[string]string{"mongodb.response.n": "10", "db.operation.batch.size": "10"}}},
	{"insert200k", mongoCase{name: "insert random", attrs: map[string]string{"mongodb.response.n": "100", "db.operation.batch.size": "100"}}},
	{"findRandom", mongoCase{name: "find random", attrs: map[string]string{"db.response.returned_rows": "101"}, more: []string{"getMore random"}}},
	{"insert200k", mongoCase{name: "insert random", error: "E11000 duplicate key error collection: shop.random",
		attrs: map[string]string{"mongodb.response.n": "0", "db.operation.batch.size": "100", "db.response.status_code": "11000", "error.type": "11000"}}},
	{"badValue", mongoCase{name: "find orders", error: "DocumentValidationFailure: Document failed validation",
		attrs: map[string]string{"db.response.status_code": "121", "error.type": "121"}}},
	{"insertOne", mongoCase{name: "insert orders", attrs: map[string]string{"mongodb.response.n": "1"}}},
}

var packedTexts = map[string]string{
	"insert random":  `{insert: "random", ordered: ?, documents: [?]}`,
	"insert orders":  `{insert: "orders", ordered: ?, documents: [?]}`,
	"find orders":    `{find: "orders", filter: {user: {$badop: ?}}}`,
	"find random":    `{find: "random", filter: {text: {$gt: ?}}}`,
	"getMore random": `{getMore: ?, collection: "random"}`,
}

// startPacked is a server's address that compresses, and explains at length why it does not like
// an operator.
func startPacked(t *testing.T, server, compressor string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	noise := make([]byte, 2000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	invalid := bsonDoc("ok", 0, "errmsg", "Document failed validation", "code", 121, "codeName", "DocumentValidationFailure",
		"errInfo", bsonDoc("details", canary+base64.StdEncoding.EncodeToString(noise)))
	s := &standin.StandIn{Compressor: compressor, Answer: func(name string, command bsoncore.Document) bsoncore.Document {
		if name == "find" && bytes.Contains(command, []byte("$badop")) {
			return invalid
		}
		return nil
	}}
	go s.Serve(ln, server)
	return ln.Addr().String()
}

// packedBuild is a driver and what it compresses with.
type packedBuild struct {
	harness.Build
	compressor string
}

// TestMongoPacked: what is compressed is looked at before, and what has been decompressed
// after, once there is a message of which that is needed, at three hits a command; nothing of it
// leaves. Programs whose messages are small have the two hits a command that others have. TRACER_PACKED=all: with
// every driver and Go release of mongoBuilds, and every compressor.
func TestMongoPacked(t *testing.T) {
	needs(t)
	harness.CountRuns(t)
	builds := []packedBuild{{mongoBuilds[0], "zstd"}, {mongoBuilds[1], "zstd"}, {mongoBuilds[0], "snappy"}, {mongoBuilds[2], "snappy"}}
	if os.Getenv("TRACER_PACKED") == "all" {
		builds = nil
		for _, b := range mongoBuilds {
			builds = append(builds, packedBuild{b, "zstd"}, packedBuild{b, "snappy"}, packedBuild{b, "zlib"})
		}
	}
	for _, b := range builds {
		t.Run(strings.TrimPrefix(b.Dir, mongoTargets)+"-"+b.Go+string(b.Mode)+"-"+b.compressor, func(t *testing.T) {
			proxy := startMongoProxy(t, startPacked(t, startMongo(t), b.compressor), nil)
			tg := harness.StartTarget(t, b.Path(t), "-uri", "mongodb://"+proxy.addr+"/?compressors="+b.compressor+
				"&heartbeatFrequencyMS=600000&maxPoolSize=1&retryReads=false&retryWrites=false")
			agent := harness.Trace(t, tg)
			harness.Get(t, tg.URL("/burst?n=20&c=1&op=insertOne"))
			packedHits(t, agent, tg, 2)
			awaitPlain(t, agent, tg)
			packedHits(t, agent, tg, 3)
			harness.Get(t, tg.URL("/do?op=drop"))
			agent.Settle(agent.Mark(), 0, tg)
			for _, c := range packedCases {
				mark := agent.Mark()
				harness.Get(t, tg.URL("/do?op="+c.op))
				checkPacked(t, c.op, agent.Settle(mark, 2+len(c.more), tg), c.mongoCase)
			}
			packedBroken(t, agent, tg, "*[a-zA-Z].*", &proxy.garble)
			packedBroken(t, agent, tg, "connection_*", &proxy.cut)
			checkCanary(t, agent.Since(0))
		})
	}
}

// packedBroken: a command whose reply cannot be decompressed, or does not come.
func packedBroken(t *testing.T, agent *harness.Agent, tg *harness.Target, errorType string, broken *atomic.Bool) {
	t.Helper()
	broken.Store(true)
	defer broken.Store(false)
	mark := agent.Mark()
	if got := harness.Get(t, tg.URL("/do?op=findOne")); got == "ok" {
		t.Fatalf("%s: the call succeeded", errorType)
	}
	got := mongoSpans(agent.Settle(mark, 2, tg))
	if len(got) == 1 {
		if ok, _ := path.Match(errorType, got[0].Attr("error.type")); ok && got[0].Status == "error" && got[0].Name == "find orders" {
			return
		}
	}
	t.Errorf("%s: %v", errorType, got)
}

// awaitPlain makes commands that ask for it until both directions are read, and what ended
// commands before has been taken off.
func awaitPlain(t *testing.T, agent *harness.Agent, tg *harness.Target) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		mark := agent.Mark()
		harness.Get(t, tg.URL("/do?op=drop&op=insert200k&op=findRandom"))
		counted, answered := false, false
		for _, s := range mongoSpans(agent.Settle(mark, 4, tg)) {
			counted = counted || s.Name == "insert random" && s.Attr("db.operation.batch.size") == "100"
			answered = answered || s.Name == "find random" && s.Attr("db.response.returned_rows") != ""
			if s.Status == "error" {
				t.Errorf("no command has failed: %v", s)
			}
		}
		before := agent.Runs()
		harness.Get(t, tg.URL("/do?op=findOne"))
		spared := true
		for k := range delta(before, agent.Runs()) {
			spared = spared && !strings.Contains(k, "mg_read")
		}
		if counted && answered && spared {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("command counted: %v, reply counted: %v, not read twice: %v", counted, answered, spared)
		}
	}
}

// packedHits counts the hits of commands.
func packedHits(t *testing.T, agent *harness.Agent, tg *harness.Target, each int) {
	t.Helper()
	const n = 100
	mark, before := agent.Mark(), agent.Runs()
	harness.Get(t, tg.URL(fmt.Sprintf("/burst?n=%d&c=1&op=insertOne", n)))
	hits, mongo := delta(before, agent.Runs()), 0
	for k, v := range hits {
		if strings.Contains(k, "mg_") {
			mongo += int(v)
		}
	}
	if mongo != each*n {
		t.Errorf("%d hits for %d commands, want %d each: %v", mongo, n, each, hits)
	}
	agent.Settle(mark, n+1, tg)
}

func checkPacked(t *testing.T, op string, spans []harness.Span, want mongoCase) {
	t.Helper()
	got, request := mongoSpans(spans), harness.Of(spans, harness.Kind("server"))
	if len(got) != 1+len(want.more) || len(request) != 1 {
		t.Errorf("%s: %v", op, spans)
		return
	}
	attrs := maps.Clone(want.attrs)
	command, coll, _ := strings.Cut(want.name, " ")
	attrs["db.system.name"], attrs["db.namespace"] = "mongodb", "shop"
	attrs["db.operation.name"], attrs["db.collection.name"] = command, coll
	attrs["db.query.text"] = packedTexts[want.name]
	texts := got[0].Texts()
	maps.DeleteFunc(texts, func(k, _ string) bool { // how many errors is left out of long lists
		return strings.HasPrefix(k, "server.") || k == "mongodb.response.write_errors"
	})
	if !maps.Equal(attrs, texts) || got[0].Name != want.name || (got[0].Status == "error") != (want.error != "") || !strings.HasPrefix(got[0].StatusText, want.error) {
		t.Errorf("%s: %v\nwant %q, error %q, %v", op, got[0], want.name, want.error, attrs)
	}
	for i, s := range got {
		if s.ParentSpanID != request[0].SpanID || i > 0 && s.Name != want.more[i-1] {
			t.Errorf("%s: %v", op, s)
		}
	}
}
