package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// query is a query parameter's value in a URL or a bare query, "" if none.
func query(s, key string) string {
	if _, q, ok := strings.Cut(s, "?"); ok {
		s = q
	}
	v, err := url.ParseQuery(s)
	if err != nil {
		return ""
	}
	return v.Get(key)
}

const (
	traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	spanID  = "00f067aa0ba902b7"
)

// TestTraceparent: what W3C Trace Context calls valid is honoured, and nothing else.
func TestTraceparent(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	good := "00-" + traceID + "-" + spanID + "-01"
	for _, c := range []struct {
		name   string
		values []string // header lines
		state  []string
		parent bool
		// unsampled: the caller decided against recording, so there is no span
		unsampled bool
		wantState string
	}{
		{name: "valid", values: []string{good}, parent: true},
		{name: "other flags too", values: []string{good[:53] + "03"}, parent: true},
		{name: "not sampled", values: []string{good[:53] + "00"}, unsampled: true},
		{name: "later version", values: []string{"cc" + good[2:]}, parent: true},
		{name: "later version, more fields", values: []string{"cc" + good[2:] + "-what-is-this"}, parent: true},
		{name: "tracestate", values: []string{good}, state: []string{"vendor=abc,other=1"}, parent: true, wantState: "vendor=abc,other=1"},
		{name: "tracestate without traceparent", state: []string{"vendor=abc"}},
		{name: "malformed tracestate", values: []string{good}, state: []string{"vendor abc"}, parent: true},
		{name: "tracestate that is too long", values: []string{good}, parent: true,
			state:     []string{"a=" + strings.Repeat("x", 200) + ",b=" + strings.Repeat("y", 200) + ",c=" + strings.Repeat("z", 200)},
			wantState: "a=" + strings.Repeat("x", 200) + ",b=" + strings.Repeat("y", 200)},

		{name: "none"},
		{name: "empty", values: []string{""}},
		{name: "version ff", values: []string{"ff" + good[2:]}},
		{name: "version 00 with more", values: []string{good + "-more"}},
		{name: "version 00 with a dash", values: []string{good + "-"}},
		{name: "later version, no dash before more", values: []string{"cc" + good[2:] + ".what"}},
		{name: "zero trace id", values: []string{"00-" + strings.Repeat("0", 32) + "-" + spanID + "-01"}},
		{name: "zero span id", values: []string{"00-" + traceID + "-" + strings.Repeat("0", 16) + "-01"}},
		{name: "upper case", values: []string{"00-" + strings.ToUpper(traceID) + "-" + spanID + "-01"}},
		{name: "upper case version", values: []string{"CC" + good[2:]}},
		{name: "not hexadecimal", values: []string{"00-" + traceID[:31] + "g-" + spanID + "-01"}},
		{name: "short trace id", values: []string{"00-" + traceID[:30] + "-" + spanID + "-01"}},
		{name: "short", values: []string{good[:54]}},
		{name: "wrong separator", values: []string{strings.ReplaceAll(good, "-", "_")}},
		{name: "bad flags", values: []string{good[:53] + ".1"}},
		{name: "twice", values: []string{good, good}},
		{name: "very long", values: []string{"00-" + strings.Repeat("a", 4000)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			mark := agent.Mark()
			req, err := http.NewRequest(http.MethodGet, tg.URL("/plain"), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header["Traceparent"] = c.values
			req.Header["Tracestate"] = c.state
			resp, err := harness.Client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			want := 1
			if c.unsampled {
				want = 0
			}
			spans := agent.Settle(mark, want, tg)
			if len(spans) != want {
				t.Fatalf("%d spans, want %d: %v", len(spans), want, spans)
			}
			if want == 0 {
				return
			}
			s := spans[0]
			if got := s.ParentSpanID == spanID && s.TraceID == traceID && s.ParentRemote; got != c.parent {
				t.Errorf("continues the caller's trace: %v, want %v: %s", got, c.parent, s)
			}
			if !c.parent && (s.ParentSpanID != "" || s.TraceID == traceID) {
				t.Errorf("takes something from a header to ignore: %s", s)
			}
			if s.TraceState != c.wantState {
				t.Errorf("tracestate %q, want %q", s.TraceState, c.wantState)
			}
		})
	}
}

// TestTraceparentReachesCalls: calls of a request that has a remote parent are in
// the caller's trace.
func TestTraceparentReachesCalls(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	mark := agent.Mark()
	req, err := http.NewRequest(http.MethodGet, tg.CallURL(tg.URL("/plain"), "style", "go"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("traceparent", "00-"+traceID+"-"+spanID+"-01")
	req.Header.Set("tracestate", "vendor=abc,other=1")
	resp, err := harness.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	spans := agent.Settle(mark, 3, tg)
	call := harness.Of(spans, harness.Kind("client"))
	server := harness.Of(spans, func(s harness.Span) bool { return s.Attr("url.path") == "/call" })
	if len(call) != 1 || len(server) != 1 {
		t.Fatalf("spans: %v", spans)
	}
	if server[0].TraceID != traceID {
		t.Errorf("server span: %s, want trace %s", server[0], traceID)
	}
	checkChild(t, call[0], server[0])
	for _, s := range []harness.Span{server[0], call[0]} {
		if want := "vendor=abc,other=1"; s.TraceState != want {
			t.Errorf("tracestate %q, want %q: %s", s.TraceState, want, s)
		}
	}
}

// TestOwnTraceparent: a call that the program itself gave a traceparent, as an SDK in it
// does, is a child of what that names, with the tracestate that goes with it.
func TestOwnTraceparent(t *testing.T) {
	tg, agent := traced(t, harness.Build{})
	peer := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	mark := agent.Mark()
	tg.Call(t, peer.URL("/plain"), "traceparent", "00-"+traceID+"-"+spanID+"-01", "tracestate", "vendor=abc")
	calls := harness.Of(agent.Settle(mark, 2, tg), harness.Kind("client"))
	if len(calls) != 1 || calls[0].TraceID != traceID || calls[0].ParentSpanID != spanID || calls[0].TraceState != "vendor=abc" {
		t.Errorf("want one child of %s with tracestate vendor=abc: %v", spanID, calls)
	}
}
