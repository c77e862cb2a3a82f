package e2e

import (
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestXNetH2C: golang.org/x/net/http2 on both sides, without encryption: the
// server's spans, the client's, first and later requests of a connection.
func TestXNetH2C(t *testing.T) {
	for _, mode := range []harness.Mode{harness.Plain, harness.Stripped} {
		t.Run(string(mode), func(t *testing.T) {
			tg, agent := traced(t, harness.Build{Dir: "testdata/targets/h2cxnet", Mode: mode})
			for range 3 {
				mark := agent.Mark()
				if got := harness.Get(t, tg.CallURL(tg.URL("/plain"))); got != "ok" {
					t.Fatalf("answer %q", got)
				}
				spans := agent.Settle(mark, 3, tg)
				outer := harness.Of(spans, func(s harness.Span) bool { return s.Attr("url.path") == "/call" })
				inner := harness.Of(spans, func(s harness.Span) bool { return s.Attr("url.path") == "/plain" })
				calls := harness.Of(spans, harness.Kind("client"))
				if len(outer) != 1 || len(inner) != 1 || len(calls) != 1 || len(spans) != 3 {
					t.Fatalf("want 3 spans: %v", spans)
				}
				checkChild(t, calls[0], outer[0])
				for _, s := range []harness.Span{inner[0], calls[0]} {
					if s.Attr("network.protocol.version") != "2" || s.Attr("http.response.status_code") != "200" {
						t.Errorf("want HTTP/2 and status 200: %s", s)
					}
				}
				if inner[0].Attr("http.route") != "/plain" {
					t.Errorf("route %q, want /plain: %s", inner[0].Attr("http.route"), inner[0])
				}
			}
		})
	}
}
