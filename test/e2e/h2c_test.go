package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

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

// TestH2CUpgrade: a request that asks with HTTP/1.1 to go on in HTTP/2 is served by two
// layers and has one span: that of the stream which answers it.
func TestH2CUpgrade(t *testing.T) {
	tg, agent := traced(t, harness.Build{Dir: "testdata/targets/h2cxnet"})
	for _, path := range []string{"/plain", "/call?url=" + tg.URL("/plain")} {
		mark := agent.Mark()
		conn, err := net.DialTimeout("tcp", tg.HTTP, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: shop\r\ntraceparent: 00-%s-%s-01\r\nConnection: Upgrade, HTTP2-Settings\r\n"+
			"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", path, traceID, spanID)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("answer %v, %v, want 101", resp, err)
		}
		// the client's preface and its empty SETTINGS frame
		io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		for seen := ""; !strings.HasSuffix(seen, "ok"); { // the body, in a DATA frame
			b, err := r.ReadByte()
			if err != nil {
				t.Fatalf("reading the answer: %v after %q", err, seen)
			}
			seen += string(rune(b))
		}
		conn.Close()
		calls := 0
		if path != "/plain" {
			calls = 2 // the call and the request that it is
		}
		spans := agent.Settle(mark, 1+calls, tg)
		own := harness.Of(spans, func(s harness.Span) bool {
			return s.Kind == "server" && s.Attr("server.address") == "shop"
		})
		if len(own) != 1 || len(spans) != 1+calls {
			t.Fatalf("%d spans of the request and %d in all, want 1 and %d: %v", len(own), len(spans), 1+calls, spans)
		}
		s := own[0]
		if s.TraceID != traceID || s.ParentSpanID != spanID || s.Attr("network.protocol.version") != "2" ||
			s.Attr("http.response.status_code") != "200" || s.Attr("http.route") != strings.SplitN(path, "?", 2)[0] {
			t.Errorf("not what was asked and answered: %s", s)
		}
		for _, c := range harness.Of(spans, harness.Kind("client")) {
			checkChild(t, c, s)
		}
	}
}
