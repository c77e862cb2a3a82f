package e2e

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

const userAgent = "e2e/1"

// serverCase is one request, written byte by byte, and its span.
type serverCase struct {
	name string
	// send is the request's head from the method on, without Host and
	// User-Agent, lines separated by "\n", and its body after an empty line.
	send string
	// abandon closes the connection without waiting for the answer.
	abandon bool

	span   string // name
	status string // span status, "" = unset
	attrs  map[string]string
	event  *exception
}

type exception struct{ kind, message string }

var serverCases = []serverCase{
	{name: "plain", send: "GET /plain HTTP/1.1", span: "GET /plain",
		attrs: map[string]string{"http.route": "/plain", "url.path": "/plain", "http.response.body.size": "2"}},
	{name: "no route", send: "GET /nowhere/7 HTTP/1.1", span: "GET",
		attrs: map[string]string{"url.path": "/nowhere/7", "http.response.status_code": "404", "http.response.body.size": "19"}},
	{name: "without ServeMux", send: "GET /nomux HTTP/1.1", span: "GET",
		attrs: map[string]string{"url.path": "/nomux", "http.response.body.size": "2"}},
	{name: "method pattern", send: "GET /orders/42 HTTP/1.1", span: "GET /orders/{id}",
		attrs: map[string]string{"http.route": "/orders/{id}", "url.path": "/orders/42", "http.response.body.size": "2"}},
	{name: "host pattern", send: "GET /host/1 HTTP/1.1\nHost: 127.0.0.1", span: "GET /host/{x}",
		attrs: map[string]string{"http.route": "/host/{x}", "url.path": "/host/1", "http.response.body.size": "2", "server.port": "80"}},
	{name: "rest pattern", send: "GET /files/a/b/c HTTP/1.1", span: "GET /files/{path...}",
		attrs: map[string]string{"http.route": "/files/{path...}", "url.path": "/files/a/b/c", "http.response.body.size": "2"}},
	{name: "wrong method", send: "DELETE /orders/42 HTTP/1.1", span: "DELETE",
		attrs: map[string]string{"http.request.method": "DELETE", "url.path": "/orders/42", "http.response.status_code": "405", "http.response.body.size": "19"}},
	{name: "middleware copies the request", send: "GET /mw/orders/1 HTTP/1.1", span: "GET /mw/orders/{id}",
		attrs: map[string]string{"http.route": "/mw/orders/{id}", "url.path": "/mw/orders/1", "http.response.body.size": "2"}},
	{name: "behind http.TimeoutHandler", send: "GET /timeout/orders/1 HTTP/1.1", span: "GET /timeout/orders/{id}",
		attrs: map[string]string{"http.route": "/timeout/orders/{id}", "url.path": "/timeout/orders/1", "http.response.body.size": "2"}},
	{name: "sub-mux", send: "GET /api/items/9 HTTP/1.1", span: "GET /api/",
		attrs: map[string]string{"http.route": "/api/", "url.path": "/api/items/9", "http.response.body.size": "2"}},
	{name: "query", send: "GET /plain?symbol=ACME&token=s3cret HTTP/1.1", span: "GET /plain",
		attrs: map[string]string{"http.route": "/plain", "url.path": "/plain", "url.query": "symbol=ACME&token=REDACTED", "http.response.body.size": "2"}},
	{name: "body", send: "POST /echo HTTP/1.1\nContent-Length: 5\n\nhello", span: "POST /echo",
		attrs: map[string]string{"http.route": "/echo", "url.path": "/echo", "http.request.method": "POST", "http.request.body.size": "5", "http.response.body.size": "1"}},
	{name: "chunked request", send: "POST /echo HTTP/1.1\nTransfer-Encoding: chunked\n\n5\r\nhello\r\n0\r\n\r\n", span: "POST /echo",
		attrs: map[string]string{"http.route": "/echo", "url.path": "/echo", "http.request.method": "POST", "http.response.body.size": "1"}},
	{name: "big answer", send: "GET /size?n=5000000 HTTP/1.1", span: "GET /size",
		attrs: map[string]string{"http.route": "/size", "url.path": "/size", "url.query": "n=5000000", "http.response.body.size": "5000000"}},
	{name: "chunked answer", send: "GET /chunked HTTP/1.1", span: "GET /chunked",
		attrs: map[string]string{"http.route": "/chunked", "url.path": "/chunked", "http.response.body.size": "15"}},
	{name: "HEAD", send: "HEAD /plain HTTP/1.1", span: "HEAD /plain",
		attrs: map[string]string{"http.route": "/plain", "url.path": "/plain", "http.request.method": "HEAD"}},
	{name: "HTTP/1.0", send: "GET /plain HTTP/1.0", span: "GET /plain",
		attrs: map[string]string{"http.route": "/plain", "url.path": "/plain", "network.protocol.version": "1.0", "http.response.body.size": "2"}},
	{name: "unknown method", send: "BREW /plain HTTP/1.1", span: "HTTP /plain",
		attrs: map[string]string{"http.route": "/plain", "url.path": "/plain", "http.request.method": "_OTHER", "http.request.method_original": "BREW", "http.response.body.size": "2"}},
	{name: "absolute form", send: "GET http://other.example:81/plain HTTP/1.1", span: "GET /plain",
		attrs: map[string]string{"http.route": "/plain", "url.path": "/plain", "server.address": "other.example", "server.port": "81", "http.response.body.size": "2"}},
	{name: "forwarded", send: "GET /plain HTTP/1.1\nX-Forwarded-For: 203.0.113.9, 10.0.0.1", span: "GET /plain",
		attrs: map[string]string{"http.route": "/plain", "url.path": "/plain", "client.address": "203.0.113.9", "http.response.body.size": "2"}},
	{name: "early hints", send: "GET /hints HTTP/1.1", span: "GET /hints",
		attrs: map[string]string{"http.route": "/hints", "url.path": "/hints", "http.response.status_code": "202", "http.response.body.size": "0"}},
	{name: "never writes", send: "GET /silent HTTP/1.1", span: "GET /silent",
		attrs: map[string]string{"http.route": "/silent", "url.path": "/silent", "http.response.body.size": "0"}},
	{name: "server error", send: "GET /status?is=503 HTTP/1.1", span: "GET /status", status: "error",
		attrs: map[string]string{"http.route": "/status", "url.path": "/status", "url.query": "is=503", "http.response.status_code": "503", "error.type": "503", "http.response.body.size": "0"}},
	{name: "client error", send: "GET /status?is=404 HTTP/1.1", span: "GET /status",
		attrs: map[string]string{"http.route": "/status", "url.path": "/status", "url.query": "is=404", "http.response.status_code": "404", "http.response.body.size": "0"}},
	{name: "hijack", send: "GET /hijack HTTP/1.1", span: "GET /hijack",
		attrs: map[string]string{"http.route": "/hijack", "url.path": "/hijack", "http.response.status_code": none, "http.response.body.size": none}},
	{name: "deep stack", send: "GET /deep?n=20000 HTTP/1.1", span: "GET /deep",
		attrs: map[string]string{"http.route": "/deep", "url.path": "/deep", "url.query": "n=20000", "http.response.body.size": any_}},
	{name: "client goes away", send: "GET /wait HTTP/1.1", abandon: true, span: "GET /wait",
		attrs: map[string]string{"http.route": "/wait", "url.path": "/wait", "http.response.body.size": "0"}},

	panicCase("string", "", &exception{"string", "boom"}),
	panicCase("error", "error", &exception{"*errors.errorString", "no such order"}),
	panicCase("wrapped error", "fmt", &exception{"*fmt.wrapError", "order: no such order"}),
	panicCase("error value", "value", &exception{"main.valueError", any_}),
	panicCase("runtime error", "runtime", &exception{"runtime.boundsError", any_}),
	panicCase("nil map", "nilmap", &exception{"runtime.plainError", "assignment to entry in nil map"}),
	panicCase("nested", "nested", &exception{"string", "again: first"}),
	{name: "panic with ErrAbortHandler", send: "GET /panic?with=abort HTTP/1.1", span: "GET /panic", status: "error",
		attrs: map[string]string{"http.route": "/panic", "url.path": "/panic", "url.query": "with=abort", "error.type": any_, "http.response.status_code": none, "http.response.body.size": none}},
	{name: "recovered panic", send: "GET /recovered HTTP/1.1", span: "GET /recovered", status: "error",
		attrs: map[string]string{"http.route": "/recovered", "url.path": "/recovered", "http.response.status_code": "500", "error.type": any_, "http.response.body.size": "6"},
		event: &exception{"string", "boom"}},
}

const (
	none = "\x00none" // the attribute must not be there
	any_ = "\x00any"  // it must be there with any value
)

// panicCase panics before anything is written: no status was sent.
func panicCase(name, with string, e *exception) serverCase {
	c := serverCase{name: "panic with " + name, send: "GET /panic HTTP/1.1", span: "GET /panic", status: "error", event: e,
		attrs: map[string]string{"http.route": "/panic", "url.path": "/panic", "error.type": e.kind,
			"http.response.status_code": none, "http.response.body.size": none}}
	if with != "" {
		c.send = "GET /panic?with=" + with + " HTTP/1.1"
		c.attrs["url.query"] = "with=" + with
	}
	if with == "runtime" { // this one writes before it panics
		c.attrs["http.response.status_code"], c.attrs["http.response.body.size"] = "200", "2"
	}
	return c
}

// TestServer checks one span, whole, for each kind of request.
func TestServer(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	for _, c := range serverCases {
		t.Run(c.name, func(t *testing.T) {
			mark := agent.Mark()
			began := time.Now()
			peer := c.run(t, tg)
			spans := agent.Settle(mark, 1, tg)
			if len(spans) != 1 {
				t.Fatalf("%d spans, want 1: %v", len(spans), spans)
			}
			c.check(t, spans[0], tg, peer)
			checkTimes(t, spans[0], began)
		})
	}
}

// run sends the request and reads the answer to its end; it returns the
// connection's own port.
func (c serverCase) run(t *testing.T, tg *harness.Target) (port string) {
	t.Helper()
	head, body, _ := strings.Cut(c.send, "\n\n")
	line, headers, _ := strings.Cut(head, "\n")
	var b strings.Builder
	b.WriteString(line + "\r\n")
	if !strings.Contains(headers, "Host:") {
		b.WriteString("Host: " + tg.HTTP + "\r\n")
	}
	if headers != "" {
		b.WriteString(strings.ReplaceAll(headers, "\n", "\r\n") + "\r\n")
	}
	b.WriteString("User-Agent: " + userAgent + "\r\nConnection: close\r\n\r\n" + body)

	conn, err := net.Dial("tcp", tg.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, b.String()); err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(conn.LocalAddr().String())
	if c.abandon {
		return port
	}
	_, _ = io.Copy(io.Discard, conn) // a reset ends it as well
	return port
}

func (c serverCase) check(t *testing.T, s harness.Span, tg *harness.Target, peer string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(tg.HTTP)
	want := map[string]string{
		"http.request.method":       "GET",
		"url.scheme":                "http",
		"server.address":            host,
		"server.port":               port,
		"network.peer.address":      "127.0.0.1",
		"network.peer.port":         peer,
		"client.address":            "127.0.0.1",
		"network.protocol.version":  "1.1",
		"user_agent.original":       userAgent,
		"http.response.status_code": "200",
	}
	for k, v := range c.attrs {
		want[k] = v
	}
	compareAttrs(t, s, want)
	if s.Name != c.span {
		t.Errorf("name %q, want %q", s.Name, c.span)
	}
	if s.Kind != "server" {
		t.Errorf("kind %q, want server", s.Kind)
	}
	wantStatus := c.status
	if wantStatus == "" {
		wantStatus = "unset"
	}
	if s.Status != wantStatus {
		t.Errorf("status %q (%s), want %q", s.Status, s.StatusText, wantStatus)
	}
	if s.ParentSpanID != "" {
		t.Errorf("has parent %s, want none", s.ParentSpanID)
	}
	checkException(t, s, c.event)
}

// compareAttrs compares whole attribute sets; any_ and none are wildcards.
func compareAttrs(t *testing.T, s harness.Span, want map[string]string) {
	t.Helper()
	got := s.Texts()
	for k, v := range want {
		switch _, there := got[k]; {
		case v == none:
			delete(want, k)
			if there {
				t.Errorf("attribute %s=%q, want none", k, got[k])
				delete(got, k)
			}
		case v == any_ && there:
			want[k] = got[k]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attributes differ (-want +got):\n%s", diff)
	}
}

func checkException(t *testing.T, s harness.Span, want *exception) {
	t.Helper()
	if want == nil {
		if len(s.Events) != 0 {
			t.Errorf("events %v, want none", s.Events)
		}
		return
	}
	if len(s.Events) != 1 || s.Events[0].Name != "exception" {
		t.Fatalf("events %v, want one exception", s.Events)
	}
	e := s.Events[0]
	if got := fmt.Sprint(e.Attributes["exception.type"]); got != want.kind {
		t.Errorf("exception.type %q, want %q", got, want.kind)
	}
	msg, has := e.Attributes["exception.message"]
	if want.message != any_ && (!has || fmt.Sprint(msg) != want.message) {
		t.Errorf("exception.message %v, want %q", msg, want.message)
	}
	if e.Time.Before(s.Start) || e.Time.After(s.End) {
		t.Errorf("event at %v is outside of the span %v to %v", e.Time, s.Start, s.End)
	}
}

// checkTimes: the span lies between the test's own two looks at the clock.
func checkTimes(t *testing.T, s harness.Span, began time.Time) {
	t.Helper()
	const slack = 5 * time.Millisecond // two clocks, read apart
	if s.Start.Before(began.Add(-slack)) || s.End.After(time.Now().Add(slack)) || s.End.Before(s.Start) {
		t.Errorf("span lasts from %v to %v; the request began at %v", s.Start, s.End, began)
	}
	if d := s.End.Sub(s.Start); d.Nanoseconds() != s.DurationNs {
		t.Errorf("duration_ns %d, want %d", s.DurationNs, d.Nanoseconds())
	}
}

// TestServerKeepAlive: many requests of one connection, pipelined ones too, are
// as many spans, in order and not overlapping.
func TestServerKeepAlive(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	const n = 20
	mark := agent.Mark()
	conn, err := net.Dial("tcp", tg.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var all strings.Builder
	for i := range n {
		last := "keep-alive"
		if i == n-1 {
			last = "close"
		}
		fmt.Fprintf(&all, "GET /orders/%d HTTP/1.1\r\nHost: x\r\nConnection: %s\r\n\r\n", i, last)
	}
	if _, err := io.WriteString(conn, all.String()); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Fatal(err)
	}
	spans := agent.Settle(mark, n, tg)
	if len(spans) != n {
		t.Fatalf("%d spans, want %d", len(spans), n)
	}
	for i, s := range spans {
		if want := "/orders/" + strconv.Itoa(i); s.Attr("url.path") != want {
			t.Errorf("span %d has path %s, want %s", i, s.Attr("url.path"), want)
		}
		if i > 0 && s.Start.Before(spans[i-1].End) {
			t.Errorf("span %d starts %v before the one before it ends", i, spans[i-1].End.Sub(s.Start))
		}
		if i > 0 && s.TraceID == spans[i-1].TraceID {
			t.Errorf("span %d is in the trace of the one before it", i)
		}
	}
}

// TestServerDuration: a span lasts as long as its handler.
func TestServerDuration(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	mark := agent.Mark()
	harness.Get(t, tg.URL("/sleep?ms=150"))
	s := agent.WaitSpans(mark, 1, harness.Kind("server"))[0]
	if d := s.End.Sub(s.Start); d < 150*time.Millisecond || d > 400*time.Millisecond {
		t.Errorf("duration %v of a handler that sleeps 150 ms", d)
	}
}

// TestOddMethodFirst: what a client sends is no verdict on the program, not even while the
// layout is not proven: the first requests have methods that few others have.
func TestOddMethodFirst(t *testing.T) {
	needs(t)
	tg := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	agent := harness.StartAgent(t, "--pid", strconv.Itoa(tg.PID))
	agent.WaitInstrumented(tg.PID)
	mark := agent.Mark()
	for _, method := range []string{strings.Repeat("LONG", 20), "!x", "GET"} {
		c, err := net.Dial("tcp", tg.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "%s /plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method)
		if answer, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 ") {
			t.Fatalf("%s: %q, %v", method, answer, err)
		}
		c.Close()
	}
	var got []string
	for _, s := range agent.Settle(mark, 2, tg) {
		got = append(got, s.Attr("http.request.method")+" "+s.Attr("http.request.method_original"))
	}
	if want := []string{"_OTHER !x", "GET "}; !cmp.Equal(got, want) {
		t.Errorf("methods of the spans %q, want %q", got, want)
	}
}
