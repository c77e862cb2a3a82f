package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// h2Client speaks HTTP/2 to a target's HTTPS.
func h2Client(t *testing.T) *http.Client {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// h2Post sends a body, in one DATA frame and with its length, or, of several parts, each in a
// frame of its own and without.
func h2Post(t *testing.T, c *http.Client, url, media string, parts ...string) {
	t.Helper()
	var body io.Reader = strings.NewReader(parts[0])
	if len(parts) > 1 {
		r, w := io.Pipe()
		body = r
		go func() {
			for _, p := range parts {
				_, _ = io.WriteString(w, p)
			}
			w.Close()
		}()
	}
	resp, err := c.Post(url, media, body)
	if err != nil {
		if strings.Contains(url, "as=panic") {
			return
		}
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.ProtoMajor != 2 {
		t.Fatalf("%s: %s", url, resp.Proto)
	}
}

// TestH2Bodies: of HTTP/2 servers what the handler reads itself of a request, and what it
// answers when nothing of it is sent before it returns.
func TestH2Bodies(t *testing.T) {
	tg, a, url := bodyTarget(t, bodyRules)
	c := h2Client(t)
	post := func(path, media string, parts ...string) {
		t.Helper()
		h2Post(t, c, "https://"+tg.HTTPS+path, media, parts...)
	}
	order := func(symbol string, quantity int) string {
		return fmt.Sprintf(`{"symbol":%q,"password":%q,"quantity":%d,"orders":[{},{"quantity":%d}]}`, symbol, canary, quantity, quantity)
	}
	const media = "Application/JSON; charset=utf-8"
	post("/trades", media, order("ONE", 1))
	post("/all", media, order("WHOLE", 2))
	o := order("HALF", 4)
	post("/trades", media, o[:30], o[30:])
	post("/copy", media, order("COPIED", 8))
	post("/all", media, `{"symbol":"LONG","quantity":16,"x":"`+strings.Repeat("x", 9000)+`"}`)
	// Not read, read elsewhere, its beginning read elsewhere: none of it.
	post("/ignore", media, order("IGNORED", 1000))
	post("/elsewhere", media, order("ELSE", 1000))
	post("/elsewhere?n=1", media, "x"+order("BOTH", 1000))
	// Not JSON, said or not.
	post("/all", "text/plain", order("TEXT", 1000))
	post("/all", media, "symbol=X&quantity=1000")
	awaitCounts(t, url, map[string]int{
		`order_volume_total symbol="ONE"`: 1, `order_volume_total symbol="HALF"`: 4, `order_volume_total side="server"`: 1 + 2 + 4 + 8 + 16,
		"nested_volume_total": 1 + 2 + 4 + 8, "answer_volume_total": 1 + 4 + 4, "amount_said_total": 1 + 4 + 4,
		`tracer_agent_http_body_misses_total reason="incomplete"`: 4, `tracer_agent_http_body_misses_total reason="not_json"`: 1,
		"tracer_agent_metric_rule_unseen_total": 0,
	})

	for _, q := range []string{
		"quantity=16", "quantity=32&n=2500", "quantity=64&as=declared", "quantity=256&as=flushed", // in the buffer as a whole
		"quantity=128&as=text", "quantity=512&n=9000", "quantity=1024&as=panic",
	} {
		post("/answer?"+q, media, "")
	}
	post("/answer?quantity=2048", media, "")
	awaitCounts(t, url, map[string]int{
		`answer_volume_total side="server"`:                     9 + 16 + 32 + 64 + 256 + 2048,
		`amount_said_total side="server"`:                       9 + 16 + 32 + 64 + 512 + 2048,
		`tracer_agent_http_body_misses_total body="response"`:   1,
		`tracer_agent_metric_rule_unseen_total probe="nethttp"`: 0,
	})

	// A handler that reads the response of a call, over HTTP/2, too, and not its own request.
	// What is not seen is said: the response that a client gets.
	post("/call?n=3&as=h2&url=https://"+tg.HTTPS+"/trades", media, order("OUTER", 1000))
	awaitCounts(t, url, map[string]int{
		`order_volume_total symbol="OUT"`: 2 * 3 * 2, `order_volume_total side="client"`: 3 * 2, `order_volume_total symbol="OUTER"`: 0,
		`answer_volume_total side="server"`: 9 + 16 + 32 + 64 + 256 + 2048 + 3*2, `amount_said_total side="client"`: 3 * 2,
		`tracer_agent_metric_rule_unseen_total what="response_body"`: 3, "tracer_agent_metric_rule_unseen_total": 3,
	})
	a.WaitLog("rules of metrics look at what is not seen", "probe=nethttp", "what=response_body")
	for where, text := range map[string]string{"metrics": harness.Get(t, url), "log": a.Stderr(), "spans": fmt.Sprintf("%+v", a.Since(0))} {
		if strings.Contains(text, canary) {
			t.Errorf("a field that nobody asked for is in the %s", where)
		}
	}
}

// TestXNetH2Bodies: the same of golang.org/x/net, and of requests that its Transport sends.
func TestXNetH2Bodies(t *testing.T) {
	tg, _, url := ruled(t, bodyRules, harness.Build{Dir: "testdata/targets/h2cxnet", Mode: harness.Stripped})
	for range 3 {
		harness.Get(t, tg.URL("/order?url="+tg.URL("/trades")))
	}
	awaitCounts(t, url, map[string]int{
		`order_volume_total side="server"`: 3 * 3, `order_volume_total side="client"`: 3 * 3,
		`answer_volume_total side="server"`: 3 * 3, `amount_said_total side="server"`: 3, `amount_said_total side="client"`: 3,
		`tracer_agent_metric_rule_unseen_total what="response_body"`: 3, "tracer_agent_metric_rule_unseen_total": 3,
	})
}
