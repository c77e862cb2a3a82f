package kernels

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/testkernel"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// inFlight is how many requests go through the chain at once.
const inFlight = 16

// chainPiece is how many requests are sent before their spans are waited for: an
// emulated machine is slow to read them.
const chainPiece = 500

// TestMemoryChain: with 16 requests in flight, each trace through three services is
// whole and right, and every call was told by a header, none by connection.
// TRACER_CHAIN_REQUESTS is how many requests.
func TestMemoryChain(t *testing.T) {
	needs(t)
	testkernel.Require(t, testkernel.WriteUser)
	n := 500
	if v := os.Getenv("TRACER_CHAIN_REQUESTS"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	all := targets(t)
	tg := all[len(all)-1]
	tg.path = exeCopy(t, tg.path)
	agent := harness.StartAgent(t, "--exe", tg.path, "--propagation", "memory")
	ch := startChain(t, agent, tg)
	ch.learn(t, agent)
	for _, p := range protos {
		t.Run(p.name, func(t *testing.T) {
			facts := report(t, tg.version)
			m := n
			if p.name != "http" {
				m = min(n, 500) // the same way with another writer
			}
			ch.driveMany(t, p, inFlight)
			mark := agent.Mark()
			agent.Settle(mark, 0, ch.a)
			before := agent.Metrics()
			whole, seen := 0, 0
			for done := 0; done < m; done += chainPiece {
				k := min(chainPiece, m-done)
				mark := agent.Mark()
				ch.driveMany(t, p, k)
				spans := agent.WaitSpans(mark, k*perTrace, func(harness.Span) bool { return true })
				whole += ch.wholeTraces(t, append([]harness.Span(nil), spans...))
				seen += len(spans)
			}
			if whole != m || seen != m*perTrace {
				t.Errorf("%d whole traces of %d spans for %d requests", whole, seen, m)
			}
			after := agent.Metrics()
			count := func(mode, outcome string) int {
				name := fmt.Sprintf(`tracer_agent_propagation_total{probe="nethttp",mode=%q,outcome=%q}`, mode, outcome)
				return int(after[name] - before[name])
			}
			if w, j := count("memory", "written"), count("join", "joined"); w != 2*m || j != 0 {
				t.Errorf("%d headers written for %d calls, %d joined, want all and none", w, 2*m, j)
			}
			if lost := harness.Lost(after); lost != 0 {
				t.Errorf("losses are counted: %v", after)
			}
			facts["requests"], facts["whole"], facts["in_flight"] = m, whole, inFlight
		})
	}
}

// driveMany sends n requests, inFlight at once.
func (ch *chain) driveMany(t *testing.T, p proto, n int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: inFlight}}
	defer client.CloseIdleConnections()
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range inFlight {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for next.Add(1) <= int64(n) {
				resp, err := client.Get(ch.url(p))
				if err != nil {
					failed.Add(1)
					continue
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
					failed.Add(1)
				}
				resp.Body.Close()
			}
		}()
	}
	wg.Wait()
	if f := failed.Load(); f != 0 {
		t.Fatalf("%d of %d requests failed", f, n)
	}
}

// wholeTraces counts the traces that are exactly the five spans in a row.
func (ch *chain) wholeTraces(t *testing.T, spans []harness.Span) int {
	t.Helper()
	traces := map[string][]harness.Span{}
	for _, s := range spans {
		traces[s.TraceID] = append(traces[s.TraceID], s)
	}
	steps := []struct {
		pid  int
		kind string
	}{{ch.a.PID, "server"}, {ch.a.PID, "client"}, {ch.b.PID, "server"}, {ch.b.PID, "client"}, {ch.c.PID, "server"}}
	whole, shown := 0, 0
	for id, list := range traces {
		children := map[string][]harness.Span{}
		for _, s := range list {
			children[s.ParentSpanID] = append(children[s.ParentSpanID], s)
		}
		parent, at := "", 0
		for ; at < len(steps); at++ {
			next := children[parent]
			if len(next) != 1 || next[0].Kind != steps[at].kind || next[0].Res("process.pid") != strconv.Itoa(steps[at].pid) {
				break
			}
			parent = next[0].SpanID
		}
		if at == len(steps) && len(list) == len(steps) {
			whole++
		} else if shown++; shown <= 3 {
			t.Errorf("trace %s breaks at step %d: %v", id, at, list)
		}
	}
	return whole
}
