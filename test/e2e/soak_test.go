package e2e

import (
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// load keeps a target busy until it is told to end, and remembers every failure.
type load struct {
	stop chan struct{}
	wg   sync.WaitGroup
	ok   atomic.Int64
	mu   sync.Mutex
	errs []error
}

// startLoad runs eight connections: plain requests, calls in every style, grown
// stacks, recovered panics, HTTP/2.
func startLoad(t *testing.T, tg *harness.Target) *load {
	t.Helper()
	l := &load{stop: make(chan struct{})}
	urls := []string{
		tg.URL("/plain"), tg.URL("/orders/5"), tg.URL("/deep?n=3000"), tg.URL("/chunked"),
		tg.CallURL(tg.URL("/plain"), "style", "go4"),
		tg.CallURL(tg.URL("/size?n=100000"), "style", "pool", "n", "2"),
		tg.CallURL("https://"+tg.HTTPS+"/plain", "client", "insecure", "style", "fanout", "n", "3"),
		tg.CallURL("http://" + tg.Refused + "/"),
	}
	for i, url := range urls {
		client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
		l.wg.Go(func() {
			defer client.CloseIdleConnections()
			for n := 0; ; n++ {
				select {
				case <-l.stop:
					return
				default:
				}
				if err := l.one(client, url); err != nil {
					l.fail(fmt.Errorf("connection %d, request %d: %w", i, n, err))
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	return l
}

func (l *load) one(c *http.Client, url string) error {
	_, err := harness.TryGetBy(c, url)
	if err == nil {
		l.ok.Add(1)
	}
	return err
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errs) < 10 {
		l.errs = append(l.errs, err)
	}
}

// end stops the load and fails the test if any request did.
func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	t.Logf("%d requests succeeded", l.ok.Load())
	for _, err := range l.errs {
		t.Error(err)
	}
	if l.ok.Load() == 0 {
		t.Error("no request was made")
	}
}

// TestSoak attaches and detaches every few seconds under load; now and then the
// agent is killed. The target must not notice: no request fails, its memory does
// not grow without end, and the kernel is clean afterwards.
// TRACER_SOAK is how long, 60 s unless told.
func TestSoak(t *testing.T) {
	needs(t)
	length := 60 * time.Second
	if s := os.Getenv("TRACER_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("TRACER_SOAK: %v", err)
		}
		length = d
	} else if testing.Short() {
		length = 10 * time.Second
	}
	before := harness.CountObjects(t)
	tg := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	l := startLoad(t, tg)
	deadline := time.Now().Add(length)
	rounds, spans := 0, 0
	for time.Now().Before(deadline) && !t.Failed() {
		agent := harness.Trace(t, tg)
		until := time.Now().Add(time.Duration(1+rounds%3) * time.Second)
		agent.WaitSpans(0, 50, harness.Kind("server"))
		for time.Now().Before(until) && tg.Alive() {
			time.Sleep(50 * time.Millisecond)
		}
		if !tg.Alive() {
			t.Fatalf("the target died in round %d: %s", rounds, tg.Stderr())
		}
		spans += agent.Mark()
		if rounds%4 == 3 {
			agent.Kill()
		} else if took := agent.Stop(); took > 2*time.Second {
			t.Errorf("round %d: the agent took %v to end, want 2 s", rounds, took)
		}
		rounds++
	}
	l.end(t)
	t.Logf("%d rounds, %d spans", rounds, spans)
	harness.WaitObjects(t, before)
}
