package e2e

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestParents: a call is the child of the request it is made for, in whatever
// goroutine it is made, and of none when nothing says for which.
func TestParents(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	peer := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	grown := time.Now()
	growWorker(t, tg, agent)
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
		{name: "four goroutines deep, without context", options: []string{"style", "deep", "ctx", "0", "n", "3"}, calls: 3},
		{name: "worker pool", options: []string{"style", "pool", "n", "6"}, calls: 6},
		{name: "worker pool, without context", options: []string{"style", "pool", "ctx", "0"}, calls: 1, orphan: true},
		{name: "fan-out", options: []string{"style", "fanout", "n", "20"}, calls: 20},
		{name: "fan-out, without context", options: []string{"style", "fanout", "n", "20", "ctx", "0"}, calls: 20},
		{name: "context with a deadline and a value", options: []string{"style", "pool", "ctxms", "5000", "cancelms", "4000"}, calls: 1},
		{name: "HTTP/2", options: []string{"style", "fanout", "n", "20", "client", "insecure"}, calls: 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := peer.URL("/plain")
			if len(c.options) > 0 && c.options[len(c.options)-1] == "insecure" {
				target = "https://" + peer.HTTPS + "/plain"
			}
			request, calls := requestOf(t, tg, agent, target, c.calls, c.options...)
			for _, s := range calls {
				if c.orphan {
					checkOrphan(t, s, request)
					continue
				}
				checkChild(t, s, request)
			}
		})
	}
	// The goroutines in between may have ended, and theirs be other ones by now.
	t.Run("four goroutines deep that do not wait, without context", func(t *testing.T) {
		request, calls := requestOf(t, tg, agent, peer.URL("/plain"), 1, "style", "go4", "ctx", "0")
		if calls[0].ParentSpanID == "" {
			checkOrphan(t, calls[0], request)
		} else {
			checkChild(t, calls[0], request)
		}
	})
	t.Run("worker that a request started which has ended long ago, without context", func(t *testing.T) {
		<-time.After(time.Until(grown.Add(parentGrace)))
		request, calls := requestOf(t, tg, agent, peer.URL("/plain"), 1, "style", "grown", "ctx", "0")
		checkOrphan(t, calls[0], request)
	})
	if m := agent.Metrics(); harness.Lost(m) != 0 {
		t.Errorf("losses are counted: %v", m)
	}
}

// parentGrace is a little more than PARENT_GRACE_NS of bpf/lib/goctx.h.
const parentGrace = 5500 * time.Millisecond

// growWorker has a request start a worker, on a connection that serves no other.
func growWorker(t *testing.T, tg *harness.Target, agent *harness.Agent) {
	t.Helper()
	mark := agent.Mark()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(tg.CallURL("", "style", "grow", "n", "0"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	agent.Settle(mark, 1, tg)
}

// requestOf has tg make calls in a request, and returns the spans of both.
func requestOf(t *testing.T, tg *harness.Target, agent *harness.Agent, target string, n int, options ...string) (request harness.Span, calls []harness.Span) {
	t.Helper()
	mark := agent.Mark()
	for _, out := range tg.Call(t, target, options...) {
		if out.Status != 200 {
			t.Fatalf("call: %+v", out)
		}
	}
	spans := agent.Settle(mark, n+1, tg)
	servers := harness.Of(spans, harness.Kind("server"))
	calls = harness.Of(spans, harness.Kind("client"))
	if len(servers) != 1 || len(calls) != n {
		t.Fatalf("%d server and %d client spans, want 1 and %d: %v", len(servers), len(calls), n, spans)
	}
	return servers[0], calls
}

func checkOrphan(t *testing.T, s, request harness.Span) {
	t.Helper()
	if s.ParentSpanID != "" || s.TraceID == request.TraceID {
		t.Errorf("a call that nothing links to a request has a parent: %s", s)
	}
}

// TestParentsAreNotMixed: of many requests at once, each one's calls are its own.
func TestParentsAreNotMixed(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	peer := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	const requests, calls = 60, 4
	styles := []string{"inline", "go", "go4", "pool", "fanout", "deep"}
	mark := agent.Mark()
	errs := make(chan error, requests)
	for i := range requests {
		style, ctx := styles[i%len(styles)], "1"
		if style == "deep" {
			ctx = "0"
		}
		go func() {
			_, err := harness.TryGet(tg.CallURL(peer.URL("/sleep?ms=5&req="+strconv.Itoa(i)),
				"style", style, "n", strconv.Itoa(calls), "id", strconv.Itoa(i), "ctx", ctx))
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
