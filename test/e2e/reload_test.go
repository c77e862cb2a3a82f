package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// withinKill is how soon a kill switch must have taken the probes off.
const withinKill = time.Second

// reloadRig is an agent with a configuration file.
type reloadRig struct {
	*harness.Agent
	t    *testing.T
	file string
}

func startReload(t *testing.T, text string) *reloadRig {
	t.Helper()
	r := &reloadRig{t: t, file: filepath.Join(t.TempDir(), "agent.yaml")}
	r.write(text)
	r.Agent = harness.StartAgent(t, "--config", r.file)
	return r
}

// startSilent starts, or starts anew, an agent that keeps its spans to itself: those of a
// long load would fill the test's memory.
func (r *reloadRig) startSilent() {
	r.t.Helper()
	r.Agent = harness.StartAgentEnv(r.t, []string{"OTEL_TRACES_EXPORTER=none"}, "--config", r.file)
}

func (r *reloadRig) write(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.file+".new", []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.file+".new", r.file); err != nil {
		r.t.Fatal(err)
	}
}

// reload writes the file, asks for a reload by SIGHUP and waits until it is done. The
// change of the file itself may cause another one, which changes nothing.
func (r *reloadRig) reload(text string) {
	r.t.Helper()
	r.write(text)
	before := strings.Count(r.Stderr(), "configuration reloaded")
	if err := syscall.Kill(r.PID(), syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
	r.until("reloaded", time.Minute, func() bool { return strings.Count(r.Stderr(), "configuration reloaded") > before })
}

func (r *reloadRig) until(what string, d time.Duration, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not %s within %v", what, d)
		}
	}
}

// TestReload: what is selected before and after a reload is traced without a gap, what is
// not any more loses its probes within a second, and a wrong file changes nothing.
func TestReload(t *testing.T) {
	needs(t)
	src := harness.Build{Dir: httpmatrix}.Path(t)
	stays, goes := copyExe(t, src, "stays"), copyExe(t, src, "goes")
	a, b := harness.StartTarget(t, stays), harness.StartTarget(t, goes)
	config := func(enabled bool, extra string) string {
		return fmt.Sprintf("enabled: %v\ninstrument:\n  - {exes: [%s], service: {name: stayer}}\n%s", enabled, stays, extra)
	}
	both := config(true, "  - {exes: ["+goes+"], command_line: \"*goes*\", service: {name: goer}}\n")
	r := startReload(t, config(false, ""))
	r.WaitLog("nothing is attached until enabled is true")
	base := r.Links()
	r.reload(both)
	r.WaitInstrumented(a.PID)
	r.WaitInstrumented(b.PID)
	if s := spanOf(t, b, r.Agent); s.Res("service.name") != "goer" {
		t.Errorf("service %q, want the selector's", s.Res("service.name"))
	}
	full := r.Links()
	half := full - (full-base)/2 + 1 // with the probes of one of two like programs; one is for a link that is only there at times

	t.Run("no gap", func(t *testing.T) {
		mark, done, sent := r.Mark(), make(chan struct{}), 0
		stop := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := harness.TryGet(a.URL("/plain")); err != nil {
						t.Errorf("target error: %v", err)
						return
					}
					sent++
				}
			}
		}()
		for i := range 10 {
			r.reload(config(true, fmt.Sprintf("service: {name: round%d}\n", i)))
			r.reload(both)
		}
		close(stop)
		<-done
		spans := harness.Of(r.Settle(mark, sent, a), func(s harness.Span) bool { return s.Kind == "server" && s.Res("process.pid") == fmt.Sprint(a.PID) })
		if len(spans) != sent || sent < 20 {
			t.Errorf("%d spans of %d requests during reloads", len(spans), sent)
		}
	})
	t.Run("refused whole", func(t *testing.T) {
		r.write("enabled: false\nsampling: {ratio: 7}\n")
		r.WaitLog("refused", "agent.yaml:2")
		spanOf(t, a, r.Agent)
		r.reload(both)
	})
	for _, off := range []struct{ name, extra string }{
		{"deselected", ""},
		{"selector off", "  - {exes: [" + goes + "], enabled: false}\n"},
		{"selector's probes off", "  - {exes: [" + goes + "], probes: {nethttp: false, websocket: false}}\n"},
		{"excluded", "  - {exes: [" + goes + "]}\nexclude:\n  - {exes: [" + goes + "]}\n"},
	} {
		t.Run(off.name, func(t *testing.T) {
			r.reload(config(true, off.extra))
			r.until("detached", withinKill, func() bool { return r.Links() <= half })
			mark := r.Mark()
			harness.Get(t, b.URL("/plain"))
			if spans := r.Settle(mark, 0, a); len(spans) != 0 {
				t.Errorf("spans of a process that is no longer traced: %v", spans)
			}
			r.reload(both)
			r.until("traced again", 20*time.Second, func() bool {
				mark := r.Mark()
				harness.Get(t, b.URL("/plain"))
				return len(r.Settle(mark, 0, a)) > 0
			})
		})
	}
	t.Run("probe off", func(t *testing.T) {
		r.reload(config(true, "probes: {nethttp: false, websocket: false}\n")) // both have points in it
		r.until("detached", withinKill, func() bool { return r.Links() == base })
		r.reload(config(true, ""))
		r.until("attached again", withinKill, func() bool { return r.Links() > base })
		spanOf(t, a, r.Agent)
	})
	t.Run("disabled", func(t *testing.T) {
		r.reload(config(false, ""))
		r.until("detached", withinKill, func() bool { return r.Links() == base })
		harness.Get(t, a.URL("/plain"))
		before := strings.Count(r.Stderr(), "msg=instrumented")
		r.write(config(true, "")) // by the file's change alone
		r.until("instrumented again", 20*time.Second, func() bool { return strings.Count(r.Stderr(), "msg=instrumented") > before })
		spanOf(t, a, r.Agent)
	})
}
