package nethttp

import (
	"slices"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/httpattr"
)

func TestHeaderRules(t *testing.T) {
	hdrs, err := wantedHeaders([]string{"x-correlation-id", "X-A-Name-Of-More-Than-24-Bytes"})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := httpattr.HeaderRules(hdrs)
	if err != nil {
		t.Fatal(err)
	}
	if r := rules[len("X-Correlation-Id")][0]; r.Wanted != 1 || r.Slot != uint32(bpfNhStrS_CAPTURE0) {
		t.Errorf("rule of X-Correlation-Id: %+v", r)
	}
	for name, capture := range map[string][]string{
		"too many":               {"A1", "A2", "A3", "A4", "A5", "A6", "A7"},
		"empty":                  {""},
		"too many of one length": {"Xx-Agent-1", "Xx-Agent-2", "Xx-Agent-3", "Xx-Agent-4"},
	} {
		hdrs, err := wantedHeaders(capture)
		if err == nil {
			_, err = httpattr.HeaderRules(hdrs)
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAnswerHeaders(t *testing.T) {
	hdrs, err := wantedHeaders([]string{"X-Request-ID"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := answerHeaders([]string{"x-fee", "x-request-id"}, hdrs)
	want := []httpattr.Wanted{{Name: "X-Fee", Slot: uint32(bpfNhStrS_ANSWER0)}, {Name: "X-Request-Id", Slot: uint32(bpfNhStrS_CAPTURE0)}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v: a name that is looked for in both has one rule", got, err, want)
	}
	for _, names := range [][]string{{""}, {"a", "b", "c", "d", "e"}} {
		if _, err := answerHeaders(names, hdrs); err == nil {
			t.Errorf("%q: no error", names)
		}
	}
}
