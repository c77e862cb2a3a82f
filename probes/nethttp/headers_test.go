package nethttp

import (
	"slices"
	"testing"
)

func TestHeaderRules(t *testing.T) {
	hdrs, err := wantedHeaders([]string{"x-correlation-id", "X-A-Name-Of-More-Than-24-Bytes"})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := headerRules(hdrs)
	if err != nil {
		t.Fatal(err)
	}
	if r := rules[len("X-Correlation-Id")][0]; r.Wanted != 1 || r.Slot != uint32(bpfNhStrS_CAPTURE0) || r.Word != headerWords("X-Correlation-Id") {
		t.Errorf("rule of X-Correlation-Id: %+v", r)
	}
	if rules[0] != ([rulesPerLen]hdrRule{}) {
		t.Errorf("rules for names without a byte: %+v", rules[0])
	}
	if headerWords("X-A-Name-Of-More-Than-24-Bytes") == headerWords("X-A-Name-Of-More-Than-24-Bitez") {
		t.Error("names that end differently look the same")
	}
	for name, capture := range map[string][]string{
		"too many":               {"A1", "A2", "A3", "A4", "A5", "A6", "A7"},
		"empty":                  {""},
		"too many of one length": {"Xx-Agent-1", "Xx-Agent-2", "Xx-Agent-3", "Xx-Agent-4"},
	} {
		hdrs, err := wantedHeaders(capture)
		if err == nil {
			_, err = headerRules(hdrs)
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
	want := []wanted{{"X-Fee", uint32(bpfNhStrS_ANSWER0)}, {"X-Request-Id", uint32(bpfNhStrS_CAPTURE0)}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v: a name that is looked for in both has one rule", got, err, want)
	}
	for _, names := range [][]string{{""}, {"a", "b", "c", "d", "e"}} {
		if _, err := answerHeaders(names, hdrs); err == nil {
			t.Errorf("%q: no error", names)
		}
	}
}
