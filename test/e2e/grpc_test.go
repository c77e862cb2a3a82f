package e2e

import (
	"encoding/json"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

const grpcTarget = "testdata/targets/grpc"

// grpcBuilds are the oldest, a middle and the newest grpc, with the Go of their time,
// stripped or not.
var grpcBuilds = []harness.Build{
	{Dir: grpcTarget},
	{Dir: grpcTarget, Mode: harness.Stripped},
	{Dir: grpcTarget, Mod: "go.mid.mod", Go: "1.22.12", Mode: harness.Stripped},
	{Dir: grpcTarget, Mod: "go.old.mod", Go: "1.18.10"},
}

func grpcTraced(t *testing.T, b harness.Build) (*harness.Target, *harness.Agent) {
	t.Helper()
	tg := harness.StartTarget(t, b.Path(t))
	return tg, harness.Trace(t, tg)
}

type rpcOutcome struct{ Code, Reply string }

// rpc lets the target make calls: options are key, value pairs, see calls.go there.
func rpc(t *testing.T, tg *harness.Target, addr, method string, options ...string) []rpcOutcome {
	t.Helper()
	q := url.Values{"addr": {addr}, "method": {method}}
	for i := 0; i+1 < len(options); i += 2 {
		q.Set(options[i], options[i+1])
	}
	var out []rpcOutcome
	body := harness.Get(t, tg.URL("/call?"+q.Encode()))
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		t.Fatalf("answer %q: %v", body, err)
	}
	return out
}

func isRPC(kind string) func(harness.Span) bool {
	return func(s harness.Span) bool { return s.Kind == kind && s.Attr("rpc.system.name") == "grpc" }
}

func rpcSpans(spans []harness.Span) (calls, served []harness.Span) {
	return harness.Of(spans, isRPC("client")), harness.Of(spans, isRPC("server"))
}

// TestGRPC checks whole attribute sets and parents of every kind of RPC and outcome.
func TestGRPC(t *testing.T) {
	needs(t)
	for _, b := range grpcBuilds {
		t.Run(b.Go+b.Mod+string(b.Mode), func(t *testing.T) {
			tg, agent := grpcTraced(t, b)
			for _, c := range grpcCases(tg) {
				if c.name == "retried" && b.Mod == "go.old.mod" {
					c.served = 1 // retries were an experiment then
				}
				t.Run(c.name, func(t *testing.T) { c.run(t, tg, agent) })
			}
		})
	}
}

type grpcCase struct {
	name, addr, method string
	options            []string
	code               string // what the caller sees
	served             int    // spans of the server
	call, serve        map[string]string
	callErr, serveErr  bool
	callDesc           string
	over               bool // over net/http's server, whose span is between
	exc                *exception
}

func grpcCases(tg *harness.Target) []grpcCase {
	ok := map[string]string{"rpc.response.status_code": "OK"}
	fails := func(code string) map[string]string {
		return map[string]string{"rpc.response.status_code": code, "error.type": code}
	}
	code := func(code string) map[string]string { return map[string]string{"rpc.response.status_code": code} }
	return []grpcCase{
		{name: "unary", addr: tg.GRPC, method: "Place", code: "OK", served: 1, call: ok, serve: ok},
		{name: "TLS", addr: tg.GRPCS, method: "Place", options: []string{"kind", "tls"}, code: "OK", served: 1, call: ok, serve: ok},
		{name: "stream workers", addr: tg.Workers, method: "Place", code: "OK", served: 1, call: ok, serve: ok},
		{name: "server stream", addr: tg.GRPC, method: "Watch", code: "OK", served: 1, call: ok, serve: ok},
		{name: "client stream", addr: tg.GRPC, method: "Upload", code: "OK", served: 1, call: ok, serve: ok},
		{name: "bidi stream", addr: tg.GRPCS, method: "Chat", options: []string{"kind", "tls"}, code: "OK", served: 1, call: ok, serve: ok},
		{name: "over net/http", addr: tg.HTTPS, method: "Place", options: []string{"kind", "tls"}, code: "OK", served: 1, call: ok, serve: ok, over: true},
		{name: "not found", addr: tg.GRPC, method: "Place", options: []string{"cmd", "code=5&msg=no+order"}, code: "NotFound", served: 1,
			call: fails("NOT_FOUND"), callErr: true, serve: code("NOT_FOUND")},
		{name: "stream fails", addr: tg.GRPC, method: "Chat", options: []string{"cmd", "code=14"}, code: "Unavailable", served: 1,
			call: fails("UNAVAILABLE"), callErr: true, serve: fails("UNAVAILABLE"), serveErr: true},
		{name: "recovered panic", addr: tg.GRPC, method: "Place", options: []string{"cmd", "panic=boom"}, code: "Internal", served: 1,
			call: fails("INTERNAL"), callErr: true, serve: fails("INTERNAL"), serveErr: true, exc: &exception{"string", "boom"}},
		{name: "no such method", addr: tg.GRPC, method: "/trade.v1.Orders/Nope", code: "Unimplemented", served: 1,
			call: map[string]string{"rpc.response.status_code": "UNIMPLEMENTED", "error.type": "UNIMPLEMENTED", "rpc.method": "trade.v1.Orders/Nope"}, callErr: true,
			serve: map[string]string{"rpc.response.status_code": "UNIMPLEMENTED", "error.type": "UNIMPLEMENTED", "rpc.method": "_OTHER",
				"rpc.method_original": "trade.v1.Orders/Nope"}, serveErr: true},
		{name: "refused", addr: tg.Refused, method: "Place", code: "Unavailable",
			call: fails("UNAVAILABLE"), callErr: true, callDesc: "connection refused"},
		{name: "stream refused", addr: tg.Refused, method: "Watch", code: "Unavailable",
			call: fails("UNAVAILABLE"), callErr: true, callDesc: "connection refused"},
		{name: "deadline", addr: tg.GRPC, method: "Place", options: []string{"cmd", "sleep=5s", "timeout", "50ms"}, code: "DeadlineExceeded", served: 1,
			call: fails("DEADLINE_EXCEEDED"), callErr: true, callDesc: any_, serve: map[string]string{"rpc.response.status_code": any_, "error.type": maybe}},
		{name: "cancelled", addr: tg.GRPC, method: "Watch", options: []string{"cmd", "sleep=5s", "cancel", "50ms"}, code: "Canceled", served: 1,
			call: fails("CANCELLED"), callErr: true, callDesc: "context canceled", serve: code("CANCELLED")},
		{name: "retried", addr: tg.GRPC, method: "Place", options: []string{"kind", "retry", "cmd", "code=10"}, code: "Aborted", served: 3,
			call: fails("ABORTED"), callErr: true, serve: code("ABORTED")},
	}
}

// maybe: the attribute may be there.
const maybe = "\x00maybe"

func (c grpcCase) run(t *testing.T, tg *harness.Target, agent *harness.Agent) {
	mark := agent.Mark()
	if out := rpc(t, tg, c.addr, c.method, c.options...); len(out) != 1 || out[0].Code != c.code {
		t.Fatalf("outcome %v, want %s", out, c.code)
	}
	n := 2 + c.served
	if c.over {
		n++
	}
	spans := agent.Settle(mark, n, tg)
	calls, served := rpcSpans(spans)
	if len(calls) != 1 || len(served) != c.served {
		t.Fatalf("%d calls, %d served, want 1 and %d: %v", len(calls), len(served), c.served, spans)
	}
	host, port, _ := strings.Cut(c.addr, ":")
	base := map[string]string{"rpc.system.name": "grpc", "rpc.method": "trade.v1.Orders/" + c.method, "server.address": host, "server.port": port}
	call, serve := maps.Clone(base), maps.Clone(base)
	if c.served > 0 {
		call["network.peer.address"], call["network.peer.port"] = host, port
	}
	if !c.over {
		serve["client.address"], serve["network.peer.address"], serve["network.peer.port"] = host, host, any_
	}
	maps.Copy(call, c.call)
	maps.Copy(serve, c.serve)
	cl := calls[0]
	checkAttrs(t, cl, call)
	if (cl.Status == "error") != c.callErr || c.callDesc != any_ && cl.StatusText != c.callDesc {
		t.Errorf("call: status %q %q, want error %v %q", cl.Status, cl.StatusText, c.callErr, c.callDesc)
	}
	parent := cl.SpanID
	for _, s := range harness.Of(spans, harness.Kind("server")) {
		if s.Attr("url.path") == "/call" && cl.ParentSpanID != s.SpanID {
			t.Errorf("call is no child of the request it was made for: %v", spans)
		}
		if c.over && s.Attr("url.path") == "/trade.v1.Orders/"+c.method {
			if s.ParentSpanID != cl.SpanID {
				t.Errorf("the request that carries the RPC is no child of the call: %v", spans)
			}
			parent = s.SpanID
		}
	}
	for _, s := range served {
		checkAttrs(t, s, serve)
		if s.ParentSpanID != parent || s.TraceID != cl.TraceID {
			t.Errorf("served, but no child of the call: %v", spans)
		}
		if c.serve["rpc.response.status_code"] != any_ && (s.Status == "error") != c.serveErr {
			t.Errorf("served: status %q, want error %v", s.Status, c.serveErr)
		}
		checkException(t, s, c.exc)
	}
}

// checkAttrs compares all of a span's attributes.
func checkAttrs(t *testing.T, s harness.Span, want map[string]string) {
	t.Helper()
	got := s.Texts()
	want = maps.Clone(want)
	for k, v := range want {
		switch _, there := got[k]; {
		case v == any_ && there:
			want[k] = got[k]
		case v == maybe && there:
			want[k] = got[k]
		case v == maybe:
			delete(want, k)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s %s: attributes (-want +got):\n%s", s.Kind, s.Name, diff)
	}
}

// TestGRPCHits: a unary RPC costs two hits where it is served and three where it is
// called, and so does a stream.
func TestGRPCHits(t *testing.T) {
	needs(t)
	harness.CountRuns(t)
	src := harness.Build{Dir: grpcTarget}.Path(t)
	tg := harness.StartTarget(t, src)
	peer := harness.StartTarget(t, copyExe(t, src, "peer"))
	agent := harness.Trace(t, tg)
	const n = 2000
	for _, c := range []struct {
		name, addr, method string
		caller             *harness.Target
		prefix             string
		want               int
	}{
		{"served", tg.GRPC, "Place", peer, "gr_", 2 * n},
		{"called", peer.GRPC, "Place", tg, "gr_", 3 * n},
		{"stream served", tg.GRPC, "Watch", peer, "gr_", 2 * n},
		{"stream called", peer.GRPC, "Watch", tg, "gr_", 3 * n},
	} {
		t.Run(c.name, func(t *testing.T) {
			rpc(t, c.caller, c.addr, c.method) // dial
			agent.Settle(agent.Mark(), 0, tg)
			before := agent.Runs()
			rpc(t, c.caller, c.addr, c.method, "n", strconv.Itoa(n))
			agent.Settle(agent.Mark(), 0, tg)
			got := 0
			hits := delta(before, agent.Runs())
			for name, k := range hits {
				if strings.HasPrefix(name, c.prefix) {
					got += int(k)
				}
			}
			if got != c.want {
				t.Errorf("%d hits for %d RPCs, want %d: %v", got, n, c.want, hits)
			}
		})
	}
}

// TestGRPCChain: three services in a chain, 16 chains at a time, over plaintext and
// TLS: every call has its parent, every service its caller, and no trace two requests.
func TestGRPCChain(t *testing.T) {
	needs(t)
	src := harness.Build{Dir: grpcTarget, Mode: harness.Stripped}.Path(t)
	a := harness.StartTarget(t, src)
	b := harness.StartTarget(t, copyExe(t, src, "b"))
	c := harness.StartTarget(t, copyExe(t, src, "c"))
	agent := harness.Trace(t, a, b, c)
	for _, spawn := range []string{"", "&spawn=1"} {
		for range 4 {
			const n = 16
			mark := agent.Mark()
			out := rpc(t, a, a.GRPC, "Place", "n", strconv.Itoa(n), "style", "fanout", "cmd", "sleep=5ms&next="+b.GRPC+","+c.GRPC+spawn)
			if len(out) != n {
				t.Fatalf("%d outcomes", len(out))
			}
			for _, o := range out {
				if o.Code != "OK" {
					t.Fatalf("outcome %v", o)
				}
			}
			checkChain(t, agent.Settle(mark, 6*n+1, a), n, 3)
		}
	}
}

// checkChain: n chains of depth services below one request.
func checkChain(t *testing.T, spans []harness.Span, n, depth int) {
	t.Helper()
	calls, served := rpcSpans(spans)
	if len(calls) != n*depth || len(served) != n*depth {
		t.Fatalf("%d calls, %d served, want %d each", len(calls), len(served), n*depth)
	}
	byID := map[string]harness.Span{}
	for _, s := range spans {
		byID[s.SpanID] = s
	}
	children := map[string]int{}
	for _, s := range served {
		p := byID[s.ParentSpanID]
		if !isRPC("client")(p) || p.TraceID != s.TraceID {
			t.Fatalf("served, but no child of a call: %s of %s", s, p)
		}
		if children[s.ParentSpanID]++; children[s.ParentSpanID] > 1 {
			t.Fatalf("a call with two servers: %s", p)
		}
	}
	top := 0
	for _, s := range calls {
		p, ok := byID[s.ParentSpanID]
		switch {
		case !ok || p.Kind != "server" || p.Start.After(s.Start):
			t.Fatalf("a call without its request: %s", s)
		case p.Attr("url.path") == "/call":
			top++
		default:
			if children[s.ParentSpanID]++; children[s.ParentSpanID] > 1 {
				t.Fatalf("two calls of one handler, which made one: %s", p)
			}
		}
	}
	if top != n {
		t.Fatalf("%d chains begin at the request, want %d", top, n)
	}
}

// TestGRPCInFlight: 200 at a time, every one its own.
func TestGRPCInFlight(t *testing.T) {
	needs(t)
	src := harness.Build{Dir: grpcTarget}.Path(t)
	tg := harness.StartTarget(t, src)
	peer := harness.StartTarget(t, copyExe(t, src, "peer"))
	agent := harness.Trace(t, tg, peer)
	for _, method := range []string{"Place", "Chat"} {
		for _, addr := range []string{peer.GRPC, peer.Workers} {
			const n = 200
			mark := agent.Mark()
			rpc(t, tg, addr, method, "n", strconv.Itoa(n), "style", "fanout", "cmd", "sleep=20ms")
			checkChain(t, agent.Settle(mark, 2*n+1, tg), n, 1)
		}
	}
	if lost := harness.Lost(agent.Metrics()); lost != 0 {
		t.Errorf("%v records lost", lost)
	}
}

// TestGRPCTraceparent: metadata of the caller is honoured when it is valid, and so is
// its decision not to sample.
func TestGRPCTraceparent(t *testing.T) {
	needs(t)
	src := harness.Build{Dir: grpcTarget}.Path(t)
	caller := harness.StartTarget(t, copyExe(t, src, "caller")) // not watched
	tg := harness.StartTarget(t, src)
	agent := harness.Trace(t, tg)
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for name, c := range map[string]struct {
		md     string
		parent bool
	}{
		"valid":     {"00-" + trace + "-" + span + "-01", true},
		"malformed": {"00-" + strings.ToUpper(trace) + "-" + span + "-01", false},
		"zero":      {"00-00000000000000000000000000000000-" + span + "-01", false},
	} {
		t.Run(name, func(t *testing.T) {
			mark := agent.Mark()
			rpc(t, caller, tg.GRPC, "Place", "md", c.md, "ts", "vendor=1")
			spans := agent.Settle(mark, 1, tg)
			if len(spans) != 1 {
				t.Fatalf("%v, want one span", spans)
			}
			s := spans[0]
			if got := s.TraceID == trace && s.ParentSpanID == span && s.TraceState == "vendor=1"; got != c.parent {
				t.Errorf("parent honoured: %v, want %v: %+v", got, c.parent, s)
			}
			if !c.parent && (s.ParentSpanID != "" || s.TraceID == trace) {
				t.Errorf("a parent out of nothing: %s", s)
			}
		})
	}
	t.Run("not sampled", func(t *testing.T) {
		mark := agent.Mark()
		// The handler's own call, and what serves it, belong to the same trace.
		rpc(t, caller, tg.GRPC, "Place", "md", "00-"+trace+"-"+span+"-00", "cmd", "next="+tg.GRPC)
		if spans := agent.Settle(mark, 0, tg); len(spans) != 0 {
			t.Errorf("recorded although the caller does not sample: %v", spans)
		}
	})
}

// TestGRPCUnwind: a panic that nobody recovers and runtime.Goexit still end the span.
func TestGRPCUnwind(t *testing.T) {
	needs(t)
	src := harness.Build{Dir: grpcTarget}.Path(t)
	caller := harness.StartTarget(t, copyExe(t, src, "caller"))
	tg := harness.StartTarget(t, src)
	agent := harness.Trace(t, tg)
	mark := agent.Mark()
	rpc(t, caller, tg.GRPC, "Place", "cmd", "goexit=1", "timeout", "100ms")
	s := agent.WaitSpans(mark, 1, isRPC("server"))[0]
	if s.Attr("error.type") != "runtime.Goexit" || s.Status != "error" {
		t.Errorf("Goexit: %s", s)
	}
	mark = agent.Mark()
	rpc(t, caller, tg.GRPC, "Place", "cmd", "crash=boom")
	s = agent.WaitSpans(mark, 1, isRPC("server"))[0]
	if s.Attr("error.type") != "string" || s.Status != "error" || s.StatusText != "handler panicked" {
		t.Errorf("crash: %s", s)
	}
	checkException(t, s, &exception{"string", "boom"})
	if s.Res("service.name") == "" {
		t.Errorf("crash: nobody's span: %s", s)
	}
}
