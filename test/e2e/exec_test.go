package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/probes/nethttp"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestExec: a process that replaces its program, with requests and calls in flight,
// is traced as the new program: what was in flight gives no span and leaves nothing in
// the maps, and the new program's goroutines and contexts, which have the old ones'
// numbers and addresses, get the parents that are theirs.
func TestExec(t *testing.T) {
	needs(t)
	src := harness.Build{Dir: httpmatrix}.Path(t)
	spec, err := nethttp.New(nethttp.Config{Redact: redact.New(nil)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		other bool // into another file, which has another inode
		byPID bool // the kernel does not let it in at exec
	}{
		{name: "same file"},
		{name: "another file", other: true},
		{name: "same file, selected by pid", byPID: true},
		{name: "another file, selected by pid", other: true, byPID: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := copyExe(t, src, "execs")
			next := path
			if c.other {
				next = copyExe(t, src, "execs")
			}
			tg := harness.StartTarget(t, path)
			args := []string{"--exe", path, "--exe", next}
			if c.byPID {
				args = []string{"--pid", strconv.Itoa(tg.PID)}
			}
			agent := harness.StartAgent(t, args...)
			agent.WaitInstrumented(tg.PID)
			peer := harness.StartTarget(t, src)
			x := &execs{t: t, tg: tg, peer: peer, agent: agent, spec: spec}
			for gen := range 3 {
				x.round(gen, next)
			}
			x.check(3)
		})
	}
}

type execs struct {
	t        *testing.T
	tg, peer *harness.Target
	agent    *harness.Agent
	spec     *probe.Spec
}

// round sends the program work, and in the midst of it makes it exec. What it works
// on at that time are requests with marks of their own.
func (x *execs) round(gen int, path string) {
	x.t.Helper()
	x.parents(gen)
	var wg sync.WaitGroup
	for i := range 20 {
		// requests that wait, calls that wait, and calls that do not
		wg.Go(func() { _, _ = harness.TryGet(x.tg.URL("/sleep?ms=20000&cut=1")) })
		wg.Go(func() {
			_, _ = harness.TryGet(x.tg.CallURL("http://"+x.peer.Silent+"/x", "style", []string{"inline", "go"}[i%2], "cut", "1"))
		})
		wg.Go(func() { _, _ = harness.TryGet(x.tg.CallURL(x.peer.URL("/plain"), "n", "1000000", "cut", "1")) })
	}
	x.waitFor("work under way", func() bool { return x.agent.OpenEntries(x.spec, "nh_client", x.tg.PID) >= 20 })
	_, _ = harness.TryGet(x.tg.URL("/exec?cut=1&path=" + path))
	wg.Wait()
	x.waitFor("the next program", func() bool {
		body, err := harness.TryGet(x.tg.URL("/gen"))
		return err == nil && body == strconv.Itoa(gen+1)
	})
	if !x.tg.Alive() {
		x.t.Fatalf("the target did not survive: %s", x.tg.Stderr())
	}
	// By pid it is attached anew, which takes a moment.
	x.waitFor("spans of the next program", func() bool {
		mark := x.agent.Mark()
		harness.Get(x.t, x.tg.URL("/plain?ready=1"))
		time.Sleep(20 * time.Millisecond)
		return len(harness.Of(x.agent.Since(mark), harness.Kind("server"))) > 0
	})
	x.waitFor("the calls of the program before to be gone", func() bool {
		return x.agent.Entries("nh_client", x.tg.PID) == 0
	})
}

func (x *execs) waitFor(what string, ok func() bool) {
	x.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			x.t.Fatalf("waiting for %s: not there after 20 s\n%s", what, x.agent.Stderr())
		}
	}
}

// parents requires that every call has the parent that is its own.
func (x *execs) parents(gen int) {
	x.t.Helper()
	mark := x.agent.Mark()
	styles := [][]string{{"style", "inline"}, {"style", "go", "ctx", "0"}, {"style", "go4"}, {"style", "pool"}, {"style", "fanout", "ctx", "0"}}
	const rounds = 4
	for range rounds {
		for _, style := range styles {
			x.tg.Call(x.t, x.peer.URL("/plain"), style...)
		}
	}
	want := 2 * rounds * len(styles)
	spans := harness.Of(x.agent.Settle(mark, want, x.tg), func(s harness.Span) bool { return s.Attr("url.query") != "ready=1" })
	servers := map[string]harness.Span{}
	for _, s := range harness.Of(spans, harness.Kind("server")) {
		servers[s.SpanID] = s
	}
	calls := harness.Of(spans, harness.Kind("client"))
	if len(servers)+len(calls) != want || len(calls) != want/2 {
		x.t.Errorf("program %d: %d server and %d client spans, want %d each", gen, len(servers), len(calls), want/2)
	}
	for _, s := range calls {
		if p, ok := servers[s.ParentSpanID]; !ok || p.TraceID != s.TraceID {
			x.t.Errorf("program %d: a call that is no child of its request: %s", gen, s)
		}
	}
}

// check requires after the last exec that nothing of the programs before is left.
func (x *execs) check(gens int) {
	x.t.Helper()
	x.parents(gens)
	http.DefaultClient.CloseIdleConnections()
	x.waitFor("the maps to hold the last program's operations only", func() bool {
		return x.agent.OpenEntries(x.spec, "nh_client", x.tg.PID) == 0 && x.agent.Entries("nh_server", x.tg.PID) <= 2
	})
	for _, s := range x.agent.Since(0) {
		whole := s.Attr("http.response.status_code") == "200"
		if strings.Contains(s.Attr("url.query"), "cut=1") {
			x.t.Errorf("a span of a request that never ended: %s", s)
		}
		if s.Kind == "client" && (!whole || s.ParentSpanID == "") {
			x.t.Errorf("a call that failed or has no parent: %s", s)
		}
		if s.End.Sub(s.Start) < 0 || s.End.Sub(s.Start) > 15*time.Second {
			x.t.Errorf("lasted %v: %s", s.End.Sub(s.Start), s)
		}
	}
	if m := x.agent.Metrics(); harness.Lost(m) > 0 {
		x.t.Errorf("losses: %v", fmt.Sprint(m))
	}
}
