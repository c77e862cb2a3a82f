package kernels

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// newest is a copy of the target that the newest Go built.
func newest(t *testing.T) target {
	t.Helper()
	all := targets(t)
	tg := all[len(all)-1]
	tg.path = exeCopy(t, tg.path)
	return tg
}

// TestJoinMode: where no byte is changed, three services are one trace over every
// protocol, found by their connections.
func TestJoinMode(t *testing.T) {
	needs(t)
	tg := newest(t)
	agent := harness.StartAgent(t, "--exe", tg.path, "--propagation", "join")
	ch := startChain(t, agent, tg)
	for _, p := range protos {
		t.Run(p.name, func(t *testing.T) {
			facts := report(t, tg.version)
			before, mark := agent.Metrics(), agent.Mark()
			ch.drive(t, p, requests)
			ch.checkTraces(t, agent.Settle(mark, requests*perTrace, ch.a), true)
			const joined = `tracer_agent_propagation_total{probe="nethttp",mode="join",outcome="joined"}`
			n := int(agent.Metrics()[joined] - before[joined])
			if n != 2*requests {
				t.Errorf("%d of %d calls are joined", n, 2*requests)
			}
			facts["joined"] = n
		})
	}
}

// TestModePerProcess: processes of one executable hand their traces on as the entry says
// that names them.
func TestModePerProcess(t *testing.T) {
	needs(t)
	tg := newest(t)
	memory := memoryMode(t)
	callee := harness.StartTarget(t, tg.path)
	modes := []string{"off", "join", "memory"} // the last one's probes come when others run already
	callers := map[string]*harness.Target{}
	conf := fmt.Sprintf("select: {pids: [%d]}\npropagation: {mode: join}\ninstrument:\n", callee.PID)
	for _, mode := range modes {
		callers[mode] = harness.StartTarget(t, tg.path)
		conf += fmt.Sprintf("- {pids: [%d], propagation: {mode: %s}}\n", callers[mode].PID, mode)
	}
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := harness.StartAgent(t, "--config", path)
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			facts := report(t, tg.version)
			caller := callers[mode]
			line := agent.WaitLog("msg=instrumented", fmt.Sprintf("pid=%d ", caller.PID))
			want := map[string]string{"off": "none", "join": "join", "memory": "join"}[mode]
			if mode == "memory" && memory {
				want = "memory,join"
			}
			if !strings.Contains(line, "propagation="+want+" ") {
				t.Errorf("want propagation=%s: %s", want, line)
			}
			agent.WaitInstrumented(callee.PID)
			const n = 10
			before, mark := agent.Metrics(), agent.Mark()
			for _, out := range caller.Call(t, "http://"+callee.HTTP+"/plain", "n", strconv.Itoa(n)) {
				if out.Status != http.StatusOK {
					t.Fatalf("call: %+v", out)
				}
			}
			spans := agent.Settle(mark, 2*n+1, caller)
			after := agent.Metrics()
			calls, children := map[string]bool{}, 0
			for _, s := range harness.Of(spans, harness.Kind("client")) {
				calls[s.SpanID] = true
			}
			for _, s := range spans {
				if s.Kind == "server" && s.Res("process.pid") == strconv.Itoa(callee.PID) && calls[s.ParentSpanID] {
					children++
				}
			}
			count := func(mode, outcome string) int {
				name := fmt.Sprintf(`tracer_agent_propagation_total{probe="nethttp",mode=%q,outcome=%q}`, mode, outcome)
				return int(after[name] - before[name])
			}
			wantJoined, wantWritten := 0, 0
			switch want {
			case "join":
				wantJoined = n
			case "memory,join":
				wantWritten = n
			}
			joined, written := count("join", "joined"), count("memory", "written")
			if joined != wantJoined || written != wantWritten || children != wantJoined+wantWritten || len(calls) != n {
				t.Errorf("of %d calls %d were joined, %d written, %d have a child; want %d, %d and %d",
					len(calls), joined, written, children, wantJoined, wantWritten, wantJoined+wantWritten)
			}
			facts["joined"], facts["written"] = joined, written
		})
	}
}

// TestKernelMode: where the kernel is sound, calls to a server that is not watched carry
// the call's span, also on a connection from before the agent; where it is not, the agent
// says why and nothing is changed. Either way calls go on when the agent is killed.
func TestKernelMode(t *testing.T) {
	needs(t)
	tg := newest(t)
	facts := report(t, tg.version)
	client := harness.StartTarget(t, tg.path)
	server := startReceiver(t, protos[0])
	call := func() []string {
		t.Helper()
		for _, out := range client.Call(t, server.URL+"/x") {
			if out.Status != 200 {
				t.Fatalf("call: %+v", out)
			}
		}
		got := server.take()
		if len(got) != 1 {
			t.Fatalf("%d requests arrived, want 1", len(got))
		}
		return got[0].Values("traceparent")
	}
	call() // the connection is open before the agent
	agent := harness.StartAgent(t, "--pid", strconv.Itoa(client.PID), "--propagation", "kernel")
	agent.WaitInstrumented(client.PID)
	line := agent.WaitLog("kernel mode")
	_, why, refused := strings.Cut(line, "kernel mode refused: ")
	facts["refused"] = strings.Trim(why, "\"\n")
	if refused {
		for range 5 {
			if got := call(); len(got) != 0 {
				t.Errorf("traceparent %q though refused", got)
			}
		}
	} else {
		facts["pushed"] = pushed(t, agent, client, call)
	}
	if err := syscall.Kill(agent.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	agent.Kill()
	for range 20 {
		if got := call(); len(got) != 0 {
			t.Errorf("traceparent %q without an agent", got)
		}
	}
}

// pushed makes calls and requires that each carries its own span, once the connection
// from before the agent is taken in.
func pushed(t *testing.T, agent *harness.Agent, client *harness.Target, call func() []string) int {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); len(call()) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("calls on the connection from before the agent never carry a traceparent")
		}
	}
	const n = 20
	agent.Settle(agent.Mark(), 0, client)
	mark := agent.Mark()
	var got []string
	for range n {
		got = append(got, call()...)
	}
	var want []string
	for _, s := range harness.Of(agent.Settle(mark, 2*n, client), harness.Kind("client")) {
		want = append(want, "00-"+s.TraceID+"-"+s.SpanID+"-01")
	}
	slices.Sort(got)
	slices.Sort(want)
	if len(got) != n || !slices.Equal(got, want) {
		t.Errorf("%d calls carry %q, want their spans %q", n, got, want)
	}
	return len(got)
}
