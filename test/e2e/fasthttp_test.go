package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

const fasthttpDir = "testdata/targets/fasthttp"

// fastCase is one request to a server of fasthttp or fiber, and its span.
type fastCase struct {
	server, method, path, body string
	status                     int
	span                       string
	attrs                      map[string]string // besides those that all have
}

var fastCases = []fastCase{
	{server: "fasthttp", method: "GET", path: "/plain?token=s3cret&a=1", status: 200, span: "GET",
		attrs: map[string]string{"url.path": "/plain", "url.query": "token=REDACTED&a=1", "http.response.body.size": "2"}},
	{server: "fasthttp", method: "POST", path: "/echo", body: "hello", status: 200, span: "POST",
		attrs: map[string]string{"url.path": "/echo", "http.request.body.size": "5", "http.response.body.size": "5"}},
	{server: "fasthttp", method: "GET", path: "/status?is=503", status: 503, span: "GET",
		attrs: map[string]string{"url.path": "/status", "url.query": "is=503", "http.response.body.size": "0", "error.type": "503"}},
	{server: "fasthttp", method: "GET", path: "/stream", status: 200, span: "GET", attrs: map[string]string{"url.path": "/stream"}},
	{server: "fasthttp", method: "GET", path: "/nowhere", status: 404, span: "GET",
		attrs: map[string]string{"url.path": "/nowhere", "http.response.body.size": "12"}},
	{server: "fiber", method: "GET", path: "/orders/7", status: 200, span: "GET /orders/:id",
		attrs: map[string]string{"url.path": "/orders/7", "http.route": "/orders/:id", "http.response.body.size": "2"}},
	{server: "fiber", method: "GET", path: "/api/items/7", status: 200, span: "GET /api/items/:id",
		attrs: map[string]string{"url.path": "/api/items/7", "http.route": "/api/items/:id", "http.response.body.size": "2"}},
	{server: "fiber", method: "GET", path: "/mounted/users/7", status: 200, span: "GET /mounted/users/:id",
		attrs: map[string]string{"url.path": "/mounted/users/7", "http.route": "/mounted/users/:id", "http.response.body.size": "2"}},
	{server: "fiber", method: "GET", path: "/missing/7", status: 404, span: "GET /missing/:id",
		attrs: map[string]string{"url.path": "/missing/7", "http.route": "/missing/:id", "http.response.body.size": "9"}},
	{server: "fiber", method: "GET", path: "/nowhere", status: 404, span: "GET",
		attrs: map[string]string{"url.path": "/nowhere", "http.response.body.size": any_}},
}

// TestFasthttp: whole attribute sets of fasthttp's requests and fiber's routes, and
// parents: the caller's traceparent, and the request for calls of its own.
func TestFasthttp(t *testing.T) {
	needs(t)
	for _, b := range []harness.Build{
		{Dir: fasthttpDir},
		{Dir: fasthttpDir, Mode: harness.Stripped},
		{Dir: fasthttpDir, Mod: "old.mod", Go: "1.18.10", Mode: harness.Stripped},
	} {
		t.Run(b.Mod+b.Go+string(b.Mode), func(t *testing.T) {
			tg := harness.StartTarget(t, b.Path(t))
			agent := harness.Trace(t, tg)
			for _, c := range fastCases {
				checkFast(t, tg, agent, c)
				if _, ok := tg.Servers["fiber3"]; ok && c.server == "fiber" {
					c.server = "fiber3"
					checkFast(t, tg, agent, c)
				}
			}
			checkFastParents(t, tg, agent)
		})
	}
}

func checkFast(t *testing.T, tg *harness.Target, agent *harness.Agent, c fastCase) {
	t.Helper()
	mark := agent.Mark()
	host := tg.Servers[c.server]
	req, err := http.NewRequest(c.method, "http://"+host+c.path, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", userAgent)
	do(t, req, c.status)
	spans := harness.Of(agent.Settle(mark, 1, tg), harness.Kind("server"))
	if len(spans) != 1 {
		t.Fatalf("%s %s: %d spans", c.server, c.path, len(spans))
	}
	s := spans[0]
	addr, port, _ := strings.Cut(host, ":")
	want := map[string]string{
		"http.request.method": c.method, "http.response.status_code": strconv.Itoa(c.status), "url.scheme": "http",
		"server.address": addr, "server.port": port, "client.address": "127.0.0.1", "network.peer.address": "127.0.0.1",
		"network.peer.port": any_, "network.protocol.version": "1.1", "user_agent.original": userAgent,
	}
	for k, v := range c.attrs {
		want[k] = v
	}
	got := s.Texts()
	for k, v := range want {
		if v == any_ && got[k] != "" {
			want[k] = got[k]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || s.Name != c.span {
		t.Errorf("%s %s: span %q, want %q; attributes (-want +got):\n%s", c.server, c.path, s.Name, c.span, diff)
	}
}

func checkFastParents(t *testing.T, tg *harness.Target, agent *harness.Agent) {
	t.Helper()
	mark := agent.Mark()
	req, err := http.NewRequest(http.MethodGet, "http://"+tg.Servers["fasthttp"]+"/call?url=http://"+tg.HTTP+"/called", nil)
	if err != nil {
		t.Fatal(err)
	}
	const trace = "0af7651916cd43dd8448eb211c80319c"
	req.Header.Set("traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	req.Header.Set("tracestate", "a=b")
	do(t, req, 200)
	spans := agent.Settle(mark, 3, tg)
	var server, client, called harness.Span
	for _, s := range spans {
		switch {
		case s.Kind == "client":
			client = s
		case s.Attr("url.path") == "/call":
			server = s
		case s.Attr("url.path") == "/called":
			called = s
		}
	}
	if server.TraceID != trace || server.ParentSpanID != "b7ad6b7169203331" || server.TraceState != "a=b" || !server.ParentRemote {
		t.Errorf("the caller's traceparent was not taken: %s", server)
	}
	if client.TraceID != trace || client.ParentSpanID != server.SpanID {
		t.Errorf("the request's call is not its child: %s, request %s", client, server)
	}
	if called.ParentSpanID != client.SpanID {
		t.Errorf("the called request did not join: %s, call %s", called, client)
	}
}

func do(t *testing.T, req *http.Request, status int) {
	t.Helper()
	resp, err := harness.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != status {
		t.Fatalf("%s: status %d, want %d", req.URL, resp.StatusCode, status)
	}
}

// TestFasthttpHitBudget: two hits a request, three with a route of fiber's.
func TestFasthttpHitBudget(t *testing.T) {
	needs(t)
	harness.CountRuns(t)
	tg := harness.StartTarget(t, harness.Build{Dir: fasthttpDir, Mode: harness.Stripped}.Path(t))
	agent := harness.Trace(t, tg)
	for name, each := range map[string]int{"fasthttp": 2, "fiber": 3, "fiber3": 3} {
		server := *tg
		server.HTTP = tg.Servers[name]
		keepAlive(t, &server, "/plain", 100)
		agent.Settle(agent.Mark(), 0, tg)
		const n = 2000
		before := agent.Runs()
		keepAlive(t, &server, "/plain", n)
		hits := delta(before, agent.Runs())
		if got := total(hits); got != each*n {
			t.Errorf("%s: %d hits for %d requests on one connection, want %d: %v", name, got, n, each*n, hits)
		}
	}
}

// TestFasthttpBodies: fields of JSON bodies and headers become metrics, of what is surely the
// request's and its answer's, at no hit.
func TestFasthttpBodies(t *testing.T) {
	needs(t)
	harness.CountRuns(t)
	for _, b := range []harness.Build{
		{Dir: fasthttpDir, Mode: harness.Stripped},
		{Dir: fasthttpDir, Mod: "old.mod", Go: "1.18.10", Mode: harness.Stripped},
	} {
		t.Run(b.Mod+b.Go, func(t *testing.T) {
			tg, a, url := ruled(t, bodyRules, b)
			post := func(server, path, media, body string) {
				t.Helper()
				req, err := http.NewRequest(http.MethodPost, "http://"+tg.Servers[server]+path, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", media)
				req.Header.Set("X-Request-ID", "id-"+path)
				resp, err := harness.Client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			const media = "Application/JSON; charset=utf-8"
			order := func(symbol string, quantity int) string {
				return fmt.Sprintf(`{"symbol":%q,"password":%q,"quantity":%d,"orders":[{},{"quantity":%d}]}`, symbol, canary, quantity, quantity)
			}
			before, mark := a.Runs(), a.Mark()
			post("fasthttp", "/trades", media, order("PLAIN", 1))
			post("fasthttp", "/trades?as=raw", media, order("RAW", 2))
			post("fasthttp", "/trades?as=zip", media, order("ZIP", 4))
			post("fasthttp", "/trades?as=long", media, order("LONG", 8))
			post("fasthttp", "/trades?as=text", media, order("TEXT", 16))         // the answer is none
			post("fasthttp", "/trades?as=stream", media, order("STREAM", 32))     // not there as a whole
			post("fasthttp", "/trades?as=swapped", media, order("THROWN", 64))    // not the client's any more
			post("fasthttp", "/trades", "application/json5", order("JSON5", 128)) // nor said to be JSON
			post("fasthttp", "/trades", media, "quantity=256")
			post("fasthttp", "/slow", media, order("SLOW", 1024))     // still with the handler; its answer is text
			post("stream", "/trades", media, order("STREAMED", 2048)) // there when the handler has asked for all of it
			post("stream", "/plain", media, order("UNREAD", 1<<14))
			post("fiber", "/trades/7", "application/json", order("FIBER", 4096))
			awaitCounts(t, url, map[string]int{
				`order_volume_total symbol="PLAIN"`: 1, `order_volume_total symbol="FIBER"`: 4096,
				`order_volume_total side="server"`: 1 + 2 + 4 + 8 + 16 + 32 + 2048 + 4096, "nested_volume_total": 1 + 2 + 4 + 8 + 16 + 32 + 2048 + 4096,
				`order_volume_total route="/trades/:id"`: 4096,
				"answer_volume_total":                    1 + 2 + 4 + 8 + 64 + 128 + 2048 + 4096,
				"amount_said_total":                      1 + 2 + 4 + 8 + 16 + 32 + 64 + 128 + 2048,
				// one swapped, one not read; one answer is streamed, and one is cut behind its fields
				`tracer_agent_http_body_misses_total body="request"`: 2 + 1, `tracer_agent_http_body_misses_total body="response"`: 2,
				`tracer_agent_http_body_misses_total reason="not_json"`: 1, "tracer_agent_metric_rule_unseen_total": 0,
			})
			a.Await(mark, 13)
			spans := a.Since(mark)
			if hits := delta(before, a.Runs()); total(hits) != 2*13+1 {
				t.Errorf("%d hits for 13 requests, one of them of fiber: %v", total(hits), hits)
			}
			if got := fmt.Sprint(spans[0].Texts()["http.request.header.x-request-id"]); !strings.Contains(got, "id-/trades") {
				t.Errorf("captured header %q", got)
			}
			for where, text := range map[string]string{"metrics": harness.Get(t, url), "log": a.Stderr(), "spans": fmt.Sprintf("%+v", spans)} {
				if strings.Contains(text, canary) {
					t.Errorf("a field that nobody asked for is in the %s", where)
				}
			}
		})
	}
}
