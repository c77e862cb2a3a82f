package kernels

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/testkernel"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// sdkService is a program that traces itself with the OpenTelemetry SDK.
type sdkService struct {
	*harness.Target
	sink *harness.Receiver
}

func startSDK(t *testing.T, path string, env ...string) *sdkService {
	t.Helper()
	s := &sdkService{sink: harness.StartReceiver(t, false, false)}
	s.Target = harness.StartTargetEnv(t, append(env, "OTEL_EXPORTER_OTLP_ENDPOINT="+s.sink.URL()), path)
	return s
}

// call is the URL at which a service calls inner.
func (s *sdkService) call(inner string) string {
	return s.URL("/call?" + url.Values{"url": {inner}}.Encode())
}

// span waits for the SDK's span of a kind in a trace.
func (s *sdkService) span(t *testing.T, trace, kind string) harness.Span {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		for _, sp := range s.sink.Spans() {
			if sp.TraceID == trace && sp.Kind == kind {
				return sp
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s span of the SDK in trace %s: %v", kind, trace, s.sink.Spans())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// agentSpan is the agent's span of a kind in a process, of those since the mark.
func agentSpan(t *testing.T, agent *harness.Agent, mark int, tg *harness.Target, kind string) harness.Span {
	t.Helper()
	got := agent.WaitSpans(mark, 1, func(s harness.Span) bool {
		return s.Kind == kind && s.Res("process.pid") == strconv.Itoa(tg.PID) && !strings.Contains(s.Attr("url.path"), "/fence/")
	})
	if len(got) != 1 {
		t.Fatalf("%d %s spans of process %d, want 1: %v", len(got), kind, tg.PID, got)
	}
	return got[0]
}

// childOf checks that one span continues another's trace.
func childOf(t *testing.T, what string, s, parent harness.Span) {
	t.Helper()
	if s.TraceID != parent.TraceID || s.ParentSpanID != parent.SpanID {
		t.Errorf("%s: %s\nis no child of %s", what, s, parent)
	}
}

// TestSDK: services that trace themselves with the OpenTelemetry SDK and services that
// the agent traces continue each other's traces; where both are in one process, the
// SDK's header goes out and the agent's span takes its place below the SDK's.
func TestSDK(t *testing.T) {
	needs(t)
	memory := memoryMode(t)
	all := targets(t)
	traced := exeCopy(t, all[len(all)-1].path)
	sdk := built(t, "testdata/targets/otelchain")
	both := exeCopy(t, sdk)
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte("select: {exporting: true}\n"), 0o600); err != nil { // else an SDK is left alone
		t.Fatal(err)
	}
	agent := harness.StartAgent(t, "--config", config, "--exe", traced, "--exe", both, "--propagation", "memory")
	a, c := harness.StartTarget(t, traced), harness.StartTarget(t, traced)
	agent.WaitInstrumented(a.PID)
	agent.WaitInstrumented(c.PID)

	t.Run("agent calls SDK calls agent", func(t *testing.T) {
		report(t, "")
		testkernel.Require(t, testkernel.WriteUser)
		s := startSDK(t, sdk)
		mark := agent.Mark()
		a.Call(t, s.call(c.URL("/plain")))
		agent.Settle(mark, 3, a)
		out := agentSpan(t, agent, mark, a, "client")
		childOf(t, "the call", out, agentSpan(t, agent, mark, a, "server"))
		in, on := s.span(t, out.TraceID, "server"), s.span(t, out.TraceID, "client")
		childOf(t, "the SDK's server span", in, out)
		childOf(t, "the SDK's client span", on, in)
		childOf(t, "the last server's span", agentSpan(t, agent, mark, c, "server"), on)
	})
	t.Run("SDK calls agent calls SDK", func(t *testing.T) {
		report(t, "")
		testkernel.Require(t, testkernel.WriteUser)
		first, last := startSDK(t, sdk), startSDK(t, sdk)
		mark := agent.Mark()
		get(t, first.call(c.CallURL(last.URL("/plain"))), nil)
		agent.Settle(mark, 2, a)
		served := agentSpan(t, agent, mark, c, "server")
		childOf(t, "the agent's server span", served, first.span(t, served.TraceID, "client"))
		out := agentSpan(t, agent, mark, c, "client")
		childOf(t, "the agent's client span", out, served)
		childOf(t, "the last SDK's span", last.span(t, served.TraceID, "server"), out)
	})
	t.Run("both in one process", func(t *testing.T) {
		report(t, "")
		s := startSDK(t, both)
		agent.WaitInstrumented(s.PID)
		r := startReceiver(t, protos[0])
		for _, to := range []string{c.URL("/plain"), r.URL + "/x"} {
			mark := agent.Mark()
			get(t, s.call(to), nil)
			// The exporter's own requests are calls as well.
			called := func(sp harness.Span) bool {
				return sp.Kind == "client" && sp.Res("process.pid") == strconv.Itoa(s.PID) && strings.HasPrefix(to, "http://"+sp.Attr("server.address")+":"+sp.Attr("server.port"))
			}
			out := agent.WaitSpans(mark, 1, called)[0]
			childOf(t, "the agent's client span", out, s.span(t, out.TraceID, "client"))
			if to != r.URL+"/x" {
				childOf(t, "the server's span", agentSpan(t, agent, mark, c, "server"), s.span(t, out.TraceID, "client"))
				continue
			}
			want := fmt.Sprintf("00-%s-%s-01", out.TraceID, out.ParentSpanID)
			if got := r.take()[0].Values("traceparent"); len(got) != 1 || got[0] != want {
				t.Errorf("traceparent %q, want the SDK's alone, %s", got, want)
			}
		}
	})
	t.Run("a caller's decision", func(t *testing.T) {
		report(t, "")
		testDecision(t, agent, a, c, sdk, memory)
	})
}

// testDecision: what the first service is told, to record or not, holds to the end.
func testDecision(t *testing.T, agent *harness.Agent, a, c *harness.Target, sdk string, memory bool) {
	s, r := startSDK(t, sdk), startReceiver(t, protos[0])
	for _, d := range []struct {
		trace, flags string
		recorded     bool
	}{
		{"0123456789abcdef0123456789abcde0", "00", false},
		{"0123456789abcdef0123456789abcde1", "01", true},
		{"0123456789abcdef0123456789abcde2", "02", false}, // a random id, not recorded
		{"0123456789abcdef0123456789abcde3", "03", true},
		{"0123456789abcdef0123456789abcde4", "05", true}, // a bit that no standard has yet
	} {
		mark := agent.Mark()
		header := http.Header{"Traceparent": {"00-" + d.trace + "-00f067aa0ba902b7-" + d.flags}}
		get(t, a.CallURL(r.URL+"/x"), header)
		get(t, a.CallURL(s.call(c.URL("/plain"))), header)
		agent.Settle(mark, 0, a)
		spans := harness.Of(agent.Since(mark), func(sp harness.Span) bool { return sp.TraceID == d.trace })
		n := 0
		for _, sp := range s.sink.Spans() {
			if sp.TraceID == d.trace {
				n++
			}
		}
		if d.recorded == (len(spans) == 0) || memory && d.recorded != (n == 2) {
			t.Errorf("flags %s: %d spans of the agent, %d of the SDK", d.flags, len(spans), n)
		}
		got := r.take()[0].Values("traceparent")
		if !memory {
			continue
		}
		flags := map[string]string{"05": "01"}[d.flags] // what is not defined is not passed on
		if flags == "" {
			flags = d.flags
		}
		if len(got) != 1 || !strings.HasPrefix(got[0], "00-"+d.trace+"-") || !strings.HasSuffix(got[0], "-"+flags) || strings.Contains(got[0], "00f067aa0ba902b7") {
			t.Errorf("flags %s: the next service is told %q, want the trace with a span of its own and flags %s", d.flags, got, flags)
		}
	}
}

// get calls a URL with headers and wants 200.
func get(t *testing.T, url string, header http.Header) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	resp, err := harness.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", url, resp.Status)
	}
}
