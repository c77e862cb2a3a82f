package e2e

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/testkernel"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestComplete: with many requests in flight at once, every one is exactly one
// span, and nothing is lost anywhere.
func TestComplete(t *testing.T) {
	for _, inFlight := range []int{16, 200, 2000} {
		t.Run(strconv.Itoa(inFlight), func(t *testing.T) {
			tg, agent := traced(t, harness.Build{})
			mark := agent.Mark()
			const rounds = 5
			burst(t, tg, inFlight, rounds)
			want := inFlight * rounds
			spans := agent.Settle(mark, want, tg)
			checkIDs(t, spans, want)
			if m := agent.Metrics(); harness.Lost(m) != 0 {
				t.Errorf("losses are counted: %v", m)
			}
		})
	}
}

// burst sends rounds requests on each of n connections, all at the same time:
// the handler sleeps until every connection has one in flight.
func burst(t *testing.T, tg *harness.Target, n, rounds int) {
	t.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := net.Dial("tcp", tg.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(60 * time.Second))
		conns[i] = c
	}
	for r := range rounds {
		var wg sync.WaitGroup
		for i, c := range conns {
			wg.Go(func() {
				fmt.Fprintf(c, "GET /sleep?ms=300&id=%d HTTP/1.1\r\nHost: x\r\n\r\n", r*n+i)
				buf := make([]byte, 4096)
				for got := ""; !strings.HasSuffix(got, "\r\n\r\nok"); {
					k, err := c.Read(buf)
					if err != nil {
						t.Errorf("connection %d: %v", i, err)
						return
					}
					got += string(buf[:k])
				}
			})
		}
		wg.Wait()
	}
}

// checkIDs: spans number 0 to want-1 by their id parameter, each once, with
// distinct span and trace ids.
func checkIDs(t *testing.T, spans []harness.Span, want int) {
	t.Helper()
	seen, ids := map[string]int{}, map[string]bool{}
	for _, s := range spans {
		id := query(s.Attr("url.query"), "id")
		seen[id]++
		if seen[id] > 1 {
			t.Errorf("request %s has %d spans", id, seen[id])
		}
		if n, err := strconv.Atoi(id); err != nil || n >= want {
			t.Errorf("a span of no request: %s", s)
		}
		if ids[s.SpanID] || ids[s.TraceID] {
			t.Errorf("ids are used twice: %s", s)
		}
		ids[s.SpanID], ids[s.TraceID] = true, true
	}
	if len(seen) != want {
		t.Errorf("%d of %d requests have a span", len(seen), want)
	}
}

// TestHitBudget: what a request costs in probe hits, as counted by the kernel.
// The first requests of an executable may cost more (it is being learned).
func TestHitBudget(t *testing.T) {
	needs(t)
	harness.CountRuns(t)
	tg, agent := traced(t, harness.Build{})
	// An executable of its own: probes sit on files, and the kernel counts the hits of
	// unwatched processes as well.
	peer := harness.StartTarget(t, copyExe(t, harness.Build{Dir: httpmatrix}.Path(t), "peer"))

	t.Run("server", func(t *testing.T) {
		keepAlive(t, tg, "/plain", 500)
		mark := agent.Mark()
		agent.Settle(mark, 0, tg)
		const n = 10000
		before := agent.Runs()
		keepAlive(t, tg, "/plain", n)
		hits := hitsSince(agent, before, 2*n)
		// The connection itself ends once, which costs one.
		if got := total(hits); got < 2*n || got > 2*n+2 {
			t.Errorf("%d hits for %d server requests on one connection, want %d and at most 2 for the connection: %v", got, n, 2*n, hits)
		}
	})
	t.Run("client", func(t *testing.T) {
		harness.Get(t, tg.URL("/burst?n=200&c=4&url="+peer.URL("/plain")))
		const n, conns = 10000, 4
		perCall := 3
		if testkernel.Have(testkernel.WriteUser) == nil {
			perCall = 5 // the header is written
		}
		before := agent.Runs()
		if got := harness.Get(t, tg.URL(fmt.Sprintf("/burst?n=%d&c=%d&url=%s", n, conns, peer.URL("/plain")))); got != strconv.Itoa(n) {
			t.Fatalf("%s of %d calls succeeded", got, n)
		}
		hits := delta(before, agent.Runs())
		// The request for the burst: 2, and 1 for its connection, 1 for a first look at ServeMux.
		if got := total(hits); got < perCall*n+2 || got > perCall*n+4 {
			t.Errorf("%d hits for %d client calls, want %d and at most 4 for the request that made them: %v", got, n, perCall*n, hits)
		}
	})
}

// hitsSince waits for so many hits: a request's end is seen after the client has its answer.
func hitsSince(agent *harness.Agent, before map[string]uint64, atLeast int) map[string]uint64 {
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		hits := delta(before, agent.Runs())
		if total(hits) >= atLeast || time.Now().After(deadline) {
			return hits
		}
	}
}

func delta(before, after map[string]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for k, v := range after {
		if v != before[k] {
			out[k] = v - before[k]
		}
	}
	return out
}

func total(m map[string]uint64) (n int) {
	for _, v := range m {
		n += int(v)
	}
	return n
}

// keepAlive sends n requests on one connection, one after the other.
func keepAlive(t *testing.T, tg *harness.Target, path string, n int) {
	t.Helper()
	c, err := net.Dial("tcp", tg.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	req := []byte("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
	buf := make([]byte, 4096)
	for range n {
		if _, err := c.Write(req); err != nil {
			t.Fatal(err)
		}
		for got := ""; !strings.HasSuffix(got, "\r\n\r\nok"); {
			k, err := c.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got += string(buf[:k])
		}
	}
}

// TestMatrix: a server span, a client span and the link between them, for Go
// 1.18 to 1.27 and every way of linking. Without TRACER_MATRIX=full a few of
// them: the ends, the steps at which a layout changed, one of each mode.
func TestMatrix(t *testing.T) {
	needs(t)
	builds := []harness.Build{
		{Go: "1.18.10", Mode: harness.Stripped}, {Go: "1.21.13", Mode: harness.PIE}, {Go: "1.22.12", Mode: harness.Plain},
		{Go: "1.24.9", Mode: harness.CGO}, {Go: "1.26.8", Mode: harness.NoDWARF}, {Go: "1.26.8", Mode: harness.Trimmed},
		{Go: "1.27.4", Mode: harness.Stripped},
	}
	if os.Getenv("TRACER_MATRIX") == "full" {
		builds = nil
		for _, v := range harness.Toolchains {
			for _, m := range []harness.Mode{harness.Plain, harness.NoDWARF, harness.Stripped, harness.PIE, harness.CGO} {
				builds = append(builds, harness.Build{Go: v, Mode: m})
			}
		}
	}
	for _, b := range builds {
		b.Dir = httpmatrix
		t.Run(b.Go+"/"+string(b.Mode), func(t *testing.T) {
			tg, agent := traced(t, b)
			matrixCase(t, tg, agent)
		})
	}
}

// matrixCase is a request that makes a call to the same program in a goroutine,
// one over HTTP/2, a panic and a refused call.
func matrixCase(t *testing.T, tg *harness.Target, agent *harness.Agent) {
	t.Helper()
	old := strings.HasPrefix(tg.Go, "go1.18") || strings.HasPrefix(tg.Go, "go1.19") ||
		strings.HasPrefix(tg.Go, "go1.20") || strings.HasPrefix(tg.Go, "go1.21")
	route := "/orders/{id}"
	if old {
		route = "/orders/"
	}
	deep := "deep" // without a context: from 1.21 on goroutines know who started them
	if old && !strings.HasPrefix(tg.Go, "go1.21") {
		deep = "go4"
	}
	for _, c := range []struct {
		name, target, style, status, proto string
	}{
		{"inline", "http://" + tg.HTTP + "/orders/7", "inline", "200", "1.1"},
		{"goroutines", "http://" + tg.HTTP + "/orders/7", deep, "200", "1.1"},
		{"pool", "http://" + tg.HTTP + "/orders/7", "pool", "200", "1.1"},
		{"HTTP/2", "https://" + tg.HTTPS + "/orders/7", "inline", "200", "2"},
		{"HTTP/2 again", "https://" + tg.HTTPS + "/orders/7", "go", "200", "2"},
		{"refused", "http://" + tg.Refused + "/x", "inline", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			mark := agent.Mark()
			n := 3
			if c.status == "" {
				n = 2
			}
			options := []string{"style", c.style, "client", "insecure"}
			if c.style == "deep" {
				options = append(options, "ctx", "0")
			}
			tg.Call(t, c.target, options...)
			spans := agent.Settle(mark, n, tg)
			outer := harness.Of(spans, func(s harness.Span) bool { return s.Kind == "server" && s.Attr("url.path") == "/call" })
			inner := harness.Of(spans, func(s harness.Span) bool { return s.Kind == "server" && s.Attr("url.path") == "/orders/7" })
			calls := harness.Of(spans, harness.Kind("client"))
			if len(outer) != 1 || len(calls) != 1 || len(inner) != n-2 || len(spans) != n {
				t.Fatalf("want %d spans: %v", n, spans)
			}
			checkChild(t, calls[0], outer[0])
			if got := calls[0].Attr("http.response.status_code"); got != c.status {
				t.Errorf("status %q, want %q: %s", got, c.status, calls[0])
			}
			if got := calls[0].Attr("network.protocol.version"); got != c.proto {
				t.Errorf("protocol %q, want %q: %s", got, c.proto, calls[0])
			}
			if c.status == "" {
				if got := calls[0].Attr("error.type"); got != "connection_refused" {
					t.Errorf("error.type %q: %s", got, calls[0])
				}
				return
			}
			if got := inner[0].Attr("http.route"); got != route {
				t.Errorf("route %q, want %q: %s", got, route, inner[0])
			}
			if got := inner[0].Attr("network.protocol.version"); got != c.proto {
				t.Errorf("protocol %q, want %q: %s", got, c.proto, inner[0])
			}
		})
	}
	t.Run("panic", func(t *testing.T) {
		mark := agent.Mark()
		if _, err := harness.TryGet(tg.URL("/panic?with=error")); err == nil {
			t.Fatal("the panic did not end the connection")
		}
		spans := agent.Settle(mark, 1, tg)
		if len(spans) != 1 {
			t.Fatalf("%d spans, want 1: %v", len(spans), spans)
		}
		checkException(t, spans[0], &exception{"*errors.errorString", "no such order"})
	})
}
