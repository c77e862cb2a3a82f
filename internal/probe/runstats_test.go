package probe

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

type closed struct{ on *bool }

func (c closed) Close() error {
	*c.on = false
	return nil
}

// TestRunStats: a program that runs a thousand times a second is counted exactly at
// first, and in the long run without the kernel counting all of the time.
func TestRunStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			on   bool
			seen runs
			last = time.Now()
			busy time.Duration // how long the kernel counted
		)
		step := func() { // what the kernel does
			d := time.Since(last)
			last = time.Now()
			if on {
				seen.Hits += uint64(d.Milliseconds())
				seen.Time += d / 1000
				busy += d
			}
		}
		r := &runStats{
			read:  func() []runs { step(); return []runs{seen} },
			start: func() (io.Closer, error) { step(); on = true; return closed{&on}, nil },
			total: make([]runs, 1),
			times: cadence{firstStats(), statsWindow, statsPeriod},
		}
		if err := r.open(time.Now()); err != nil {
			t.Fatal(err)
		}
		go r.run(t.Context())
		time.Sleep(10 * time.Second)
		if got := r.totals()[0].Hits; got != 10000 {
			t.Errorf("%d runs in the first 10 s, want 10000", got)
		}
		before := r.totals()[0]
		for range 100 {
			time.Sleep(10 * time.Second)
			now := r.totals()[0]
			if now.Hits < before.Hits || now.Time < before.Time {
				t.Fatalf("totals went down: %+v after %+v", now, before)
			}
			before = now
		}
		if want := 1010000.; float64(before.Hits) < want*0.98 || float64(before.Hits) > want*1.001 {
			t.Errorf("%d runs counted of %.0f", before.Hits, want)
		}
		if busy > 100*time.Second {
			t.Errorf("the kernel was counting for %v of 1010 s", busy)
		}
		r.close(time.Now())
		if on {
			t.Error("counting goes on after close")
		}
	})
}
