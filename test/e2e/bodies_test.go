package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// bodyRules sum up quantities of requests and responses; TRACER_TEST_GO builds the target
// with another release.
const bodyRules = `
metrics:
  rules:
    - name: order.volume
      kind: counter
      when: '"quantity" in request_body'
      value: request_body["quantity"]
      attributes: {symbol: 'request_body["symbol"]', side: kind, route: 'attributes["http.route"]'}
    - name: nested.volume
      kind: counter
      when: '"orders.1.quantity" in request_body'
      value: request_body["orders.1.quantity"]
    - name: answer.volume
      kind: counter
      when: '"quantity" in response_body'
      value: response_body["quantity"]
      attributes: {side: kind}
    - name: amount.said
      kind: counter
      when: '"http.response.header.x-amount" in attributes'
      value: float(attributes["http.response.header.x-amount"][0])
      attributes: {side: kind}
`

// bodyTarget starts a target that takes JSON, and an agent with rules, on it; nothing is
// sampled.
func bodyTarget(t *testing.T, rules string) (*harness.Target, *harness.Agent, string) {
	t.Helper()
	return ruled(t, rules, harness.Build{Dir: "testdata/targets/bodies", Go: os.Getenv("TRACER_TEST_GO")})
}

// ruled starts a target, and an agent with rules, on it.
func ruled(t *testing.T, rules string, b harness.Build) (*harness.Target, *harness.Agent, string) {
	t.Helper()
	needs(t)
	tg := harness.StartTarget(t, b.Path(t))
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	a := harness.StartAgentEnv(t, []string{
		"OTEL_TRACES_EXPORTER=json", "OTEL_METRICS_EXPORTER=prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT=0",
	}, "--pid", strconv.Itoa(tg.PID), "--config", file, "--log-level", "debug", "--max-overhead", "0")
	a.WaitInstrumented(tg.PID)
	return tg, a, prometheusURL(t, a)
}

// wire is a connection on which a test says itself what is sent together.
type wire struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func dialWire(t *testing.T, addr string) *wire {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return &wire{t, c, bufio.NewReader(c)}
}

// post sends a head and parts of a body, each alone, and reads the answer.
func (w *wire) post(path, head string, parts ...string) {
	w.t.Helper()
	body := strings.Join(parts, "")
	if !strings.Contains(head, "Transfer-Encoding") {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	first := "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + head + "\r\n"
	if len(parts) > 0 {
		first += parts[0]
		parts = parts[1:]
	}
	fmt.Fprint(w.c, first)
	for _, part := range parts {
		w.idle()
		fmt.Fprint(w.c, part)
	}
	w.answer(path)
}

func (w *wire) get(path string) {
	w.t.Helper()
	fmt.Fprint(w.c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	w.answer(path)
}

func (w *wire) answer(path string) {
	w.t.Helper()
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		w.t.Fatalf("%s: %v", path, err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

// idle waits until the other end has read what was sent.
func (w *wire) idle() {
	w.t.Helper()
	_, port, _ := net.SplitHostPort(w.c.RemoteAddr().String())
	local := w.c.LocalAddr().(*net.TCPAddr).Port
	n, _ := strconv.Atoi(port)
	want := fmt.Sprintf(":%04X 0100007F:%04X", n, local)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		table, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			w.t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			// local, remote, state, queues: sent and not read
			if f := strings.Fields(line); strings.Contains(line, want) && len(f) > 4 && strings.HasSuffix(f[4], ":00000000") {
				return
			}
		}
	}
	w.t.Fatal("what was sent is not read")
}

const isJSON = "Content-Type: application/json\r\n"

// TestBodies: fields of JSON bodies become metrics: of what was in the program's buffers,
// and of nothing else.
func TestBodies(t *testing.T) {
	tg, a, url := bodyTarget(t, bodyRules)
	w := dialWire(t, tg.HTTP)
	order := func(symbol string, quantity int) string {
		return fmt.Sprintf(`{"symbol":%q,"password":%q,"quantity":%d,"orders":[{},{"quantity":%d}]}`, symbol, canary, quantity, quantity)
	}
	// In one piece, in two, in three; read by a decoder, in whole, past the buffer, not at all.
	w.post("/trades", isJSON, order("ONE", 1))
	w.post("/trades", isJSON, "", order("TWO", 2))
	o := order("HALF", 4)
	w.post("/trades", "Content-Type: Application/JSON; charset=utf-8\r\n", o[:30], o[30:])
	w.post("/all", isJSON, order("WHOLE", 8))
	w.post("/all", isJSON, o[:10], o[10:])
	w.post("/ignore", isJSON, order("IGNORED", 16))
	w.post("/copy", isJSON, order("COPIED", 32))
	w.post("/trades", isJSON+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(o), o))
	// Larger than what is looked at: what comes before the cut counts.
	w.post("/all", isJSON, `{"symbol":"LONG","quantity":64,"x":"`+strings.Repeat("x", 9000)+`"}`)
	// Not JSON, said or not, and what cannot be had: in three pieces.
	w.post("/all", "Content-Type: text/plain\r\n", order("TEXT", 1000))
	w.post("/all", "Content-Type: application/json5\r\n", order("JSON5", 1000))
	w.post("/all", "", order("UNSAID", 1000))
	w.post("/all", isJSON, "symbol=X&quantity=1000")
	w.post("/all", isJSON, "", `{"symbol":"X",`, `"quantity":1000}`)
	// Hostile: deep, huge numbers, no UTF-8.
	w.post("/all", isJSON, strings.Repeat(`{"quantity":`, 300))
	w.post("/all", isJSON, `{"quantity":1e999,"symbol":"HUGE"}`)
	w.post("/all", isJSON, "{\"symbol\":\"\xff\xfe\",\"quantity\":128}")
	awaitCounts(t, url, map[string]int{
		`order_volume_total symbol="ONE"`: 1, `order_volume_total symbol="TWO"`: 2, `order_volume_total symbol="HALF"`: 12,
		`order_volume_total symbol="WHOLE"`: 8, `order_volume_total symbol="IGNORED"`: 16, `order_volume_total symbol="COPIED"`: 32,
		`order_volume_total symbol="LONG"`: 64, `order_volume_total side="server"`: 1 + 2 + 12 + 8 + 16 + 32 + 64 + 128,
		"nested_volume_total": 1 + 2 + 12 + 8 + 16 + 32,
		// answered by /trades and, each 1, by /all
		"answer_volume_total": 1 + 2 + 4 + 4 + 11,
		// what is nested too deep is read no further
		`tracer_agent_http_body_misses_total reason="incomplete"`: 3, `tracer_agent_http_body_misses_total reason="not_json"`: 1,
	})
	spans := fmt.Sprintf("%+v", a.Since(0))
	for where, text := range map[string]string{"metrics": harness.Get(t, url), "log": a.Stderr(), "spans": spans} {
		if strings.Contains(text, canary) {
			t.Errorf("a field that nobody asked for is in the %s", where)
		}
	}
	if strings.Contains(spans, "WHOLE") || strings.Contains(a.Stderr(), "WHOLE") {
		t.Error("a field of a rule is in the spans or in the log")
	}
}

// TestBodyAnswers: of a response only what is surely its own is looked at, and of a call
// both bodies.
func TestBodyAnswers(t *testing.T) {
	tg, _, url := bodyTarget(t, bodyRules)
	w := dialWire(t, tg.HTTP)
	for i, q := range []string{
		"quantity=1", "quantity=2&n=1500", // in one piece, with a length
		"quantity=4&n=2500",                            // chunked, in the buffer as a whole
		"quantity=8&as=text", "quantity=16&as=flushed", // not JSON; its head is gone
		"quantity=32&as=declared", "quantity=64&n=9000", // may be in the buffer or not; is not
		"quantity=128",
	} {
		w.post("/answer?"+q+"&i="+strconv.Itoa(i), "")
	}
	fmt.Fprint(w.c, "HEAD /answer?quantity=256 HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := http.ReadResponse(w.r, &http.Request{Method: http.MethodHead}); err != nil {
		t.Fatal(err)
	}
	w.post("/answer?quantity=512", "")
	awaitCounts(t, url, map[string]int{
		`answer_volume_total side="server"`: 1 + 2 + 4 + 128 + 512,
		// A header is had whatever becomes of the body, but in what "text" and "flushed" answer, which has none.
		`amount_said_total side="server"`: 1 + 2 + 4 + 32 + 64 + 128 + 256 + 512,
	})

	for _, as := range []string{"string", "bytes", "buffer"} {
		harness.Get(t, tg.URL("/call?n=3&as="+as+"&url="+tg.URL("/trades")))
	}
	awaitCounts(t, url, map[string]int{
		`order_volume_total side="client"`: 3 * 3 * 2, `order_volume_total side="server"`: 3 * 3 * 2,
		`answer_volume_total side="client"`: 3 * 3 * 2, `amount_said_total side="client"`: 3 * 3 * 2,
	})
	// Given as another reader: the client's is not looked at, and goes in as many pieces as it
	// likes to the server.
	harness.Get(t, tg.URL("/call?n=3&as=pipe&url="+tg.URL("/trades")))
	awaitCounts(t, url, map[string]int{`answer_volume_total side="client"`: 4 * 3 * 2, `order_volume_total side="client"`: 3 * 3 * 2})

	// The headers of a handler that panics are no answer's.
	w = dialWire(t, tg.HTTP)
	fmt.Fprint(w.c, "GET /answer?quantity=1024&as=panic HTTP/1.1\r\nHost: x\r\n\r\n")
	if b, err := io.ReadAll(w.r); err != nil || len(b) > 0 {
		t.Fatalf("a handler that panics has answered %q, %v", b, err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Amount", strconv.Itoa(r.ProtoMajor))
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	harness.Get(t, tg.URL("/call?n=3&as=h2&url="+srv.URL))
	const h2 = 3 * 2
	awaitCounts(t, url, map[string]int{
		`amount_said_total side="client"`: 4*3*2 + h2, `amount_said_total side="server"`: 1 + 2 + 4 + 32 + 64 + 128 + 256 + 512 + 4*3*2,
	})
}

// TestPipelinedBodies: of requests that a client sends all at once, each has its own fields,
// or none where its body was not there as a whole.
func TestPipelinedBodies(t *testing.T) {
	tg, _, url := bodyTarget(t, bodyRules)
	w := dialWire(t, tg.HTTP)
	send := func(first, n, pad int) {
		t.Helper()
		var all strings.Builder
		for i := range n {
			body := fmt.Sprintf(`{"x":%q,"symbol":"P%03d","quantity":%d}`, strings.Repeat("x", pad), first+i, first+i)
			fmt.Fprintf(&all, "POST /trades HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s", isJSON, len(body), body)
		}
		fmt.Fprint(w.c, all.String())
		for range n {
			w.answer("/trades")
		}
	}
	send(1, 20, 0) // fits into the server's buffer
	want := map[string]int{}
	for i := 1; i <= 20; i++ {
		want[fmt.Sprintf(`order_volume_total symbol="P%03d"`, i)] = i
	}
	awaitCounts(t, url, want)
	send(100, 60, 500) // does not: bodies lie across its end
	var seen, missed int
	for deadline := time.Now().Add(20 * time.Second); seen+missed < 60 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		missed = sum(scrape(t, url, "tracer_agent_http_body_misses_total"), `reason="incomplete"`)
		lines := scrape(t, url, "order_volume_total")
		seen = 0
		for i := 100; i < 160; i++ {
			switch q := sum(lines, fmt.Sprintf(`symbol="P%03d"`, i)); q {
			case i:
				seen++
			case 0:
			default:
				t.Fatalf("request %d counts %d", i, q)
			}
		}
	}
	if seen+missed != 60 || seen < 30 || missed == 0 {
		t.Errorf("of 60 requests %d have their fields, %d are counted as incomplete", seen, missed)
	}
}

// TestBodyHits: to look at bodies costs no hit, but one for a read of HTTP/2, and without a rule
// none is looked at.
func TestBodyHits(t *testing.T) {
	needs(t)
	harness.CountRuns(t)
	for name, rules := range map[string]string{"with rules": bodyRules, "without": "metrics: {}\n"} {
		t.Run(name, func(t *testing.T) {
			tg, a, _ := bodyTarget(t, rules)
			w := dialWire(t, tg.HTTP)
			post := func(n int) {
				for range n {
					w.post("/trades", isJSON, `{"symbol":"X","quantity":1}`)
				}
			}
			post(200)
			a.Settle(0, 200, tg)
			const n = 500
			// HTTP/2: one more for each Read of the handler's that gets something
			each := 2
			if name == "with rules" {
				each = 3
			}
			c := h2Client(t)
			h2 := func(n int) {
				for range n {
					h2Post(t, c, "https://"+tg.HTTPS+"/trades", "application/json", `{"symbol":"X","quantity":1}`)
				}
			}
			h2(200)
			a.Settle(0, 400, tg)
			start := a.Runs()
			h2(n)
			if got := total(hitsSince(a, start, each*n)); got != each*n {
				t.Errorf("%d hits for %d requests of HTTP/2, want %d", got, n, each*n)
			}
			a.Settle(0, 400+n, tg)
			before, read := a.Runs(), a.Metrics()
			mark := a.Mark()
			post(n)
			if got := total(hitsSince(a, before, 2*n)); got != 2*n {
				t.Errorf("%d hits for %d requests, want %d", got, n, 2*n)
			}
			a.Await(mark, n)
			// A record an operation, and with rules one for each of its bodies.
			want := n
			if name == "with rules" {
				want = 3 * n
			}
			records := 0
			for k, v := range a.Metrics() {
				if strings.HasPrefix(k, "tracer_agent_records_total") && strings.Contains(k, "nethttp") {
					records += int(v - read[k])
				}
			}
			if records != want {
				t.Errorf("%d records of %d requests, want %d", records, n, want)
			}
		})
	}
}
