package httpattr

import "testing"

func TestHeaderRules(t *testing.T) {
	rules, err := HeaderRules([]Wanted{{"X-Correlation-Id", 3}, {"X-A-Name-Of-More-Than-24-Bytes", 4}})
	if err != nil {
		t.Fatal(err)
	}
	if r := rules[len("X-Correlation-Id")][0]; r.Wanted != 1 || r.Slot != 3 || r.Word != headerWords("X-Correlation-Id") {
		t.Errorf("rule of X-Correlation-Id: %+v", r)
	}
	if rules[0] != ([rulesPerLen]HeaderRule{}) {
		t.Errorf("rules for names without a byte: %+v", rules[0])
	}
	if headerWords("X-A-Name-Of-More-Than-24-Bytes") == headerWords("X-A-Name-Of-More-Than-24-Bitez") {
		t.Error("names that end differently look the same")
	}
}
