package e2e

import (
	"strconv"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestJoin: when both ends are watched, the server's span is the child of the
// call's, over HTTP, HTTPS and HTTP/2, one after the other and many at once.
func TestJoin(t *testing.T) {
	needs(t)
	src := harness.Build{Dir: httpmatrix}.Path(t)
	caller, callee := harness.StartTarget(t, src), harness.StartTarget(t, copyExe(t, src, "callee"))
	agent := harness.Trace(t, caller, callee)
	for _, c := range []struct {
		name, base, client string
	}{
		{"HTTP", "http://" + callee.HTTP, ""},
		{"HTTP, new connection each", "http://" + callee.HTTP, "fresh"},
		{"HTTPS, HTTP/1", "https://" + callee.HTTPS, "insecure1"},
		{"HTTPS, HTTP/2", "https://" + callee.HTTPS, "insecure"},
		{"unencrypted HTTP/2", "http://" + callee.H2C, "h2c"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, style := range []string{"inline", "fanout"} {
				const n = 12
				mark := agent.Mark()
				for _, out := range caller.Call(t, c.base+"/sleep?ms=10", "client", c.client, "style", style, "n", strconv.Itoa(n)) {
					if out.Status != 200 {
						t.Fatalf("call: %+v", out)
					}
				}
				spans := agent.Settle(mark, 2*n+1, caller)
				calls := map[string]harness.Span{}
				for _, s := range harness.Of(spans, harness.Kind("client")) {
					calls[s.SpanID] = s
				}
				inner := harness.Of(spans, func(s harness.Span) bool { return s.Attr("url.path") == "/sleep" })
				if len(calls) != n || len(inner) != n {
					t.Fatalf("%s: %d calls and %d served, want %d each: %v", style, len(calls), len(inner), n, spans)
				}
				used := map[string]bool{}
				for _, s := range inner {
					p, ok := calls[s.ParentSpanID]
					switch {
					case !ok || used[s.ParentSpanID]:
						t.Errorf("%s: not the only child of a call: %s", style, s)
					case p.TraceID != s.TraceID || s.Start.Before(p.Start) || s.End.After(p.End.Add(p.End.Sub(p.Start))):
						t.Errorf("%s: %s\nis no child of\n%s", style, s, p)
					}
					used[s.ParentSpanID] = true
				}
			}
		})
	}
}
