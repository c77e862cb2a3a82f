package e2e

import (
	"strconv"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestParents: a call is the child of the request it is made for, in whatever
// goroutine it is made, and of none when nothing says for which.
func TestParents(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	peer := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	for _, c := range []struct {
		name    string
		options []string
		calls   int
		orphan  bool
	}{
		{name: "in the handler", calls: 1},
		{name: "in the handler, without context", options: []string{"ctx", "0"}, calls: 1},
		{name: "one after the other", options: []string{"n", "5"}, calls: 5},
		{name: "in a goroutine", options: []string{"style", "go"}, calls: 1},
		{name: "in a goroutine, without context", options: []string{"style", "go", "ctx", "0"}, calls: 1},
		{name: "four goroutines deep", options: []string{"style", "go4"}, calls: 1},
		{name: "worker pool", options: []string{"style", "pool", "n", "6"}, calls: 6},
		{name: "worker pool, without context", options: []string{"style", "pool", "ctx", "0"}, calls: 1, orphan: true},
		{name: "fan-out", options: []string{"style", "fanout", "n", "20"}, calls: 20},
		{name: "fan-out, without context", options: []string{"style", "fanout", "n", "20", "ctx", "0"}, calls: 20},
		{name: "context with a deadline and a value", options: []string{"style", "pool", "ctxms", "5000", "cancelms", "4000"}, calls: 1},
		{name: "HTTP/2", options: []string{"style", "fanout", "n", "20", "client", "insecure"}, calls: 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			mark := agent.Mark()
			target := peer.URL("/plain")
			if len(c.options) > 0 && c.options[len(c.options)-1] == "insecure" {
				target = "https://" + peer.HTTPS + "/plain"
			}
			for _, out := range tg.Call(t, target, c.options...) {
				if out.Status != 200 {
					t.Fatalf("call: %+v", out)
				}
			}
			spans := agent.Settle(mark, c.calls+1, tg)
			servers := harness.Of(spans, harness.Kind("server"))
			calls := harness.Of(spans, harness.Kind("client"))
			if len(servers) != 1 || len(calls) != c.calls {
				t.Fatalf("%d server and %d client spans, want 1 and %d: %v", len(servers), len(calls), c.calls, spans)
			}
			for _, s := range calls {
				if c.orphan {
					if s.ParentSpanID != "" || s.TraceID == servers[0].TraceID {
						t.Errorf("a call that nothing links to a request has a parent: %s", s)
					}
					continue
				}
				checkChild(t, s, servers[0])
			}
		})
	}
}

// TestParentsAreNotMixed: of many requests at once, each one's calls are its own.
func TestParentsAreNotMixed(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	peer := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	const requests, calls = 60, 4
	styles := []string{"inline", "go", "go4", "pool", "fanout"}
	mark := agent.Mark()
	errs := make(chan error, requests)
	for i := range requests {
		go func() {
			_, err := harness.TryGet(tg.CallURL(peer.URL("/sleep?ms=5&req="+strconv.Itoa(i)),
				"style", styles[i%len(styles)], "n", strconv.Itoa(calls), "id", strconv.Itoa(i)))
			errs <- err
		}()
	}
	for range requests {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	spans := agent.Settle(mark, requests*(calls+1), tg)
	servers := map[string]harness.Span{}
	for _, s := range harness.Of(spans, harness.Kind("server")) {
		servers[s.SpanID] = s
	}
	if len(servers) != requests {
		t.Errorf("%d server spans, want %d", len(servers), requests)
	}
	found := 0
	for _, s := range harness.Of(spans, harness.Kind("client")) {
		p, ok := servers[s.ParentSpanID]
		if !ok {
			t.Errorf("a call without its request: %s", s)
			continue
		}
		if want, got := query(p.Attr("url.query"), "id"), query(s.Attr("url.full"), "req"); want != got {
			t.Errorf("the call of request %s is a child of request %s", got, want)
		}
		found++
	}
	if found != requests*calls {
		t.Errorf("%d calls have a parent, want %d", found, requests*calls)
	}
}
