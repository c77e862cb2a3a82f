package e2e

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestCorrelationHeaders: both sides of a call have the ids that people search for.
func TestCorrelationHeaders(t *testing.T) {
	needs(t)
	src := harness.Build{Dir: httpmatrix}.Path(t)
	caller, callee := harness.StartTarget(t, src), harness.StartTarget(t, copyExe(t, src, "callee"))
	agent := harness.Trace(t, caller, callee)
	for _, c := range []struct{ name, base, client string }{
		{"HTTP", "http://" + callee.HTTP, ""},
		{"HTTPS, HTTP/1", "https://" + callee.HTTPS, "insecure1"},
		{"HTTPS, HTTP/2", "https://" + callee.HTTPS, "insecure"},
		{"unencrypted HTTP/2", "http://" + callee.H2C, "h2c"},
	} {
		t.Run(c.name, func(t *testing.T) {
			mark := agent.Mark()
			caller.Call(t, c.base+"/plain", "client", c.client, "header", "x-correlation-id:c-7", "header", "X-Request-ID:r-9")
			spans := agent.Settle(mark, 3, caller)
			found := map[string]int{}
			for _, s := range spans {
				if s.Kind == "server" && s.Attr("url.path") != "/plain" {
					continue // the request that asked for the call
				}
				found[s.Kind]++
				for name, want := range map[string]string{"x-correlation-id": "[c-7]", "x-request-id": "[r-9]"} {
					if got := s.Attr("http.request.header." + name); got != want {
						t.Errorf("%s %q, want %q: %s", name, got, want, s)
					}
				}
			}
			if found["server"] != 1 || found["client"] != 1 {
				t.Errorf("spans %v, want the call's and the served request's", found)
			}
		})
	}
}

// TestOwnTraceparentKept: a traceparent that the program sets is the only one that is sent,
// in whatever letters its name is written, and the call's span is the child of the span
// that it names. What is no traceparent, or is two, is sent as it is and followed by
// nobody.
func TestOwnTraceparentKept(t *testing.T) {
	const (
		trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
		own         = "00-" + trace + "-" + span + "-01"
		other       = "00-11111111111111111111111111111111-2222222222222222-01"
	)
	tg, agent := traced(t, harness.Build{})
	var mu sync.Mutex
	var sent []string
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		sent = r.Header.Values("Traceparent")
	})
	plain, secure := httptest.NewServer(h), httptest.NewUnstartedServer(h)
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	for _, to := range []struct{ name, url, client string }{
		{"HTTP/1", plain.URL, ""}, {"HTTP/2", secure.URL, "insecure"},
	} {
		for _, c := range []struct {
			name    string
			options []string
			sent    string
			adopted bool
		}{
			{"canonical", []string{"header", "traceparent:" + own}, own, true},
			{"lower case", []string{"rawheader", "traceparent:" + own}, own, true},
			{"mixed case", []string{"rawheader", "TraceParent:" + own}, own, true},
			{"upper case", []string{"rawheader", "TRACEPARENT:" + own}, own, true},
			{"two values", []string{"rawheader", "Traceparent:" + own, "rawheader", "Traceparent:" + other}, own + " " + other, false},
			{"two keys", []string{"rawheader", "Traceparent:" + own, "rawheader", "traceparent:" + own}, own + " " + own, false},
			{"malformed", []string{"header", "traceparent:00-" + strings.Repeat("0", 32) + "-" + span + "-01"},
				"00-" + strings.Repeat("0", 32) + "-" + span + "-01", false},
			{"alike", []string{"header", "traceparenu:" + own}, "", false},
		} {
			t.Run(to.name+"/"+c.name, func(t *testing.T) {
				mark := agent.Mark()
				tg.Call(t, to.url+"/x", append(c.options, "client", to.client)...)
				calls := harness.Of(agent.Settle(mark, 2, tg), harness.Kind("client"))
				if len(calls) != 1 {
					t.Fatalf("%d spans of calls, want 1: %v", len(calls), calls)
				}
				if got := calls[0].TraceID == trace && calls[0].ParentSpanID == span; got != c.adopted {
					t.Errorf("is the child of the program's span: %v, want %v: %s", got, c.adopted, calls[0])
				}
				mu.Lock()
				defer mu.Unlock()
				got := strings.Join(sent, " ")
				// Where memory is written, a request without one has ours.
				if got != c.sent && !(c.sent == "" && got == "00-"+calls[0].TraceID+"-"+calls[0].SpanID+"-01") {
					t.Errorf("sent was %q, want %q", got, c.sent)
				}
			})
		}
	}
}
