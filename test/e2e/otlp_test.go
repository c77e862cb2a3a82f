package e2e

import (
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// exporting starts httpmatrix and an agent with these variables on it.
func exporting(t *testing.T, env ...string) (*harness.Target, *harness.Agent) {
	t.Helper()
	needs(t)
	tg := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	agent := harness.StartAgentEnv(t, env, "--pid", strconv.Itoa(tg.PID))
	agent.WaitInstrumented(tg.PID)
	return tg, agent
}

// TestOTLP: the same spans over every transport, with the headers, the
// compression and the certificate that the standard variables ask for.
func TestOTLP(t *testing.T) {
	for _, c := range []struct {
		name         string
		grpc, tls    bool
		gzip         bool
		protocol     string
		headerName   string
		encodedValue string
	}{
		{"gRPC", true, false, false, "grpc", "api-key", "k%20ey"},
		{"gRPC, TLS, gzip", true, true, true, "grpc", "api-key", "k%20ey"},
		{"HTTP", false, false, false, "http/protobuf", "Api-Key", "k%20ey"},
		{"HTTP, TLS, gzip", false, true, true, "http/protobuf", "Api-Key", "k%20ey"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := harness.StartReceiver(t, c.grpc, c.tls)
			env := []string{
				"OTEL_EXPORTER_OTLP_ENDPOINT=" + r.URL(), "OTEL_EXPORTER_OTLP_PROTOCOL=" + c.protocol,
				"OTEL_EXPORTER_OTLP_HEADERS=api-key=" + c.encodedValue, "OTEL_BSP_SCHEDULE_DELAY=200",
			}
			if c.gzip {
				env = append(env, "OTEL_EXPORTER_OTLP_COMPRESSION=gzip")
			} else {
				env = append(env, "OTEL_EXPORTER_OTLP_COMPRESSION=none")
			}
			if c.tls {
				env = append(env, "OTEL_EXPORTER_OTLP_CERTIFICATE="+r.CA)
			}
			tg, agent := exporting(t, env...)
			tg.Call(t, tg.URL("/orders/3"), "style", "go")
			if _, err := harness.TryGet(tg.URL("/panic?with=error")); err == nil {
				t.Fatal("the panic did not end the connection")
			}
			spans := r.WaitSpans(t, 4)
			agent.Stop()
			if len(spans) != 4 {
				t.Fatalf("%d spans, want 4: %v", len(spans), spans)
			}
			outer := harness.Of(spans, func(s harness.Span) bool { return s.Attr("url.path") == "/call" })[0]
			call := harness.Of(spans, harness.Kind("client"))[0]
			checkChild(t, call, outer)
			panicked := harness.Of(spans, func(s harness.Span) bool { return s.Attr("url.path") == "/panic" })[0]
			checkException(t, panicked, &exception{"*errors.errorString", "no such order"})
			if _, isNumber := call.Attributes["http.response.status_code"].(float64); !isNumber {
				t.Errorf("status code has type %T, want an integer", call.Attributes["http.response.status_code"])
			}
			if outer.Res("service.name") != "httpmatrix" || outer.Res("process.pid") != strconv.Itoa(tg.PID) {
				t.Errorf("resource %v", outer.Resource)
			}
			if outer.Flags&1 != 1 {
				t.Errorf("flags %#x, want the sampled bit", outer.Flags)
			}
			if got := r.Header(c.headerName); got != "k ey" {
				t.Errorf("header %s is %q, want %q", c.headerName, got, "k ey")
			}
			// gRPC hides the encoding from the service.
			if !c.grpc && r.Gzipped() != c.gzip {
				t.Errorf("compressed: %v, want %v", r.Gzipped(), c.gzip)
			}
			for _, s := range r.Scopes() {
				if !strings.Contains(s, "nethttp") {
					t.Errorf("instrumentation scope %q does not name the probe", s)
				}
			}
		})
	}
}

// TestOTLPRetry: a receiver that is busy for a while gets everything, once.
func TestOTLPRetry(t *testing.T) {
	r := harness.StartReceiver(t, true, false)
	r.Refuse(2)
	tg, agent := exporting(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+r.URL(), "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_BSP_SCHEDULE_DELAY=100")
	const n = 50
	keepAlive(t, tg, "/plain", n)
	r.WaitSpans(t, n)
	if lost := harness.Lost(agent.Metrics()); lost != 0 {
		t.Errorf("%v spans are counted as lost", lost)
	}
	agent.Stop()
	if got := len(r.Spans()); got != n {
		t.Errorf("%d spans, want %d", got, n)
	}
}

// TestOTLPDown: nobody receives: the target does not notice, drops are counted,
// memory stays bounded, and Ctrl-C still ends the agent in time.
func TestOTLPDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // accepts, and never answers
	tg, agent := exporting(t, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+l.Addr().String(),
		"OTEL_BSP_MAX_QUEUE_SIZE=500", "OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_EXPORTER_OTLP_TIMEOUT=500")
	before := agent.Metrics()["tracer_agent_resident_memory_bytes"]
	const n = 20000
	keepAlive(t, tg, "/plain", n)
	after := agent.Metrics()
	if lost := harness.Lost(after); lost == 0 {
		t.Errorf("of %d spans none is counted as lost: %v", n, after)
	}
	if grown := after["tracer_agent_resident_memory_bytes"] - before; grown > 32<<20 {
		t.Errorf("memory grew by %.0f MiB", grown/(1<<20))
	}
	if took := agent.Stop(); took > 2500*time.Millisecond {
		t.Errorf("the agent took %v to end", took)
	}
}

// TestSampling: the standard samplers, decided in the kernel. Requests without a
// traceparent, with a sampled one and with an unsampled one.
func TestSampling(t *testing.T) {
	const n = 1000
	for _, c := range []struct {
		sampler, arg                 string
		root, sampled, unsampledCall float64 // expected share of n
	}{
		{"always_on", "", 1, 1, 1},
		{"always_off", "", 0, 0, 0},
		{"parentbased_always_on", "", 1, 1, 0},
		{"parentbased_always_off", "", 0, 1, 0},
		{"traceidratio", "0.25", 0.25, 0.25, 0.25},
		{"parentbased_traceidratio", "0.25", 0.25, 1, 0},
	} {
		t.Run(c.sampler, func(t *testing.T) {
			tg, agent := exporting(t, "OTEL_TRACES_EXPORTER=json", "OTEL_TRACES_SAMPLER="+c.sampler, "OTEL_TRACES_SAMPLER_ARG="+c.arg)
			client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for i := range n {
				for kind, flags := range map[string]string{"root": "", "sampled": "-01", "unsampled": "-00"} {
					req, err := http.NewRequest(http.MethodGet, tg.URL("/plain?kind="+kind), nil)
					if err != nil {
						t.Fatal(err)
					}
					if flags != "" {
						id := strconv.FormatUint(0x9e3779b97f4a7c15*uint64(i+1), 16)
						id = strings.Repeat("0", 16-len(id)) + id
						req.Header.Set("traceparent", "00-"+id+id+"-"+spanID+flags)
					}
					resp, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
				}
			}
			agent.Stop() // flushes
			got := map[string]int{}
			for _, s := range agent.Since(0) {
				got[query(s.Attr("url.query"), "kind")]++
			}
			for kind, share := range map[string]float64{"root": c.root, "sampled": c.sampled, "unsampled": c.unsampledCall} {
				// Five standard deviations of a binomial distribution; none at 0 and 1.
				slack := 5 * math.Sqrt(n*share*(1-share))
				if d := math.Abs(float64(got[kind]) - n*share); d > slack {
					t.Errorf("%s: %d spans of %d requests, want %.0f ± %.0f", kind, got[kind], n, n*share, slack)
				}
			}
		})
	}
}

// TestSampledTogether: with a ratio, a request and its calls are recorded
// together or not at all.
func TestSampledTogether(t *testing.T) {
	tg, agent := exporting(t, "OTEL_TRACES_EXPORTER=json", "OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.5")
	peer := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	styles := []string{"inline", "go", "pool", "go4"}
	const n = 80
	for i := range n {
		tg.Call(t, peer.URL("/plain?style="+styles[i%len(styles)]), "style", styles[i%len(styles)])
	}
	agent.Stop()
	spans := agent.Since(0)
	servers := map[string]harness.Span{}
	for _, s := range harness.Of(spans, harness.Kind("server")) {
		servers[s.SpanID] = s
	}
	calls := harness.Of(spans, harness.Kind("client"))
	for _, s := range calls {
		if _, ok := servers[s.ParentSpanID]; !ok {
			t.Errorf("a call whose request was not recorded: %s", s)
		}
	}
	if len(calls) != len(servers) || len(servers) == 0 || len(servers) == n {
		t.Errorf("%d of %d requests and %d calls are recorded", len(servers), n, len(calls))
	}
}
