package e2e

import (
	"cmp"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// churnLoad sends requests at a constant rate, each at its time, from workers that keep
// their connection or make a new one for each request.
type churnLoad struct {
	mu      sync.Mutex
	sent    int
	took    []time.Duration
	failed  []string
	loading sync.WaitGroup
	stop    chan struct{}
}

// standstill is longer than a machine stands still, targets and test alike: a client's
// time-out of 30 s counted a minute of that as failed requests.
const standstill = 5 * time.Minute

func startChurn(targets []*harness.Target, perSecond int) *churnLoad {
	l := &churnLoad{stop: make(chan struct{})}
	const workers = 8 // of each target
	every := time.Second * time.Duration(workers*len(targets)) / time.Duration(perSecond)
	for i, tg := range targets {
		urls := []string{tg.URL("/plain"), tg.URL("/deep?n=2000"), tg.CallURL(tg.URL("/plain"), "style", "go4"), tg.URL("/orders/5")}
		for w := range workers {
			client := &http.Client{Timeout: standstill, Transport: &http.Transport{DisableKeepAlives: w >= workers/2}}
			// The workers' requests are spread over the interval.
			at := time.Now().Add(every * time.Duration(i*workers+w) / time.Duration(workers*len(targets)))
			l.loading.Go(func() {
				defer client.CloseIdleConnections()
				l.work(client, urls[w%len(urls)], at, every)
			})
		}
	}
	return l
}

func (l *churnLoad) work(client *http.Client, url string, at time.Time, every time.Duration) {
	for ; ; at = at.Add(every) {
		select {
		case <-l.stop:
			return
		case <-time.After(time.Until(at)):
		}
		begin := time.Now()
		_, err := harness.TryGetBy(client, url)
		took := time.Since(begin)
		if behind := time.Since(at); behind > time.Second {
			at = at.Add(behind) // what was not sent meanwhile is not made up for
		}
		l.mu.Lock()
		l.sent++
		l.took = append(l.took, took)
		if err != nil {
			l.failed = append(l.failed, fmt.Sprintf("%s, after %v: %v", begin.UTC().Format(time.RFC3339Nano), took, err))
		}
		l.mu.Unlock()
	}
}

// end stops the load; every request must have been answered.
func (l *churnLoad) end(t *testing.T, what string, lasted time.Duration) {
	t.Helper()
	close(l.stop)
	l.loading.Wait()
	slices.SortFunc(l.took, cmp.Compare[time.Duration])
	q := func(p float64) time.Duration {
		return l.took[min(int(p*float64(l.sent)), l.sent-1)].Round(10 * time.Microsecond)
	}
	t.Logf("%s: %d requests, %.0f/s, median %v, p99 %v, p99.9 %v, longest %v", what, l.sent,
		float64(l.sent)/lasted.Seconds(), q(.5), q(.99), q(.999), q(1))
	if len(l.failed) > 0 {
		t.Errorf("%s: %d of %d requests failed, the first:\n%s", what, len(l.failed), l.sent, l.failed[0])
		for _, f := range l.failed[1:min(20, len(l.failed))] {
			t.Log(f)
		}
	}
}

// TestChurn puts the probes on and takes them off as fast as that goes, of programs of the
// oldest and the newest Go, with the collector at work all the time and not, at 2,000
// requests/s; now and then the agent is killed. No request may fail. The same load without
// an agent shows what the machine does to it. TRACER_CHURN=2m is how long.
func TestChurn(t *testing.T) {
	needs(t)
	const perSecond = 2000
	long := lasting(t, "TRACER_CHURN", 2*time.Second)
	var targets []*harness.Target
	var exes []string
	for _, v := range []string{"1.18.10", harness.Newest} {
		src := harness.Build{Dir: httpmatrix, Go: v}.Path(t)
		for _, gogc := range []string{"5", "100"} {
			path := copyExe(t, src, "churn-"+v+"-"+gogc)
			targets = append(targets, harness.StartTargetEnv(t, []string{"GOGC=" + gogc}, path))
			exes = append(exes, path)
		}
	}
	load := startChurn(targets, perSecond)
	time.Sleep(long / 4) // without an agent
	load.end(t, "no agent", long/4)

	config := func(enabled bool) string {
		return fmt.Sprintf("enabled: %v\nselect: {exes: ['%s', '%s', '%s', '%s']}\n", enabled, exes[0], exes[1], exes[2], exes[3])
	}
	load, begin := startChurn(targets, perSecond), time.Now()
	r := &reloadRig{t: t, file: filepath.Join(t.TempDir(), "agent.yaml")}
	r.write(config(true))
	attached := func() int { return strings.Count(r.Stderr(), "msg=instrumented") }
	r.startSilent()
	want, times, kills := len(targets), 0, 0
	waitAttached := func() { r.until("attached", 30*time.Second, func() bool { return attached() >= want }) }
	// An agent may take longer than that to start.
	for times < 3 || time.Since(begin) < long {
		waitAttached()
		if times++; times%10 == 0 {
			kills++
			r.Kill()
			r.startSilent()
			want = len(targets)
			continue
		}
		r.reload(config(false))
		want = attached() + len(targets)
		r.reload(config(true))
	}
	waitAttached() // before it is told to stop
	r.Stop()
	load.end(t, fmt.Sprintf("attached %d times, killed %d times", times, kills), time.Since(begin))
	for _, tg := range targets {
		if !tg.Alive() {
			t.Errorf("process %d has ended: %s", tg.PID, tg.Stderr())
		}
	}
}
