package fasthttp

import (
	"slices"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/httpattr"
)

func TestHeaders(t *testing.T) {
	captured, a, err := headers(Config{CaptureHeaders: []string{"X-Request-ID"}, AnswerHeaders: []string{"x-fee", "x-request-id"}})
	if err != nil {
		t.Fatal(err)
	}
	request := httpattr.Wanted{Name: "X-Request-Id"}
	fee := httpattr.Wanted{Name: "X-Fee", Slot: uint32(maxCapture)}
	if want := []httpattr.Wanted{request}; !slices.Equal(captured, want) {
		t.Errorf("of requests %v, want %v", captured, want)
	}
	if want := []httpattr.Wanted{fee, request}; !slices.Equal(a.all, want) {
		t.Errorf("of responses %v, want %v: a name that is looked for in both has one rule", a.all, want)
	}
	if want := []httpattr.Wanted{fee}; !slices.Equal(a.own, want) {
		t.Errorf("only of responses %v, want %v", a.own, want)
	}
	if want := [maxAnswers]uint8{uint8(maxCapture) + 1, 1}; a.slots != want {
		t.Errorf("slots %v, want %v", a.slots, want)
	}
	for name, cfg := range map[string]Config{
		"no name":               {CaptureHeaders: []string{""}},
		"no name of a response": {AnswerHeaders: []string{""}},
		"too many":              {CaptureHeaders: make([]string, maxCapture+1)},
		"too many of responses": {AnswerHeaders: []string{"a", "b", "c", "d", "e"}},
		"too many of a length":  {CaptureHeaders: []string{"X-A", "X-B", "X-C"}, AnswerHeaders: []string{"X-D", "X-E"}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestCaptured: the headers of both directions become attributes; a secret of a response is
// hidden.
func TestCaptured(t *testing.T) {
	e := &bpfFhEvent{Status: 200}
	put(e, bpfFhStrFS_CAPTURE0, "r-1")
	put(e, bpfFhStrFS_ANSWER0, "https://u:canary@h.example/")
	put(e, bpfFhStrFS_ANSWER0+1, "r-2")
	ops, err := decodeWith(all(), raw(e))
	if err != nil || len(ops) != 1 {
		t.Fatalf("%d operations, %v", len(ops), err)
	}
	got := map[string]string{}
	for _, kv := range ops[0].Attributes {
		if v := kv.Value.AsStringSlice(); len(v) == 1 {
			got[string(kv.Key)] = v[0]
		}
	}
	for k, want := range map[string]string{
		"http.request.header.x-request-id": "r-1", "http.response.header.x-request-id": "r-2", "http.response.header.x-fee": "REDACTED",
	} {
		if got[k] != want {
			t.Errorf("%s is %q, want %q", k, got[k], want)
		}
	}
}
