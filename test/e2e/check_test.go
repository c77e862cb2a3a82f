package e2e

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/testkernel"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestCheckModes: check says of every propagation mode whether it is possible, and why
// not, in text and JSON; what it says is what `run` then does.
func TestCheckModes(t *testing.T) {
	needs(t)
	out, err := exec.Command(harness.AgentPath(t), "check", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Propagation []struct {
			Name, Reason string
			OK           bool
		}
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := exec.Command(harness.AgentPath(t), "check").Output()
	if err != nil {
		t.Fatal(err)
	}
	ok := map[string]bool{}
	for _, m := range report.Propagation {
		ok[m.Name] = m.OK
		if m.OK != (m.Reason == "") {
			t.Errorf("mode %s: possible: %v, reason %q", m.Name, m.OK, m.Reason)
		}
		line, _, _ := strings.Cut(string(text)[strings.Index(string(text), "\nPROPAGATION"):], "The agent")
		if want := "  " + m.Name + ": " + m.Reason; !m.OK && !strings.Contains(line, want) || !strings.Contains(line, "\n"+m.Name+" ") {
			t.Errorf("mode %s is not in the text: %s", m.Name, line)
		}
	}
	if len(ok) != 3 || !ok["join"] {
		t.Fatalf("modes %v, want join, memory and kernel, join possible everywhere", ok)
	}
	if want := testkernel.Have(testkernel.WriteUser) == nil; ok["memory"] != want {
		t.Errorf("memory is possible: %v, want %v", ok["memory"], want)
	}
	agent := harness.StartAgent(t, "--propagation", "kernel", "--exe", "/nowhere")
	agent.WaitLog("kernel mode")
	if on := strings.Contains(agent.Stderr(), "kernel mode is on"); on != ok["kernel"] {
		t.Errorf("kernel mode is possible: %v, but run has it on: %v\n%s", ok["kernel"], on, agent.Stderr())
	}
}
