package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestSelectorSettings: what a selector says holds for its programs and no others; what an
// entry of exclude fits is left alone, and so is a program with an SDK inside, with the
// reason in the log and in list, unless its selector says otherwise.
func TestSelectorSettings(t *testing.T) {
	needs(t)
	src := harness.Build{Dir: httpmatrix}.Path(t)
	sdk := harness.Build{Dir: "testdata/targets/otelchain"}.Path(t)
	dir := t.TempDir()
	start := func(name, from string, args ...string) *harness.Target {
		return harness.StartTarget(t, copyExe(t, from, name), args...)
	}
	named, usual, other := start("sel-named", src), start("sel-usual", src), start("sel-other", src)
	never := start("sel-never", src)
	silent, excluded := start("sel-silent", src), start("sel-excluded", src, "-gen", "9")
	left, insisted := start("sel-sdk", sdk), start("sel-insisted", sdk)
	config := filepath.Join(dir, "agent.yaml")
	page := freeAddr(t)
	text := "health: {address: '" + page + "'}" + `
service: {attributes: {team: all}}
instrument:
  - {exes: [sel-named], service: {name: shop, attributes: {tier: web}}, propagation: {mode: "off"}, redact: {query_names: [iban]}}
  - {exes: [sel-never], sampling: {ratio: 0}}
  - {exes: [sel-silent], probes: {nethttp: false}}
  - {exes: [sel-insisted], exporting: true}
  - {exes: ["sel-*"], user: root}
exclude:
  - {command_line: "*sel-excluded*-gen 9"}
`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := harness.StartAgent(t, "--config", config)
	for _, tg := range []*harness.Target{named, usual, other, never, silent, insisted} {
		agent.WaitInstrumented(tg.PID)
	}
	agent.WaitLog("not instrumented", fmt.Sprintf("pid=%d ", left.PID), "left alone", "otlptrace")

	mark := agent.Mark()
	for _, tg := range []*harness.Target{never, silent, excluded, left, insisted} {
		harness.Get(t, tg.URL("/plain?iban=DE1"))
	}
	named.Call(t, usual.URL("/plain?iban=DE1"))
	usual.Call(t, other.URL("/plain?iban=DE1"))
	spans := agent.Settle(mark, 7, usual)
	of := func(tg *harness.Target, kind string) []harness.Span {
		return harness.Of(spans, func(s harness.Span) bool { return s.Res("process.pid") == fmt.Sprint(tg.PID) && s.Kind == kind })
	}
	for _, tg := range []*harness.Target{never, silent, excluded, left} {
		if got := append(of(tg, "server"), of(tg, "client")...); len(got) != 0 {
			t.Errorf("spans of process %d: %v", tg.PID, got)
		}
	}
	if n := len(of(insisted, "server")); n != 1 {
		t.Errorf("%d spans of the program with an SDK that is watched all the same, want 1", n)
	}
	if len(of(named, "server")) != 1 || len(of(named, "client")) != 1 || len(of(usual, "server")) != 2 || len(of(usual, "client")) != 1 {
		t.Fatalf("want the calls and what was called: %v", spans)
	}
	for _, s := range append(of(named, "server"), of(named, "client")...) {
		if s.Res("service.name") != "shop" || s.Res("tier") != "web" || s.Res("team") != "all" {
			t.Errorf("resource %v", s.Resource)
		}
		if strings.Contains(fmt.Sprint(s.Attributes), "DE1") {
			t.Errorf("a secret of its own is in %v", s.Attributes)
		}
	}
	for _, s := range append(of(usual, "server"), of(usual, "client")...) {
		if s.Res("service.name") == "shop" || s.Res("tier") != "" || s.Res("team") != "all" {
			t.Errorf("resource %v", s.Resource)
		}
		if text := fmt.Sprint(s.Attributes); strings.Contains(text, "iban") && !strings.Contains(text, "DE1") && s.Kind == "client" {
			t.Errorf("another selector's secret is left out: %v", s.Attributes)
		}
	}
	linked := func(from, to *harness.Target) (n int) {
		for _, s := range of(to, "server") {
			if s.ParentSpanID == of(from, "client")[0].SpanID {
				n++
			}
		}
		return n
	}
	if a, b := linked(named, usual), linked(usual, other); a != 0 || b != 1 {
		t.Errorf("calls that go on in the other: %d without propagation, %d with, want 0 and 1", a, b)
	}
	listReason(t, left.PID, "otlptrace")
	checkStatus(t, page, named.PID, left.PID)
}

// checkStatus: the page for people and the one for programs say of each target what is
// done to it or why nothing is, and which probes are hit at which cost.
func checkStatus(t *testing.T, page string, named, left int) {
	t.Helper()
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ok", "/": "sel-named"} {
		if got := fetch(t, "http://"+page+path); !strings.Contains(got, want) {
			t.Errorf("%s has no %q: %s", path, want, got)
		}
	}
	var s struct {
		Targets []struct {
			PID                       int
			Service, Propagation, Why string
			Watched                   bool
		}
		Probes []struct {
			Probe, Class string
			Hits         uint64
		}
	}
	if err := json.Unmarshal([]byte(fetch(t, "http://"+page+"/status.json")), &s); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, tg := range s.Targets {
		switch tg.PID {
		case named:
			if seen++; !tg.Watched || tg.Service != "shop" || tg.Propagation != "none" {
				t.Errorf("status of the named program: %+v", tg)
			}
		case left:
			if seen++; tg.Watched || !strings.Contains(tg.Why, "left alone") {
				t.Errorf("status of the program that is left alone: %+v", tg)
			}
		}
	}
	var hits uint64
	for _, p := range s.Probes {
		if p.Class == "" {
			t.Errorf("a probe without a cost class: %+v", p)
		}
		if p.Probe == "nethttp" {
			hits += p.Hits
		}
	}
	if seen != 2 || hits == 0 {
		t.Errorf("%d of 2 targets, %d hits: %+v", seen, hits, s)
	}
}

// listReason checks that list has a process as left alone, and why.
func listReason(t *testing.T, pid int, why string) {
	t.Helper()
	out, err := exec.Command(harness.AgentPath(t), "list", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		PID       int
		LeftAlone bool `json:"left_alone"`
		Why       string
	}
	if err := json.Unmarshal(out, &rows); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.PID == pid {
			if !r.LeftAlone || !strings.Contains(r.Why, "left alone") || !strings.Contains(r.Why, why) {
				t.Errorf("list: %+v, want it left alone for %s", r, why)
			}
			return
		}
	}
	t.Errorf("process %d is not in the list", pid)
}
