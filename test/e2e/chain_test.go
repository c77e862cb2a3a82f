package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

const relay = "testdata/targets/relay"

// chainRequests is how many requests each case of TestChain sends:
// TRACER_CHAIN_REQUESTS, or what fits into the usual run of the tests.
func chainRequests() int {
	if n, err := strconv.Atoi(os.Getenv("TRACER_CHAIN_REQUESTS")); err == nil && n > 0 {
		return n
	}
	return 1000
}

// kinds are the ways in which one relay asks the next.
var kinds = []string{"h1", "tls1", "h2", "h2c"}

// at is where a relay answers to a kind of call.
func at(kind string, tg *harness.Target) string {
	switch kind {
	case "tls1", "h2":
		return kind + "," + tg.HTTPS
	case "h2c":
		return kind + "," + tg.H2C
	}
	return kind + "," + tg.HTTP
}

// joining starts an agent in mode join on the targets; where the kernel allows it, the
// default would be to write headers, which get through a proxy.
func joining(t *testing.T, env []string, targets ...*harness.Target) *harness.Agent {
	t.Helper()
	args := []string{"--propagation", "join"}
	for _, tg := range targets {
		args = append(args, "--pid", strconv.Itoa(tg.PID))
	}
	agent := harness.StartAgentEnv(t, append([]string{"OTEL_TRACES_EXPORTER=json"}, env...), args...)
	for _, tg := range targets {
		agent.WaitInstrumented(tg.PID)
	}
	return agent
}

// hop is a request for id that goes from the first relay to the others.
func hop(id string, first *harness.Target, next ...string) string {
	return first.URL("/hop/" + id + "?" + url.Values{"next": {strings.Join(next, ";")}}.Encode())
}

// together sends the requests, so many at a time, and requires that each is answered
// with its own id.
func together(t *testing.T, inFlight int, ids []string, target func(id string) string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: inFlight}}
	defer client.CloseIdleConnections()
	todo := make(chan string)
	var wg sync.WaitGroup
	for range inFlight {
		wg.Go(func() {
			for id := range todo {
				resp, err := client.Get(target(id))
				if err != nil {
					t.Errorf("request %s: %v", id, err)
					continue
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK || string(body) != id {
					t.Errorf("request %s: %s %q, %v", id, resp.Status, body, err)
				}
			}
		})
	}
	for _, id := range ids {
		todo <- id
	}
	close(todo)
	wg.Wait()
}

// numbered are n ids that begin with a prefix.
func numbered(prefix string, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return ids
}

// idOf is the id of the request that a span is of, on both sides of a call.
func idOf(s harness.Span) string {
	p := s.Attr("url.path")
	if p == "" {
		u, err := url.Parse(s.Attr("url.full"))
		if err != nil {
			return ""
		}
		p = u.Path
	}
	if dir, id := path.Split(p); dir == "/hop/" {
		return id
	}
	return ""
}

// checkTraces requires one trace of every request: a span of each process and kind in
// steps, the last one first, each the only child of the one after it.
func checkTraces(t *testing.T, spans []harness.Span, ids []string, steps []step) {
	t.Helper()
	want := map[string]bool{}
	for _, id := range ids {
		want[id] = true
	}
	byID, last := map[string]harness.Span{}, map[string]harness.Span{}
	used := map[string]int{}
	for _, s := range spans {
		byID[s.SpanID] = s
		used[s.ParentSpanID]++
		if !want[idOf(s)] {
			t.Errorf("a span of no request: %s", s)
		}
		if steps[0].is(s) {
			last[idOf(s)] = s
		}
	}
	if len(spans) != len(ids)*len(steps) {
		t.Errorf("%d spans of %d requests, want %d", len(spans), len(ids), len(ids)*len(steps))
	}
	bad := 0
	for _, id := range ids {
		s, ok := last[id]
		for i := 0; ok && i < len(steps); i++ {
			if !steps[i].is(s) || idOf(s) != id || i == len(steps)-1 && s.ParentSpanID != "" {
				break
			}
			if i == len(steps)-1 {
				id = ""
				break
			}
			up, found := byID[s.ParentSpanID]
			ok = found && up.TraceID == s.TraceID && used[s.ParentSpanID] == 1 && !s.Start.Before(up.Start)
			s = up
		}
		if id != "" {
			if bad++; bad <= 3 {
				t.Errorf("request %s is not one trace of its own; ends at %s", id, s)
			}
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d requests are not complete and correct", bad, len(ids))
	}
}

// step is a span of a process.
type step struct {
	tg   *harness.Target
	kind string
}

func (w step) is(s harness.Span) bool {
	return s.Kind == w.kind && s.Res("process.pid") == strconv.Itoa(w.tg.PID)
}

// TestChain: of requests through three services every one is one complete trace, 16
// and 200 in flight, over every protocol; also on connections from before the agent.
func TestChain(t *testing.T) {
	needs(t)
	exe := harness.Build{Dir: relay}.Path(t)
	a, b, c := harness.StartTarget(t, exe), harness.StartTarget(t, exe), harness.StartTarget(t, exe)
	steps := []step{{c, "server"}, {b, "client"}, {b, "server"}, {a, "client"}, {a, "server"}}
	through := func(kind string) func(string) string {
		return func(id string) string { return hop(id, a, at(kind, b), at(kind, c)) }
	}
	old := map[string]map[string]bool{}
	for _, kind := range kinds {
		together(t, 200, numbered("before", 400), through(kind))
		old[kind] = peersOf(t, at(kind, c))
		if len(old[kind]) == 0 {
			t.Fatalf("%s: no connection is open before the agent", kind)
		}
	}
	// Spans come faster than this process reads them while it sends the requests.
	agent := joining(t, []string{"OTEL_BSP_MAX_QUEUE_SIZE=131072"}, a, b, c)
	n := chainRequests()
	for _, inFlight := range []int{200, 16} {
		for _, kind := range kinds {
			t.Run(fmt.Sprintf("%s/%d", kind, inFlight), func(t *testing.T) {
				ids := numbered(fmt.Sprintf("%s-%d", kind, inFlight), n)
				mark := agent.Mark()
				together(t, inFlight, ids, through(kind))
				agent.Await(mark, n*len(steps))
				spans := agent.Settle(mark, 0, a)
				checkTraces(t, spans, ids, steps)
				on := 0
				for _, s := range spans {
					if steps[0].is(s) && old[kind][s.Attr("network.peer.port")] {
						on++
					}
				}
				t.Logf("%d requests on connections from before the agent", on)
				if inFlight == 200 && on == 0 {
					t.Error("no request went over a connection from before the agent")
				}
			})
		}
	}
	if m := agent.Metrics(); harness.Lost(m) != 0 {
		t.Errorf("losses are counted: %v", m)
	}
}

// TestParentAge: a goroutine that outlives the request that started it is its child for
// some seconds (PARENT_GRACE_NS), and nobody's after them.
func TestParentAge(t *testing.T) {
	needs(t)
	exe := harness.Build{Dir: relay}.Path(t)
	a, b := harness.StartTarget(t, exe), harness.StartTarget(t, exe)
	agent := joining(t, nil, a, b)
	mark := agent.Mark()
	for id, later := range map[string]string{"soon": "20", "late": "6000"} {
		harness.Get(t, hop(id, a, at("h1", b))+"&later="+later)
	}
	spans := agent.WaitSpans(mark, 6, func(s harness.Span) bool { return idOf(s) != "" })
	served := map[string]harness.Span{}
	for _, s := range spans {
		if (step{a, "server"}).is(s) {
			served[idOf(s)] = s
		}
	}
	for _, s := range harness.Of(spans, harness.Kind("client")) {
		switch idOf(s) {
		case "soon":
			checkChild(t, s, served["soon"])
		case "late":
			if s.ParentSpanID != "" || s.TraceID == served["late"].TraceID {
				t.Errorf("the child of a request that ended %v before: %s", s.Start.Sub(served["late"].End), s)
			}
		}
	}
	if joined := checkJoins(t, spans, b); joined != 2 {
		t.Errorf("%d of 2 calls are joined", joined)
	}
}

// peersOf are the ports from which connections to KIND,ADDR are open.
func peersOf(t *testing.T, to string) map[string]bool {
	t.Helper()
	_, addr, _ := strings.Cut(to, ",")
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	want, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]bool{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var n int
		var local, remote, localPort, remotePort, state uint64
		_, err := fmt.Sscanf(sc.Text(), "%d: %x:%x %x:%x %x", &n, &local, &localPort, &remote, &remotePort, &state)
		if err == nil && remotePort == want && state == 1 { // TCP_ESTABLISHED
			out[strconv.FormatUint(localPort, 10)] = true
		}
	}
	return out
}
