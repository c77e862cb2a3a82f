package e2e

import (
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// clientCase is one outgoing call and its span. In url and attrs, {http} and the
// like stand for the target's addresses.
type clientCase struct {
	name    string
	url     string
	options []string // of httpmatrix's /call
	failed  bool     // the program sees an error

	span   string // name; "" is GET
	status string // "" = unset
	attrs  map[string]string
}

var clientCases = []clientCase{
	{name: "plain", url: "http://{http}/plain",
		attrs: map[string]string{"url.full": "http://{http}/plain", "http.response.body.size": "2"}},
	{name: "post", url: "http://{http}/echo", options: []string{"method", "POST", "size", "1000"}, span: "POST",
		attrs: map[string]string{"http.request.method": "POST", "url.full": "http://{http}/echo", "http.request.body.size": "1000", "http.response.body.size": "4"}},
	{name: "big body", url: "http://{http}/echo", options: []string{"method", "PUT", "size", "3000000"}, span: "PUT",
		attrs: map[string]string{"http.request.method": "PUT", "url.full": "http://{http}/echo", "http.request.body.size": "3000000", "http.response.body.size": "7"}},
	{name: "chunked answer", url: "http://{http}/chunked",
		attrs: map[string]string{"url.full": "http://{http}/chunked"}},
	{name: "not found", url: "http://{http}/nowhere", status: "error",
		attrs: map[string]string{"url.full": "http://{http}/nowhere", "http.response.status_code": "404", "error.type": "404", "http.response.body.size": "19"}},
	{name: "server error", url: "http://{http}/status?is=502", status: "error",
		attrs: map[string]string{"url.full": "http://{http}/status?is=502", "http.response.status_code": "502", "error.type": "502", "http.response.body.size": "0"}},
	{name: "credentials and secrets", url: "http://user:pass@{http}/plain?token=s3cret&symbol=ACME&sig=abc",
		attrs: map[string]string{"url.full": "http://REDACTED:REDACTED@{http}/plain?token=REDACTED&symbol=ACME&sig=REDACTED", "http.response.body.size": "2"}},
	{name: "HTTPS, HTTP/1", url: "https://{https}/plain", options: []string{"client", "insecure1"},
		attrs: map[string]string{"url.full": "https://{https}/plain", "http.response.body.size": "2"}},
	{name: "HTTPS, HTTP/2", url: "https://{https}/plain", options: []string{"client", "insecure"},
		attrs: map[string]string{"url.full": "https://{https}/plain", "network.protocol.version": "2", "http.response.body.size": "2"}},
	{name: "HTTPS, HTTP/2, pooled connection", url: "https://{https}/status?is=500", options: []string{"client", "insecure"}, status: "error",
		attrs: map[string]string{"url.full": "https://{https}/status?is=500", "network.protocol.version": "2", "http.response.status_code": "500", "error.type": "500", "http.response.body.size": "0"}},
	{name: "unencrypted HTTP/2", url: "http://{h2c}/plain", options: []string{"client", "h2c"},
		attrs: map[string]string{"url.full": "http://{h2c}/plain", "network.protocol.version": "2", "http.response.body.size": "2"}},
	{name: "no keep-alive", url: "http://{http}/plain", options: []string{"client", "fresh"},
		attrs: map[string]string{"url.full": "http://{http}/plain", "http.response.body.size": "2"}},
	{name: "after the stack has grown", url: "http://{http}/plain", options: []string{"deep", "20000"},
		attrs: map[string]string{"url.full": "http://{http}/plain", "http.response.body.size": "2"}},

	{name: "refused", url: "http://{refused}/x", failed: true, status: "error",
		attrs: failure("http://{refused}/x", "connection_refused", false)},
	{name: "name that does not exist", url: "http://nobody.invalid/x", failed: true, status: "error",
		attrs: failure("http://nobody.invalid/x", "name_resolution", false)},
	{name: "reset", url: "http://{reset}/x", failed: true, status: "error",
		attrs: failure("http://{reset}/x", "connection_reset", true)},
	{name: "client timeout", url: "http://{silent}/x", options: []string{"client", "short"}, failed: true, status: "error",
		attrs: failure("http://{silent}/x", "timeout", true)},
	{name: "deadline", url: "http://{silent}/x", options: []string{"ctxms", "80"}, failed: true, status: "error",
		attrs: failure("http://{silent}/x", "timeout", true)},
	{name: "cancelled", url: "http://{silent}/x", options: []string{"cancelms", "80"}, failed: true, status: "error",
		attrs: failure("http://{silent}/x", "canceled", true)},
	{name: "untrusted certificate", url: "https://{https}/plain", failed: true, status: "error",
		attrs: failure("https://{https}/plain", "tls", false)},
	{name: "plain HTTP to a TLS port", url: "http://{https}/plain", status: "error",
		attrs: map[string]string{"url.full": "http://{https}/plain", "http.response.status_code": "400", "error.type": "400",
			"network.protocol.version": "1.0", "http.response.body.size": none}},
	{name: "TLS to a plain port", url: "https://{http}/plain", failed: true, status: "error",
		attrs: failure("https://{http}/plain", "tls", false)},
}

// failure is a call that got no answer; connected says whether there was a
// connection whose peer is known.
func failure(url, kind string, connected bool) map[string]string {
	m := map[string]string{"url.full": url, "error.type": kind, "http.response.status_code": none,
		"http.response.body.size": none, "network.protocol.version": none}
	if !connected {
		m["network.peer.address"], m["network.peer.port"] = none, none
	}
	return m
}

// addresses fills {http} and the like.
func addresses(tg *harness.Target) *strings.Replacer {
	return strings.NewReplacer("{http}", tg.HTTP, "{https}", tg.HTTPS, "{h2c}", tg.H2C, "{refused}", tg.Refused,
		"{silent}", tg.Silent, "{reset}", tg.Reset, "{flaky}", tg.Flaky)
}

// TestClient checks one client span, whole, for each kind of call, with the name that the
// configuration has for the host. The program that is called is another process, which is not
// traced.
func TestClient(t *testing.T) {
	needs(t)
	tg := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	agent := traceWith(t, tg, "peers:\n  - {host: \"*.invalid\", name: nobody}\n  - {host: 127.0.0.1, name: broker}\n")
	peer := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	fill := addresses(peer)
	for _, c := range clientCases {
		c.attrs = maps.Clone(c.attrs)
		c.attrs["peer.service"] = "broker"
		if strings.Contains(c.url, "nobody.invalid") {
			c.attrs["peer.service"] = "nobody"
		}
		t.Run(c.name, func(t *testing.T) {
			mark := agent.Mark()
			out := tg.Call(t, fill.Replace(c.url), c.options...)
			if failed := out[0].Err != ""; failed != c.failed {
				t.Fatalf("the program sees %+v, which is not what the case is about", out[0])
			}
			spans := agent.Settle(mark, 2, tg)
			calls := harness.Of(spans, harness.Kind("client"))
			if len(calls) != 1 || len(spans) != 2 {
				t.Fatalf("%d client spans of %d, want 1 of 2: %v", len(calls), len(spans), spans)
			}
			c.check(t, calls[0], fill)
			server := harness.Of(spans, harness.Kind("server"))[0]
			checkChild(t, calls[0], server)
		})
	}
}

func (c clientCase) check(t *testing.T, s harness.Span, fill *strings.Replacer) {
	t.Helper()
	want := map[string]string{
		"http.request.method":       "GET",
		"network.protocol.version":  "1.1",
		"http.response.status_code": "200",
	}
	for k, v := range c.attrs {
		want[k] = fill.Replace(v)
	}
	_, rest, _ := strings.Cut(fill.Replace(c.url), "://")
	hostport, _, _ := strings.Cut(rest[strings.LastIndexByte(rest, '@')+1:], "/")
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		host, port = hostport, "80"
	}
	want["server.address"], want["server.port"] = host, port
	if _, set := want["network.peer.address"]; !set {
		want["network.peer.address"], want["network.peer.port"] = host, port
	}
	if s.Attr("http.connection.reused") != "" {
		want["http.connection.reused"] = any_ // TestClientConnection
	}
	compareAttrs(t, s, want)
	if want := c.span; s.Name != want && (want != "" || s.Name != "GET") {
		t.Errorf("name %q, want %q", s.Name, want)
	}
	wantStatus := c.status
	if wantStatus == "" {
		wantStatus = "unset"
	}
	if s.Status != wantStatus {
		t.Errorf("status %q (%s), want %q", s.Status, s.StatusText, wantStatus)
	}
}

// TestClientConnection: whether a call's connection is new, and what it took to make it.
func TestClientConnection(t *testing.T) {
	needs(t)
	for _, b := range []harness.Build{{Dir: httpmatrix}, {Dir: httpmatrix, Go: "1.18.10", Mode: harness.Stripped}} {
		t.Run("go"+b.Go, func(t *testing.T) {
			peer := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
			tg := harness.StartTarget(t, b.Path(t))
			agent := harness.Trace(t, tg)
			for _, c := range []struct {
				url    string
				client string
				events [2]string // of a new connection, of one that was there
			}{
				{"http://" + peer.HTTP + "/plain", "default", [2]string{"http.dial", ""}},
				{"https://" + peer.HTTPS + "/plain", "insecure1", [2]string{"http.dial tls.handshake", ""}},
				{"https://" + peer.HTTPS + "/plain", "insecure", [2]string{"http.dial tls.handshake", ""}},
			} {
				for i, reused := range []string{"false", "true"} {
					mark := agent.Mark()
					tg.Call(t, c.url, "client", c.client)
					s := agent.WaitSpans(mark, 1, harness.Kind("client"))[0]
					var names []string
					for _, ev := range s.Events {
						names = append(names, ev.Name)
						if d, _ := ev.Attributes["duration"].(float64); d <= 0 || d > float64(s.DurationNs)/1e9 || ev.Time.Before(s.Start) || ev.Time.After(s.End) {
							t.Errorf("%s: %+v in a call from %v of %d ns", c.url, ev, s.Start, s.DurationNs)
						}
					}
					if s.Attr("http.connection.reused") != reused || strings.Join(names, " ") != c.events[i] {
						t.Errorf("%s, %s: reused %q, events %q, want %s, %q", c.url, c.client, s.Attr("http.connection.reused"), names, reused, c.events[i])
					}
				}
			}
		})
	}
}

// checkChild: same trace, the parent's id, and inside of the parent's time.
func checkChild(t *testing.T, child, parent harness.Span) {
	t.Helper()
	if child.TraceID != parent.TraceID || child.ParentSpanID != parent.SpanID {
		t.Errorf("%s\nis no child of\n%s", child, parent)
	}
	if child.ParentRemote {
		t.Error("the parent is called remote")
	}
	if child.Start.Before(parent.Start) {
		t.Errorf("the child starts %v before its parent", parent.Start.Sub(child.Start))
	}
}

// TestClientRetry: net/http retries by itself when the server has closed an idle
// connection; each attempt is a span.
func TestClientRetry(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	url := addresses(tg).Replace("http://{flaky}/x")
	if out := tg.Call(t, url)[0]; out.Status != 200 {
		t.Fatalf("first call: %+v", out)
	}
	agent.Settle(0, 2, tg)
	mark := agent.Mark()
	if out := tg.Call(t, url)[0]; out.Status != 200 {
		t.Fatalf("second call: %+v", out)
	}
	calls := harness.Of(agent.Settle(mark, 3, tg), harness.Kind("client"))
	if len(calls) != 2 {
		t.Fatalf("%d client spans, want 2 (an attempt and a retry): %v", len(calls), calls)
	}
	if calls[0].Status != "error" || calls[0].Attr("error.type") == "" || calls[0].Attr("http.response.status_code") != "" {
		t.Errorf("first attempt, on a closed connection: %s", calls[0])
	}
	if calls[1].Status != "unset" || calls[1].Attr("http.response.status_code") != "200" {
		t.Errorf("retry: %s", calls[1])
	}
	if calls[0].ParentSpanID == "" || calls[0].ParentSpanID != calls[1].ParentSpanID {
		t.Errorf("the attempts have parents %q and %q, want one", calls[0].ParentSpanID, calls[1].ParentSpanID)
	}
	checkResends(t, calls, "", "1")

	// The program's own next call of the same address is none of them.
	mark = agent.Mark()
	tg.Call(t, url)
	checkResends(t, harness.Of(agent.Settle(mark, 3, tg), harness.Kind("client")), "", "1")
}

// checkResends compares http.request.resend_count, "" where there is none.
func checkResends(t *testing.T, calls []harness.Span, want ...string) {
	t.Helper()
	var got []string
	for _, s := range calls {
		got = append(got, s.Attr("http.request.resend_count"))
	}
	if !slices.Equal(got, want) {
		t.Errorf("http.request.resend_count %q, want %q: %v", got, want, calls)
	}
}

// TestClientRedirect: each hop of a redirect is a span.
func TestClientRedirect(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	peer := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	mark := agent.Mark()
	if out := tg.Call(t, peer.URL("/redirect?n=3"))[0]; out.Status != 200 {
		t.Fatalf("call: %+v", out)
	}
	calls := harness.Of(agent.Settle(mark, 5, tg), harness.Kind("client"))
	var status []string
	for _, s := range calls {
		status = append(status, s.Attr("http.response.status_code"))
	}
	if got := strings.Join(status, " "); got != "302 302 302 200" {
		t.Errorf("client spans have status codes %q, want 302 302 302 200", got)
	}
	checkResends(t, calls, "", "1", "2", "3")
}

// TestClientConn: calls that a program makes on an http.ClientConn are not followed, and
// leave nothing behind.
func TestClientConn(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	for _, url := range []string{"http://{http}/plain", "https://{https}/plain"} {
		got := harness.Get(t, tg.URL("/clientconn?n=50&url="+addresses(tg).Replace(url)))
		if strings.Count(got, ":") != 1 || !strings.HasSuffix(got, ":50]") {
			t.Fatalf("calls of %s: %s", url, got)
		}
	}
	spans := agent.Settle(0, 102, tg)
	if calls := harness.Of(spans, harness.Kind("client")); len(calls) != 0 || len(spans) != 102 {
		t.Errorf("%d client spans of %d, want 0 of 102", len(calls), len(spans))
	}
	if n := agent.Entries("nh_client", tg.PID); n != 0 {
		t.Errorf("%d calls are left in the map", n)
	}
}
