package kernels

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// chain is three processes of one program; the first is called by the test, calls
// the second, which calls the third.
type chain struct {
	a, b, c *harness.Target
	path    string
	minor   int // of its Go version
}

func startChain(t *testing.T, agent *harness.Agent, tg target) *chain {
	t.Helper()
	ch := &chain{path: tg.path}
	if _, err := fmt.Sscanf(tg.version, "1.%d", &ch.minor); err != nil {
		t.Fatalf("Go version %q: %v", tg.version, err)
	}
	for _, p := range []**harness.Target{&ch.a, &ch.b, &ch.c} {
		*p = harness.StartTarget(t, tg.path)
		agent.WaitInstrumented((*p).PID)
	}
	return ch
}

// proto is a way in which the services of a chain call each other.
type proto struct {
	name, client string
	tls          bool
}

var protos = []proto{
	{"http", "", false},
	{"https", "insecure1", true},
	{"http2", "insecure", true},
}

func (p proto) base(tg *harness.Target) string {
	if p.tls {
		return "https://" + tg.HTTPS
	}
	return "http://" + tg.HTTP
}

func (ch *chain) url(p proto) string {
	q := url.Values{"client": {p.client}, "url": {p.base(ch.c) + "/plain"}}
	inner := p.base(ch.b) + "/call?" + q.Encode()
	return ch.a.CallURL(inner, "client", p.client)
}

// joins says whether the servers' spans surely find their parents: HTTP/2 streams of
// programs before Go 1.21 are only known by a header, for which there may be no room.
func (ch *chain) joins(p proto) bool { return p.name != "http2" || ch.minor >= 21 }

// drive sends n requests on one connection, one after the other.
func (ch *chain) drive(t *testing.T, p proto, n int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for i := range n {
		resp, err := client.Get(ch.url(p))
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("request %d: %s: %s, %v", i, resp.Status, body, err)
		}
		var out []harness.Outcome
		if err := json.Unmarshal(body, &out); err != nil || len(out) != 1 || out[0].Status != http.StatusOK {
			t.Fatalf("request %d: the call in it: %s, %v", i, body, err)
		}
	}
}

const (
	requests = 50
	warmUp   = 3
	perTrace = 5 // three served requests, two calls
)

// TestAgent is one agent's life, from its start before the programs to kill -9, and
// that of the next one on programs that are there already.
func TestAgent(t *testing.T) {
	needs(t)
	all := targets(t)
	var args []string
	for i, tg := range all {
		// Probes sit on files: no other test's programs are to hit these.
		all[i].path = exeCopy(t, tg.path)
		args = append(args, "--exe", all[i].path)
	}
	memory := memoryMode(t)
	before := harness.CountObjects(t)
	agent := harness.StartAgent(t, append(args, "--propagation", "memory")...)
	var last *chain
	for _, tg := range all {
		ch := startChain(t, agent, tg)
		ch.learn(t, agent)
		for _, p := range protos {
			t.Run("chain/"+tg.version+"/"+p.name, func(t *testing.T) {
				facts := report(t, tg.version)
				testChain(t, agent, ch, p, memory, facts)
			})
		}
		t.Run("propagation/"+tg.version, func(t *testing.T) {
			facts := report(t, tg.version)
			testPropagation(t, agent, ch, memory, facts)
		})
		if m := agent.Metrics(); harness.Lost(m) != 0 {
			t.Errorf("losses are counted: %v", m)
		}
		if last != nil {
			for _, p := range []*harness.Target{last.a, last.b, last.c} {
				p.Stop()
			}
		}
		last = ch
	}
	t.Run("kill", func(t *testing.T) {
		report(t, all[len(all)-1].version)
		testKill(t, agent, last, memory)
	})
	t.Run("again", func(t *testing.T) {
		report(t, all[len(all)-1].version)
		testAgain(t, last, before)
	})
}

// learn sends what the agent looks at before it takes off the probe on ServeMux.
func (ch *chain) learn(t *testing.T, agent *harness.Agent) {
	t.Helper()
	const muxPoint = `tracer_agent_probe_points{probe="nethttp",point="mux"}`
	for range 40 {
		for range 10 {
			harness.Get(t, ch.a.URL("/plain"))
		}
		if agent.Metrics()[muxPoint] == 0 {
			return
		}
	}
	t.Error("the probe on ServeMux is not taken off after 400 requests")
}

// testChain: one trace per request through all three services, nothing else, at
// exactly the promised number of probe hits.
func testChain(t *testing.T, agent *harness.Agent, ch *chain, p proto, memory bool, facts map[string]any) {
	mark := agent.Mark()
	ch.drive(t, p, warmUp)
	agent.Settle(mark, warmUp*perTrace, ch.a)

	before, mark := agent.Metrics(), agent.Mark()
	ch.drive(t, p, requests)
	spans := agent.Settle(mark, requests*perTrace, ch.a)
	after := agent.Metrics()

	joined := ch.joins(p)
	facts["joined"] = joined
	ch.checkTraces(t, spans, joined)
	ch.checkHits(t, hits(before, after), p, memory, facts)
}

// checkTraces: requests traces, each of the five spans in a row.
func (ch *chain) checkTraces(t *testing.T, spans []harness.Span, joined bool) {
	t.Helper()
	if len(spans) != requests*perTrace {
		t.Errorf("%d spans for %d requests, want %d", len(spans), requests, requests*perTrace)
	}
	byID := map[string]harness.Span{}
	for _, s := range spans {
		byID[s.SpanID] = s
	}
	steps := []struct {
		pid  int
		kind string
	}{{ch.c.PID, "server"}, {ch.b.PID, "client"}, {ch.b.PID, "server"}, {ch.a.PID, "client"}, {ch.a.PID, "server"}}
	traces, bad := map[string]bool{}, 0
	for _, s := range spans {
		if s.Kind != "server" || s.Res("process.pid") != strconv.Itoa(ch.c.PID) {
			continue
		}
		traces[s.TraceID] = true
		for i, step := range steps {
			if s.Kind != step.kind || s.Res("process.pid") != strconv.Itoa(step.pid) {
				bad++
				t.Errorf("step %d from the end: want a %s span of process %d: %s", i, step.kind, step.pid, s)
				break
			}
			up, ok := byID[s.ParentSpanID]
			// A call's parent is in its own process; across processes it takes a join.
			must := i < len(steps)-1 && (joined || s.Kind == "client")
			if must && !ok || i == len(steps)-1 && s.ParentSpanID != "" || ok && up.TraceID != s.TraceID {
				bad++
				t.Errorf("step %d from the end: has its parent: %v: %s", i, ok, s)
			}
			if !ok {
				break
			}
			s = up
		}
		if bad > 3 {
			t.Fatal("and so on")
		}
	}
	if len(traces) != requests {
		t.Errorf("%d different traces reach the last service, want %d", len(traces), requests)
	}
}

// hits is how often each point was hit between two readings of the metrics.
func hits(before, after map[string]float64) map[string]int {
	out := map[string]int{}
	for name, v := range after {
		_, point, ok := strings.Cut(name, `point="`)
		if !ok || !strings.HasPrefix(name, "tracer_agent_probe_hits_total") {
			continue
		}
		if d := int(v - before[name]); d != 0 {
			out[strings.TrimRight(strings.Split(point, `"`)[0], `"`)] += d
		}
	}
	return out
}

// checkHits: two hits per served request, three per call. Before Go 1.22 a request's
// route costs one more. Writing a header costs one more. What a connection costs is not a
// call's.
func (ch *chain) checkHits(t *testing.T, got map[string]int, p proto, memory bool, facts map[string]any) {
	t.Helper()
	const calls = 2 * requests
	served := 3*requests + 1 // and the request that marks the end
	start, end := got["server_start"], got["server_end"]+got["h2_server_end"]
	if start != served || end != served {
		t.Errorf("%d requests begin and %d end at a probe, want %d each: %v", start, end, served, got)
	}
	others, matched := 0, 0
	for point, n := range got {
		switch point {
		case "server_start", "server_end", "h2_server_end":
		case "mux_match": // before Go 1.22 once per request
			matched = n
		case "conn_end", "dial_start", "dial_end", "dialled", "tls_start": // once per connection
			// A call may come before the last one's connection is back in the pool.
			if n > 4 {
				t.Errorf("%d connections were made or ended: %v", n, got)
			}
		default:
			others += n
		}
	}
	if ch.minor >= 22 && matched != 0 || ch.minor < 22 && matched != served {
		t.Errorf("%d routes are matched at a probe in %d requests: %v", matched, served, got)
	}
	perCall := 3
	switch {
	case p.name == "http2" && ch.minor < 21:
		perCall = 2 // no stream is known, none announced, nothing written
	case memory:
		perCall = 4
	}
	if others != perCall*calls {
		t.Errorf("%d hits for %d calls, want %d each: %v", others, calls, perCall, got)
	}
	facts["hits_per_request"] = float64(start+end+matched) / float64(served)
	facts["hits_per_call"] = float64(others) / float64(calls)
}
