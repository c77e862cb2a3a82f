package kernels

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// receiver is a server that no agent watches. It keeps what arrives.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []http.Header
}

func startReceiver(t *testing.T, p proto) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got = append(r.got, req.Header.Clone())
	}))
	if p.tls {
		r.EnableHTTP2 = true
		r.StartTLS()
	} else {
		r.Start()
	}
	t.Cleanup(r.Close)
	return r
}

// take returns the headers of the requests since the last call.
func (r *receiver) take() []http.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

const noRoomMetric = `tracer_agent_propagation_total{probe="nethttp",mode="memory",outcome="no_room"}`

// testPropagation: a server that is not watched receives exactly one traceparent,
// the one of the call's span, where the agent may write memory, and none elsewhere; a
// program's own is left alone.
func testPropagation(t *testing.T, agent *harness.Agent, ch *chain, memory bool, facts map[string]any) {
	facts["memory"], facts["calls"] = memory, 20
	for _, p := range protos {
		t.Run(p.name, func(t *testing.T) {
			r := startReceiver(t, p)
			call := func(n int, options ...string) {
				t.Helper()
				options = append(options, "client", p.client, "n", strconv.Itoa(n))
				for _, out := range ch.a.Call(t, r.URL+"/", options...) {
					if out.Status != http.StatusOK {
						t.Fatalf("call: %+v", out)
					}
				}
			}
			mark := agent.Mark()
			call(warmUp)
			agent.Settle(mark, warmUp+1, ch.a)
			r.take()

			const n = 20
			before := agent.Metrics()
			mark = agent.Mark()
			call(n)
			spans := harness.Of(agent.Settle(mark, n+1, ch.a), harness.Kind("client"))
			if len(spans) != n {
				t.Errorf("%d spans for %d calls", len(spans), n)
			}
			want := map[string]bool{}
			for _, s := range spans {
				want["00-"+s.TraceID+"-"+s.SpanID+"-01"] = true
			}
			received := 0
			for _, h := range r.take() {
				values := h.Values("traceparent")
				if len(values) == 0 {
					continue
				}
				received++
				if len(values) != 1 || !want[values[0]] {
					t.Errorf("traceparent %q, want one, that of a call's span", values)
				}
				delete(want, values[0]) // each is used once
			}
			after := agent.Metrics()
			noRoom := int(after[noRoomMetric] - before[noRoomMetric])
			switch {
			case !memory && received != 0:
				t.Errorf("%d requests have a traceparent although memory cannot be written", received)
			case p.name == "http2" && ch.minor < 21: // the stream's caller cannot be told
				if received != 0 {
					t.Errorf("%d requests have a traceparent", received)
				}
			case memory && received+noRoom != n:
				t.Errorf("%d requests have a traceparent and %d had no room for it, want %d together", received, noRoom, n)
			case memory && noRoom != 0:
				t.Errorf("%d requests had no room for a traceparent", noRoom)
			}
			facts[p.name] = received

			const own = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
			mark = agent.Mark()
			call(n, "traceparent", own)
			agent.Settle(mark, n+1, ch.a)
			got := r.take()
			if len(got) != n {
				t.Errorf("%d requests arrived, want %d", len(got), n)
			}
			for _, h := range got {
				if values := h.Values("traceparent"); len(values) != 1 || values[0] != own {
					t.Errorf("the program's own traceparent became %q", values)
				}
			}
		})
	}
}
