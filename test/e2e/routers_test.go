package e2e

import (
	"slices"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

const routersDir = "testdata/targets/routers"

// routerCase is one request and the route that each router's span must have.
type routerCase struct {
	path   string
	status int
	route  map[string]string // by router; "" = all others; a missing one: none
}

var routerCases = []routerCase{
	{"/plain", 200, map[string]string{"": "/plain"}},
	{"/orders/42", 200, map[string]string{"gin": "/orders/:id", "echo": "/orders/:id", "echo5": "/orders/:id",
		"chi": "/orders/{id}", "oldchi": "/orders/{id}", "mux": "/orders/{id:[0-9]+}"}},
	{"/api/items/7", 200, map[string]string{"gin": "/api/items/:id", "echo": "/api/items/:id", "echo5": "/api/items/:id",
		"chi": "/api/items/{id}", "oldchi": "/api/items/{id}", "mux": "/api/items/{id}"}},
	{"/files/a/b", 200, map[string]string{"gin": "/files/*path", "echo": "/files/*", "echo5": "/files/*",
		"chi": "/files/*", "oldchi": "/files/*", "mux": "/files/"}},
	// a handler's own 404 has a route, an unknown path has none, below a mounted router either
	{"/missing/7", 404, map[string]string{"gin": "/missing/:id", "echo": "/missing/:id", "echo5": "/missing/:id",
		"chi": "/missing/{id}", "oldchi": "/missing/{id}", "mux": "/missing/{id}"}},
	{"/nowhere/7", 404, nil},
	{"/api/nowhere", 404, nil},
	{"/moved", 302, map[string]string{"": "/moved"}},
	{"/plain", 200, map[string]string{"": "/plain"}}, // nothing is left of the one before
}

// TestRouters: http.route of every router, with old and new releases of them, with
// and without symbols.
func TestRouters(t *testing.T) {
	needs(t)
	for _, b := range []harness.Build{
		{Dir: routersDir},
		{Dir: routersDir, Mode: harness.Stripped},
		{Dir: routersDir, Mod: "old.mod", Go: "1.18.10", Mode: harness.Stripped},
	} {
		t.Run(b.Mod+b.Go+string(b.Mode), func(t *testing.T) {
			tg := harness.StartTarget(t, b.Path(t))
			agent := harness.Trace(t, tg)
			fence := tg
			for name, addr := range tg.Servers {
				mark := agent.Mark()
				for _, c := range routerCases {
					get(t, "http://"+addr+c.path, c.status)
				}
				spans := agent.Settle(mark, len(routerCases), fence)
				if len(spans) != len(routerCases) {
					t.Fatalf("%s: %d spans for %d requests", name, len(spans), len(routerCases))
				}
				// Each request has a connection, and so a span that may overtake another.
				slices.SortFunc(spans, func(a, b harness.Span) int { return a.Start.Compare(b.Start) })
				for i, c := range routerCases {
					want, ok := c.route[name]
					if !ok {
						want = c.route[""]
					}
					wantName := "GET"
					if want != "" {
						wantName += " " + want
					}
					if s := spans[i]; s.Attr("http.route") != want || s.Name != wantName || s.Attr("url.path") != c.path {
						t.Errorf("%s %s: want route %q, got %s", name, c.path, want, s)
					}
				}
			}
		})
	}
}

// TestRouterHitBudget: a route costs one hit more, where there is such a router.
func TestRouterHitBudget(t *testing.T) {
	needs(t)
	harness.CountRuns(t)
	tg := harness.StartTarget(t, harness.Build{Dir: routersDir, Mode: harness.Stripped}.Path(t))
	agent := harness.Trace(t, tg)
	for name, addr := range tg.Servers {
		server := *tg
		server.HTTP = addr
		keepAlive(t, &server, "/orders/1", 100)
		agent.Settle(agent.Mark(), 0, tg)
		const n = 2000
		before := agent.Runs()
		keepAlive(t, &server, "/orders/1", n)
		hits := hitsSince(agent, before, 3*n)
		if got := total(hits); got < 3*n || got > 3*n+2 {
			t.Errorf("%s: %d hits for %d requests on one connection, want %d and at most 2 for the connection: %v", name, got, n, 3*n, hits)
		}
	}
}

// get sends a request on a connection of its own and requires the status.
func get(t *testing.T, url string, status int) {
	t.Helper()
	resp, err := harness.Client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != status {
		t.Fatalf("get %s: status %d, want %d", url, resp.StatusCode, status)
	}
}
