package kernels

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
	"github.com/tracer-agent/tracer-agent/internal/testkernel"
	"github.com/tracer-agent/tracer-agent/probes/grpc"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// grpcPrograms are one program with the newest, a middle and the oldest grpc that is
// supported, each with the Go of its time.
func grpcPrograms(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, b := range map[string]harness.Build{
		"grpc":     {Mode: harness.Stripped},
		"grpc-mid": {Mod: "go.mid.mod", Go: "1.22.12", Mode: harness.Stripped},
		"grpc-old": {Mod: "go.old.mod", Go: "1.18.10"},
	} {
		b.Dir = "testdata/targets/grpc"
		if inGuest() {
			out[name] = filepath.Join(os.Getenv("TRACER_TARGETS"), name)
		} else {
			out[name] = b.Path(t)
		}
	}
	return out
}

// grpcCalls is a number of calls that the program makes and what is to become of each.
type grpcCalls struct {
	method, kind string
	n            int
	options      []string
	outcome      string // of tracer_agent_grpc_propagation_total
}

var grpcCallKinds = []grpcCalls{
	{"Place", "", 100, nil, "written"},
	{"Place", "tls", 100, []string{"style", "fanout", "fill", "3", "size", "50"}, "written"},
	{"Place", "", 60, []string{"fill", "30"}, "written"},
	{"Place", "retry", 20, nil, "written"},
	{"Watch", "", 50, []string{"style", "fanout"}, "written"},
	{"Upload", "", 50, nil, "written"},
	{"Chat", "tls", 50, []string{"style", "fanout"}, "written"},
	{"Place", "", 20, []string{"md", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, "own_header_kept"},
	{"Place", "", 10, []string{"fill", "70"}, "absence_not_proven"},
	{"Place", "", 10, []string{"fill", "4", "size", "2000"}, "no_room"},         // over what a server may allow
	{"Place", "", 10, []string{"fill", "2", "size", "40000"}, "unknown_buffer"}, // several frames, flushed in between
}

// call makes the calls; replies are what the server has said it got.
func (c *grpcCalls) call(t *testing.T, from, to *harness.Target) (replies []string) {
	t.Helper()
	addr := to.GRPC
	if c.kind == "tls" {
		addr = to.GRPCS
	}
	q := url.Values{"addr": {addr}, "kind": {c.kind}, "method": {c.method}, "n": {strconv.Itoa(c.n)}, "cmd": {"md=all"}}
	for i := 0; i+1 < len(c.options); i += 2 {
		q.Set(c.options[i], c.options[i+1])
	}
	var out []struct{ Code, Reply string }
	body := harness.Get(t, from.URL("/call?"+q.Encode()))
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		t.Fatalf("answer %.200q: %v", body, err)
	}
	for _, o := range out {
		if o.Code != "OK" {
			t.Fatalf("%s: %s", c.method, o.Code)
		}
		replies = append(replies, o.Reply)
	}
	return replies
}

// TestGRPCMemoryDry: what becomes of each attempt to write into a gRPC call, old and new,
// with writes that do nothing, so that the way to each is gone on any kernel; two hits for
// each. That the bytes are right is TestGRPCMemory's.
func TestGRPCMemoryDry(t *testing.T) {
	needs(t)
	for name, path := range grpcPrograms(t) {
		t.Run(name, func(t *testing.T) {
			spec := grpc.New(grpc.Config{Join: true})
			prepare := spec.Prepare
			spec.Prepare = func(c *ebpf.CollectionSpec) error {
				dryWrites(c)
				return prepare(c)
			}
			metrics := selfmetrics.New()
			manager, err := probe.NewManager(probe.ManagerOptions{
				Specs: []*probe.Spec{spec}, WriteMemory: true, ExactFor: time.Hour, Metrics: metrics, Emit: func(*telemetry.Operation) {},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer manager.Close()
			peer := harness.StartTarget(t, exeCopy(t, path))
			tg := startHanding(t, manager, exeCopy(t, path), probe.HandJoin|probe.HandMemory)
			for _, c := range grpcCallKinds {
				before, hits := outcomes(metrics), grpcWriteHits(manager)
				c.call(t, tg, peer)
				after := outcomes(metrics)
				for k := range after {
					after[k] -= before[k]
				}
				maps.DeleteFunc(after, func(_ string, n int) bool { return n == 0 })
				if want := map[string]int{c.outcome: c.n}; !maps.Equal(after, want) {
					t.Errorf("%+v: %v, want %v", c, after, want)
				}
				if got := grpcWriteHits(manager) - hits; got != 2*c.n {
					t.Errorf("%+v: %d hits to write, want %d", c, got, 2*c.n)
				}
			}
		})
	}
}

// outcomes are the counted attempts in memory mode.
func outcomes(r *selfmetrics.Registry) map[string]int {
	out := map[string]int{}
	for _, f := range r.Snapshot() {
		if f.Name != "tracer_agent_grpc_propagation_total" {
			continue
		}
		for _, s := range f.Samples {
			if slices.Contains(s.Labels, selfmetrics.L("mode", "memory")) {
				out[s.Labels[len(s.Labels)-1].Value] += int(s.Value)
			}
		}
	}
	return out
}

func grpcWriteHits(m *probe.Manager) (n int) {
	for _, s := range m.Stats() {
		if s.Program == "gr_encode" || s.Program == "gr_write" {
			n += int(s.Hits)
		}
	}
	return n
}

// TestGRPCMemory: a server that nobody watches gets the metadata of every call as it was,
// and besides exactly one traceparent, which names the call's span; calls with their own
// or without room go as they were. The connections live on: what is compressed stays right.
func TestGRPCMemory(t *testing.T) {
	needs(t)
	testkernel.Require(t, testkernel.WriteUser)
	for name, path := range grpcPrograms(t) {
		t.Run(name, func(t *testing.T) {
			facts := report(t, name)
			watched := exeCopy(t, path)
			agent := harness.StartAgent(t, "--exe", watched, "--propagation", "memory")
			with, without := harness.StartTarget(t, watched), harness.StartTarget(t, path)
			server := harness.StartTarget(t, path)
			agent.WaitInstrumented(with.PID)
			written := 0
			for _, c := range grpcCallKinds {
				mark := agent.Mark()
				got, want := c.call(t, with, server), c.call(t, without, server)
				calls := map[string]bool{}
				for _, s := range agent.WaitSpans(mark, c.n, func(s harness.Span) bool { return s.Kind == "client" }) {
					calls[fmt.Sprintf("00-%s-%s-", s.TraceID, s.SpanID)] = true
				}
				if c.outcome == "written" {
					written += c.n
				}
				if c.method != "Place" { // streams do not say what they got
					continue
				}
				checkMetadata(t, c, got, want, calls)
			}
			m := agent.Metrics()
			n := m[`tracer_agent_grpc_propagation_total{probe="grpc",mode="memory",outcome="written"}`]
			if int(n) != written || harness.Lost(m) != 0 {
				t.Errorf("%v headers written, want %d: %v", n, written, m)
			}
			facts["written"] = n
		})
	}
}

// checkMetadata compares what a server got with and without the agent; calls are the
// beginnings of the calls' traceparents, each of which serves once.
func checkMetadata(t *testing.T, c grpcCalls, got, want []string, calls map[string]bool) {
	t.Helper()
	slices.Sort(want)
	var bare []string
	for _, reply := range got {
		var own []string
		lines := slices.DeleteFunc(strings.Split(reply, "\n"), func(line string) bool {
			value, ok := strings.CutPrefix(line, "traceparent: ")
			if ok && c.outcome != "own_header_kept" {
				own = append(own, value)
			}
			return ok && c.outcome != "own_header_kept"
		})
		bare = append(bare, strings.Join(lines, "\n"))
		if c.outcome != "written" {
			if len(own) != 0 {
				t.Errorf("%+v: a traceparent was written: %v", c, own)
			}
			continue
		}
		if len(own) != 1 || len(own[0]) != 55 || !calls[own[0][:53]] {
			t.Errorf("%+v: traceparent %q is no call's, or twice", c, own)
			continue
		}
		delete(calls, own[0][:53])
	}
	slices.Sort(bare)
	if !slices.Equal(bare, want) {
		t.Errorf("%+v: metadata changed:\n%.400q\nwant\n%.400q", c, bare, want)
	}
}
