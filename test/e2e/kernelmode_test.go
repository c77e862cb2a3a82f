package e2e

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// headersSeen is a server that nobody watches and that keeps the requests' headers.
type headersSeen struct {
	*httptest.Server
	mu  sync.Mutex
	got []http.Header
}

func startHeadersSeen(t *testing.T) *headersSeen {
	s := &headersSeen{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got = append(s.got, r.Header.Clone())
	}))
	t.Cleanup(s.Close)
	return s
}

// call lets the target make one call, and returns the traceparents the server got.
func (s *headersSeen) call(t *testing.T, tg *harness.Target) []string {
	t.Helper()
	for _, out := range tg.Call(t, s.URL+"/x") {
		if out.Status != http.StatusOK {
			t.Fatalf("call: %+v", out)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got
	s.got = nil
	if len(got) != 1 {
		t.Fatalf("%d requests arrived, want 1", len(got))
	}
	return got[0].Values("Traceparent")
}

// TestKernelMode: where the kernel is sound, calls to a server elsewhere carry the
// call's span, also on a connection from before the agent; where it is not, the agent
// says why and nothing is changed. Either way calls go on when the agent is killed.
func TestKernelMode(t *testing.T) {
	needs(t)
	tg := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	server := startHeadersSeen(t)
	server.call(t, tg) // the connection is open before the agent
	agent := harness.StartAgent(t, "--propagation", "kernel", "--pid", strconv.Itoa(tg.PID))
	agent.WaitInstrumented(tg.PID)
	refused := strings.Contains(agent.Stderr(), "kernel mode refused")
	if on := strings.Contains(agent.Stderr(), "kernel mode is on"); on == refused {
		t.Fatalf("kernel mode on: %v, refused: %v", on, refused)
	}
	if refused {
		// On kernels before 5.17 for the programs, on some later ones for this:
		if log := agent.Stderr(); !strings.Contains(log, "FIONREAD") && !strings.Contains(log, "Linux 5.17") {
			t.Errorf("refused for no known reason")
		}
		for range 5 {
			if got := server.call(t, tg); len(got) != 0 {
				t.Errorf("traceparent %q though refused", got)
			}
		}
	} else {
		kernelModeWorks(t, tg, agent, server)
	}
	if err := syscall.Kill(agent.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	agent.Kill()
	for range 20 {
		if got := server.call(t, tg); len(got) != 0 {
			t.Errorf("traceparent %q without an agent", got)
		}
	}
}

func kernelModeWorks(t *testing.T, tg *harness.Target, agent *harness.Agent, server *headersSeen) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for len(server.call(t, tg)) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("calls on the connection from before the agent never carry a traceparent")
		}
		time.Sleep(50 * time.Millisecond)
	}
	const n = 20
	mark := agent.Mark()
	var got []string
	for range n {
		got = append(got, server.call(t, tg)...)
	}
	spans := map[string]bool{}
	for _, s := range harness.Of(agent.Settle(mark, 2*n, tg), harness.Kind("client")) {
		spans["00-"+s.TraceID+"-"+s.SpanID+"-01"] = true
	}
	if len(got) != n {
		t.Errorf("%d traceparents in %d calls", len(got), n)
	}
	for _, tp := range got {
		if !spans[tp] {
			t.Errorf("no span is %s, or two requests had it", tp)
		}
		delete(spans, tp)
	}
}
