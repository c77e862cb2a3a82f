package probe

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/cilium/ebpf"
)

// The kernel counts runs of programs only while somebody asks for it, and counting
// costs the target two readings of the clock a run. So it is asked at the beginning,
// for exact figures of a short look, and then for a part of the time.
const (
	statsWindow = time.Second
	statsPeriod = 16 * time.Second
)

// statsFirst is the beginning, as text, which a build for an emulated machine makes longer
// with -ldflags -X: there the exact figures of a test take more than half a minute.
var statsFirst = "30s"

func firstStats() time.Duration {
	d, err := time.ParseDuration(statsFirst)
	if err != nil {
		return 30 * time.Second
	}
	return d
}

// runs is what the kernel counted of one program.
type runs struct {
	Hits uint64
	Time time.Duration
}

// runStats keeps count of the runs of programs; what ran while the kernel was not
// counting is estimated from the windows on both sides.
type runStats struct {
	read  func() []runs
	start func() (io.Closer, error)
	times cadence
	// looked is told what each window has counted; nil: nobody is.
	looked func(counted []runs, long time.Duration)

	mu     sync.Mutex
	progs  []*ebpf.Program
	total  []runs
	window io.Closer // nil: the kernel is not counting
	at     []runs    // when the window was opened
	since  time.Time
	gap    time.Duration // before the window
}

// cadence is how long the kernel counts: at the beginning, and then a window of each
// period.
type cadence struct{ first, window, period time.Duration }

// bpfStatsRunTime is BPF_STATS_RUN_TIME of enum bpf_stats_type.
const bpfStatsRunTime = 0

// newRunStats starts to count the runs of programs, all of them at first.
func newRunStats(first time.Duration) (*runStats, error) {
	r := &runStats{
		start: func() (io.Closer, error) { return ebpf.EnableStats(bpfStatsRunTime) },
		times: cadence{first, statsWindow, statsPeriod},
	}
	r.read = func() []runs {
		out := make([]runs, len(r.progs))
		for i, p := range r.progs {
			if s, err := p.Stats(); err == nil {
				out[i] = runs{s.RunCount, s.Runtime}
			}
		}
		return out
	}
	return r, r.open(time.Now())
}

// add counts another program's, which has not run yet, and returns its place in totals.
func (r *runStats) add(p *ebpf.Program) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progs, r.total = append(r.progs, p), append(r.total, runs{})
	if r.window != nil {
		r.at = append(r.at, runs{})
	}
	return len(r.total) - 1
}

// run opens and closes windows until ctx ends.
func (r *runStats) run(ctx context.Context) {
	wait := time.NewTimer(r.times.first)
	defer wait.Stop()
	for open := true; ; open = !open {
		select {
		case <-ctx.Done():
			return
		case now := <-wait.C:
			if open {
				counted, long := r.close(now)
				if r.looked != nil && long > 0 {
					r.looked(counted, long)
				}
				wait.Reset(r.times.period - r.times.window)
				continue
			}
			if r.open(now) != nil {
				return // it could before; the counts stay as they are
			}
			wait.Reset(r.times.window)
		}
	}
}

func (r *runStats) open(now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, err := r.start()
	if err != nil {
		return err
	}
	if !r.since.IsZero() {
		r.gap = now.Sub(r.since)
	}
	r.window, r.at, r.since = w, r.read(), now
	return nil
}

// close ends the window, if one is open, and says what it has counted.
func (r *runStats) close(now time.Time) (counted []runs, long time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.window == nil {
		return nil, 0
	}
	counted, long = r.counted(), now.Sub(r.since)
	for i, d := range counted {
		if long > 0 {
			d.Hits += uint64(float64(d.Hits) * r.gap.Seconds() / long.Seconds())
			d.Time += time.Duration(float64(d.Time) * r.gap.Seconds() / long.Seconds())
		}
		r.total[i].Hits += d.Hits
		r.total[i].Time += d.Time
	}
	_ = r.window.Close() // a file descriptor that nothing is written to
	r.window, r.since = nil, now
	return counted, long
}

// counted is what the open window has counted so far.
func (r *runStats) counted() []runs {
	out := make([]runs, len(r.at))
	for i, v := range r.read() {
		out[i] = runs{v.Hits - r.at[i].Hits, v.Time - r.at[i].Time}
	}
	return out
}

// totals returns the counts by program, in the order added; they never go down.
func (r *runStats) totals() []runs {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := append([]runs(nil), r.total...)
	if r.window == nil {
		return out
	}
	for i, d := range r.counted() {
		out[i].Hits += d.Hits
		out[i].Time += d.Time
	}
	return out
}
