package probe

import (
	"testing"
	"time"
)

func TestGovernor(t *testing.T) {
	g := newGovernor(0.05)
	now := time.Unix(1e9, 0)
	look := func(http, sql float64) (shed, back string) {
		t.Helper()
		now = now.Add(governPeriod)
		shed, back, _ = g.judge(now, []price{{"http", http, 1000}, {"sql", sql, 10}}, 1)
		return shed, back
	}
	expect := func(what string, http, sql float64, wantShed, wantBack string) {
		t.Helper()
		if shed, back := look(http, sql); shed != wantShed || back != wantBack {
			t.Errorf("%s: shed %q, back %q; want %q, %q", what, shed, back, wantShed, wantBack)
		}
	}
	quiet := func(d time.Duration) (back string) {
		for end := now.Add(d); now.Before(end) && back == ""; {
			_, back = look(0, 0.01)
		}
		return back
	}
	expect("below", 0.03, 0.01, "", "")
	expect("a burst", 0.10, 0.01, "", "")
	expect("is over", 0.03, 0.01, "", "")
	expect("past the limit", 0.10, 0.01, "", "")
	expect("again", 0.10, 0.01, "http", "")
	if back := quiet(25 * time.Second); back != "" {
		t.Error("back before its time")
	}
	if back := quiet(10 * time.Second); back != "http" {
		t.Errorf("back %q after 35 s, want http", back)
	}
	expect("too early", 0.10, 0.01, "", "")
	expect("too early", 0.10, 0.01, "http", "")
	if back := quiet(50 * time.Second); back != "" {
		t.Error("back after 50 s, want twice as long as the first time")
	}
	if back := quiet(30 * time.Second); back != "http" {
		t.Errorf("back %q, want http", back)
	}
	expect("the load has fallen", 0.02, 0.01, "", "")
	expect("both are dear", 0.06, 0.07, "", "")
	expect("the dearest first", 0.06, 0.07, "sql", "")
	expect("still", 0.06, 0, "", "")
	expect("then the other", 0.06, 0, "http", "")
	expect("nothing is left", 0, 0, "", "")
	// The limit is for each process.
	g = newGovernor(0.05)
	for range 4 {
		if shed, _, _ := g.judge(now, []price{{"http", 0.15, 1}}, 4); shed != "" {
			t.Error("shed although four processes may cost 20 %")
		}
	}
}
