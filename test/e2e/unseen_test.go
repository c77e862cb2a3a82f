package e2e

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestUnseen: rules that look at what cannot be seen of an operation say so and count it.
func TestUnseen(t *testing.T) {
	h2, a, url := ruled(t, bodyRules, harness.Build{Dir: httpmatrix})
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	defer c.CloseIdleConnections()
	resp, err := c.Post("https://"+h2.HTTPS+"/echo", "application/json", strings.NewReader(`{"quantity":1}`))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	const unseen = "tracer_agent_metric_rule_unseen_total "
	awaitCounts(t, url, map[string]int{unseen + `probe="nethttp"`: 3, unseen + `what="request_body"`: 1})
	a.WaitLog("rules of metrics look at what is not seen", "probe=nethttp", "what=request_body")
}
