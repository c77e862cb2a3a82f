package e2e

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

var redisTarget = harness.Build{Dir: "testdata/targets/redis"}

// canary is in every key and value of the database targets.
const canary = "CANARY"

// tracedRedis starts a server, the target with database 3, and an agent on it.
func tracedRedis(t *testing.T, b harness.Build) (*harness.Target, *harness.Agent, *harness.Server) {
	t.Helper()
	needs(t)
	srv := harness.StartRedis(t)
	tg := harness.StartTarget(t, b.Path(t), "-redis", srv.Addr, "-db", "3")
	return tg, harness.Trace(t, tg), srv
}

// redisCase is one call, /library/call, and its span whole.
type redisCase struct {
	call   string
	libs   string // "" is all
	name   string
	status string
	attrs  map[string]string
	before string // a call that is to be made first
}

var redisCases = []redisCase{
	{call: "set", name: "SET", attrs: map[string]string{"db.redis.key_count": "1", "db.query.text": "SET ? ?"}},
	{call: "get", name: "GET", before: "set", attrs: map[string]string{"db.redis.key_count": "1", "db.query.text": "GET ?"}},
	{call: "nil", name: "GET", attrs: map[string]string{"db.redis.key_count": "1", "db.query.text": "GET ?"}},
	{call: "mget", name: "MGET", attrs: map[string]string{"db.redis.key_count": "3", "db.query.text": "MGET ? ? ?"}},
	{call: "hset", libs: "v8 v9", name: "HSET", attrs: map[string]string{"db.redis.key_count": "1", "db.query.text": "HSET ? ? ? ? ? ? ?"}},
	{call: "wrongtype", name: "LPUSH", before: "set", status: "WRONGTYPE",
		attrs: map[string]string{"db.redis.key_count": "1", "db.query.text": "LPUSH ? ?"}},
	{call: "unknown", name: "NOSUCH", status: "ERR", attrs: map[string]string{"db.query.text": "NOSUCH ?"}},
	{call: "noscript", libs: "v8 v9", name: "EVALSHA", status: "NOSCRIPT", attrs: map[string]string{"db.query.text": "EVALSHA ? ? ? ?"}},
	{call: "do?arg=CANARY%20x", name: "UNKNOWN", status: "ERR", attrs: map[string]string{"db.query.text": "UNKNOWN ?"}},
	{call: "do?arg=" + strings.Repeat("CANARY", 200), name: "UNKNOWN", status: "ERR", attrs: map[string]string{"db.query.text": "UNKNOWN ?"}},
	{call: "pipeline", libs: "v8 v9", name: "PIPELINE",
		attrs: map[string]string{"db.operation.batch.size": "3", "db.query.text": "SET ? ?; GET ?; GET ?"}},
	{call: "pipeline", libs: "redigo", name: "PIPELINE", attrs: map[string]string{"db.operation.batch.size": "3"}},
	{call: "same", libs: "v8 v9", name: "PIPELINE", attrs: map[string]string{"db.operation.batch.size": "20",
		"db.query.text": strings.Repeat("INCR ?; ", 16) + "..."}},
	{call: "pipeerror", libs: "v8 v9", name: "PIPELINE", status: "WRONGTYPE",
		attrs: map[string]string{"db.operation.batch.size": "3", "db.query.text": "SET ? ?; LPUSH ? ?; GET ?"}},
	{call: "pipenil", libs: "v8 v9", before: "set", name: "PIPELINE", status: "WRONGTYPE",
		attrs: map[string]string{"db.operation.batch.size": "2", "db.query.text": "GET ?; LPUSH ? ?"}},
	{call: "tx", libs: "v8 v9", name: "MULTI", attrs: map[string]string{"db.operation.batch.size": "2", "db.query.text": "SET ? ?; INCR ?"}},
	{call: "tx", libs: "redigo", name: "MULTI", attrs: map[string]string{"db.operation.batch.size": "2"}},
	{call: "block?ms=80", libs: "redigo", name: "BLPOP", status: "timeout", attrs: map[string]string{"db.query.text": "BLPOP ? ?"}},
	{call: "context?cancel=80", libs: "redigo", name: "BLPOP", status: "canceled", attrs: map[string]string{"db.query.text": "BLPOP ? ?"}},
	{call: "block?cancel=80", libs: "v8", name: "BLPOP", status: "canceled", attrs: map[string]string{"db.query.text": "BLPOP ? ?"}},
	{call: "refused", libs: "v8 v9", name: "GET", status: "connection_refused",
		attrs: map[string]string{"db.redis.key_count": "1", "db.query.text": "GET ?", "server.port": "1", "db.namespace": "0"}},
	{call: "retried", libs: "v8 v9", name: "GET", status: "connection_refused",
		attrs: map[string]string{"db.redis.key_count": "1", "db.query.text": "GET ?", "server.port": "1", "db.namespace": "0"}},
	{call: "piperefused", libs: "v8 v9", name: "PIPELINE INCR", status: "connection_refused",
		attrs: map[string]string{"db.query.text": "INCR ?", "server.port": "1", "db.namespace": "0"}},
}

// want is the span's whole set of attributes.
func (c redisCase) want(lib string, srv *harness.Server) map[string]string {
	m := map[string]string{"db.system.name": "redis", "db.operation.name": c.name}
	m["db.namespace"], m["server.address"], m["server.port"] = "3", srv.Host(), srv.Port()
	if c.status != "" {
		m["error.type"] = c.status
		if strings.ToUpper(c.status) == c.status {
			m["db.response.status_code"] = c.status
		}
	}
	for k, v := range c.attrs {
		m[k] = v
	}
	if call, _, _ := strings.Cut(c.call, "?"); lib == "redigo" && (call == "pipeline" || call == "tx" || call == "block") {
		delete(m, "db.namespace") // from a pipeline on, which may have selected another, until the pool dials
	}
	return m
}

// TestRedis checks one span, whole, for each kind of call, in the newest and in an old
// version of each library, with and without symbols.
func TestRedis(t *testing.T) {
	for name, b := range map[string]harness.Build{
		"new":           redisTarget,
		"new, stripped": {Dir: redisTarget.Dir, Mode: harness.Stripped},
		"old":           {Dir: redisTarget.Dir, Mod: "old.mod", Go: "1.18.10"},
		"old, stripped": {Dir: redisTarget.Dir, Mod: "old.mod", Go: "1.21.13", Mode: harness.Stripped},
	} {
		t.Run(name, func(t *testing.T) {
			tg, agent, srv := tracedRedis(t, b)
			for _, lib := range []string{"v8", "v9", "redigo"} {
				harness.Get(t, tg.URL("/"+lib+"/set")) // dials, and there is something to find
				agent.Settle(agent.Mark(), 0, tg)
				for _, c := range redisCases {
					if c.libs != "" && !strings.Contains(c.libs, lib) {
						continue
					}
					t.Run(lib+" "+c.call[:min(len(c.call), 20)], func(t *testing.T) {
						checkRedis(t, tg, agent, srv, lib, c)
					})
				}
			}
			checkCanary(t, agent.Since(0))
		})
	}
}

// TestRedisTLS: below TLS redigo's connections lead to the server just as well.
func TestRedisTLS(t *testing.T) {
	needs(t)
	cert, _ := harness.Certificate(t)
	proxy := startMongoProxy(t, harness.StartRedis(t).Addr, &tls.Config{Certificates: []tls.Certificate{cert}})
	tg := harness.StartTarget(t, redisTarget.Path(t), "-redis-tls", proxy.addr, "-db", "3")
	agent := harness.Trace(t, tg)
	harness.Get(t, tg.URL("/redigo-tls/set")) // dials
	agent.Settle(agent.Mark(), 0, tg)
	mark := agent.Mark()
	harness.Get(t, tg.URL("/redigo-tls/set"))
	got := harness.Of(agent.Settle(mark, 2, tg), harness.Kind("client"))
	if len(got) != 1 || net.JoinHostPort(got[0].Attr("server.address"), got[0].Attr("server.port")) != proxy.addr || got[0].Attr("db.namespace") != "3" {
		t.Errorf("%v, want one to database 3 at %s", got, proxy.addr)
	}
}

func checkRedis(t *testing.T, tg *harness.Target, agent *harness.Agent, srv *harness.Server, lib string, c redisCase) {
	t.Helper()
	if c.before != "" {
		harness.Get(t, tg.URL("/"+lib+"/"+c.before))
		agent.Settle(agent.Mark(), 0, tg)
	}
	mark := agent.Mark()
	answer := harness.Get(t, tg.URL("/"+lib+"/"+c.call))
	if strings.HasPrefix(answer, "error: no such call") {
		t.Fatal(answer)
	}
	spans := agent.Settle(mark, 2, tg)
	calls := harness.Of(spans, func(s harness.Span) bool {
		// redigo's pool may have to dial, which selects the database
		return s.Kind == "client" && (s.Name != "SELECT" || c.name == "SELECT")
	})
	if len(calls) != 1 {
		t.Fatalf("%d client spans, want 1: %v", len(calls), spans)
	}
	s := calls[0]
	if s.Name != c.name {
		t.Errorf("name %q, want %q", s.Name, c.name)
	}
	if diff := cmp.Diff(c.want(lib, srv), s.Texts()); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	want := "unset"
	if c.status != "" {
		want = "error"
	}
	if s.Status != want {
		t.Errorf("status %s, want %s; the program saw %q", s.Status, want, answer)
	}
	if strings.HasPrefix(c.call, "context") && tg.Go < "go1.21" {
		return // made in another goroutine, which does not know who started it
	}
	checkChild(t, s, harness.Of(spans, harness.Kind("server"))[0])
}

// checkCanary: nothing that a program sent as a value is in what leaves the host. The
// request's own query string holds what the test itself asked for.
func checkCanary(t *testing.T, spans []harness.Span) {
	t.Helper()
	n := 0
	for _, s := range spans {
		if s.Kind != "client" {
			continue
		}
		n++
		if strings.Contains(s.String(), canary) {
			t.Errorf("a value has left the host: %s", s)
		}
	}
	if n == 0 {
		t.Error("no span to look for values in")
	}
}

// TestRedisHits: a command costs two hits, a pipeline two, exactly; of redigo one for
// its start and one for each reply (ADR 2 says why).
func TestRedisHits(t *testing.T) {
	needs(t)
	srv := harness.StartRedis(t)
	tg := harness.StartTarget(t, redisTarget.Path(t), "-redis", srv.Addr)
	harness.CountRuns(t)
	agent := harness.Trace(t, tg)
	const n = 1000
	for _, c := range []struct {
		call string
		hits uint64
	}{
		{"v8/set", 2}, {"v9/set", 2}, {"v8/same", 2}, {"v9/same", 2}, {"v8/tx", 2}, {"v9/tx", 2},
		// the pool's Close looks for replies that are due, one more
		{"redigo/set", 3}, {"redigo/pipeline", 5},
	} {
		t.Run(c.call, func(t *testing.T) {
			harness.Get(t, tg.URL("/"+c.call)) // dials
			before := redisRuns(agent)
			mark := agent.Mark()
			harness.Get(t, tg.URL("/"+c.call+"?n="+strconv.Itoa(n)))
			agent.Settle(mark, n+1, tg)
			if got := redisRuns(agent) - before; got != c.hits*n {
				t.Errorf("%d hits for %d calls, want %d each", got, n, c.hits)
			}
		})
	}
}

func redisRuns(a *harness.Agent) (sum uint64) {
	for name, n := range a.Runs() {
		if strings.HasPrefix(name, "rd_") {
			sum += n
		}
	}
	return sum
}

// TestRedisConcurrent: of 50 goroutines at once each call is one span of its request.
func TestRedisConcurrent(t *testing.T) {
	tg, agent, _ := tracedRedis(t, redisTarget)
	for _, lib := range []string{"v8", "v9"} {
		const par, n, requests = 50, 20, 4
		mark := agent.Mark()
		errs := make(chan error, requests)
		for range requests {
			go func() {
				_, err := harness.TryGet(tg.URL("/" + lib + "/set?par=" + strconv.Itoa(par) + "&n=" + strconv.Itoa(n)))
				errs <- err
			}()
		}
		for range requests {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		spans := agent.Settle(mark, requests*(par*n+1), tg)
		per := map[string]int{}
		for _, s := range harness.Of(spans, harness.Kind("client")) {
			per[s.ParentSpanID]++
		}
		for _, s := range harness.Of(spans, harness.Kind("server")) {
			if per[s.SpanID] != par*n {
				t.Errorf("%s: a request has %d calls, want %d", lib, per[s.SpanID], par*n)
			}
			delete(per, s.SpanID)
		}
		if len(per) > 0 {
			t.Errorf("%s: calls of no request: %v", lib, per)
		}
	}
	if m := agent.Metrics(); harness.Lost(m) != 0 {
		t.Errorf("losses are counted: %v", m)
	}
}

// TestRedisServerDies: calls under way when the server dies end with its kind of error,
// and the program lives on.
func TestRedisServerDies(t *testing.T) {
	tg, agent, srv := tracedRedis(t, redisTarget)
	for _, lib := range []string{"v8", "v9", "redigo"} {
		harness.Get(t, tg.URL("/"+lib+"/set"))
	}
	agent.Settle(agent.Mark(), 0, tg)
	mark := agent.Mark()
	srv.Pause()
	answers := make(chan string, 2)
	for _, lib := range []string{"v8", "v9"} {
		go func() {
			text, err := harness.TryGet(tg.URL("/" + lib + "/block"))
			if err != nil {
				text = err.Error()
			}
			answers <- text
		}()
	}
	srv.Kill()
	for range 2 {
		if text := <-answers; !strings.HasPrefix(text, "error:") {
			t.Errorf("the program sees %q", text)
		}
	}
	harness.Get(t, tg.URL("/redigo/set"))
	spans := harness.Of(agent.Settle(mark, 6, tg), harness.Kind("client"))
	for _, s := range spans {
		switch kind := s.Attr("error.type"); kind {
		case "connection_closed", "connection_reset", "connection_refused":
		default:
			t.Errorf("error.type %q: %s", kind, s)
		}
	}
	if len(spans) < 3 {
		t.Errorf("%d client spans, want 3: %v", len(spans), spans)
	}
	if !tg.Alive() {
		t.Error("the program has ended")
	}
}

// TestRedisQueryText: what is in db.query.text is the user's choice.
func TestRedisQueryText(t *testing.T) {
	srv := harness.StartRedis(t)
	tg := harness.StartTarget(t, redisTarget.Path(t), "-redis", srv.Addr)
	checkQueryTexts(t, tg, "redis", "/v9/hset", `HSET "CANARY-hash" "CANARY-field" "CANARY-value" "n" 7 "f" 1.5`)
}

// checkQueryTexts has a call made with each of the settings of query_text that are not the usual one.
func checkQueryTexts(t *testing.T, tg *harness.Target, section, call, full string) {
	for mode, want := range map[string]string{"off": "", "full": full} {
		t.Run(mode, func(t *testing.T) {
			agent := traceWith(t, tg, section+":\n  query_text: "+mode+"\n")
			mark := agent.Mark()
			harness.Get(t, tg.URL(call))
			calls := harness.Of(agent.Settle(mark, 2, tg), harness.Kind("client"))
			if len(calls) != 1 || calls[0].Attr("db.query.text") != want {
				t.Errorf("got %v, want one with db.query.text %q", calls, want)
			}
		})
	}
}

// traceWith starts an agent with a configuration file on a target.
func traceWith(t *testing.T, tg *harness.Target, config string) *harness.Agent {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := harness.StartAgent(t, "--pid", strconv.Itoa(tg.PID), "--config", path)
	agent.WaitInstrumented(tg.PID)
	return agent
}
