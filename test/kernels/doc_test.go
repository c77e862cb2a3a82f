// Package kernels holds what must work on every kernel that the agent supports.
// scripts/vm/matrix.sh builds it into one static program and runs it inside other
// kernels; `go test` runs it on this machine's own.
//
// In a guest there is no Go: TRACER_AGENT_BIN names the agent and
// TRACER_TARGETS the folder with the traced programs, one per Go version.
package kernels

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/testkernel"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

const httpmatrix = "testdata/targets/httpmatrix"

func TestMain(m *testing.M) { harness.Main(m) }

// result is one line of what COMPATIBILITY.md is made of; test/kernels/compat reads it.
type result struct {
	Kernel   string         `json:"kernel"`
	Arch     string         `json:"arch"`
	Lockdown string         `json:"lockdown"`
	Test     string         `json:"test"`
	Go       string         `json:"go,omitempty"`
	Outcome  string         `json:"outcome"`
	Facts    map[string]any `json:"facts,omitempty"`
}

// report prints the test's outcome when it ends, with the facts that are in the
// returned map by then.
func report(t *testing.T, goVersion string) map[string]any {
	t.Helper()
	facts := map[string]any{}
	t.Cleanup(func() {
		if os.Getenv("TRACER_RESULTS") == "" {
			return
		}
		r := result{Kernel: release(), Arch: machine(), Lockdown: lockdown(), Test: t.Name(), Go: goVersion,
			Outcome: "pass", Facts: facts}
		switch {
		case t.Failed():
			r.Outcome = "fail"
		case t.Skipped():
			r.Outcome = "skip"
		}
		line, err := json.Marshal(r)
		if err != nil {
			t.Error(err)
		}
		fmt.Printf("\n@@result %s\n", line)
	})
	return facts
}

func uname() (u unix.Utsname) {
	_ = unix.Uname(&u) // cannot fail with a valid address
	return u
}

func release() string {
	u := uname()
	return unix.ByteSliceToString(u.Release[:])
}

func machine() string {
	u := uname()
	return unix.ByteSliceToString(u.Machine[:])
}

// lockdown is the mode in brackets of the kernel's file, "none" without one.
func lockdown() string {
	b, _ := os.ReadFile("/sys/kernel/security/lockdown")
	_, mode, ok := bytes.Cut(b, []byte("["))
	if !ok {
		return "none"
	}
	mode, _, _ = bytes.Cut(mode, []byte("]"))
	return string(mode)
}

func needs(t testing.TB) {
	t.Helper()
	testkernel.Require(t, testkernel.Root, testkernel.BTF, testkernel.RingBuf, testkernel.Uprobe)
}

// inGuest says whether this test has the whole machine to itself.
func inGuest() bool { return os.Getenv("TRACER_TARGETS") != "" }

// target is the test program as one Go version builds it.
type target struct{ version, path string }

// targets are the ones in TRACER_TARGETS, oldest Go first, else two built here.
func targets(t *testing.T) (out []target) {
	t.Helper()
	dir := os.Getenv("TRACER_TARGETS")
	if !inGuest() {
		for _, v := range []string{"1.23.12", harness.Newest} {
			out = append(out, target{v, harness.Build{Dir: httpmatrix, Go: v}.Path(t)})
		}
		return out
	}
	found, err := filepath.Glob(filepath.Join(dir, "httpmatrix-go*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no httpmatrix-go* in %s: %v", dir, err)
	}
	slices.Sort(found)
	for _, path := range found {
		_, v, _ := strings.Cut(filepath.Base(path), "-go")
		out = append(out, target{v, path})
	}
	return out
}

// feature is what `check --json` says of one.
type feature struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Need   string `json:"need"`
	Reason string `json:"reason"`
}

// ofKernel is what the agent has said of this kernel; it is asked once, because loading
// what is tried takes an emulated machine its time.
var ofKernel map[string]feature

// checked is what the agent makes of this kernel.
func checked(t *testing.T) map[string]feature {
	t.Helper()
	if ofKernel != nil {
		return ofKernel
	}
	out, err := exec.Command(harness.AgentPath(t), "check", "--json").Output()
	var r struct {
		Able    bool
		Problem string
		Kernel  struct{ Features []feature }
	}
	if jerr := json.Unmarshal(out, &r); jerr != nil {
		t.Fatalf("check --json: %v, %v: %s", err, jerr, out)
	}
	if err != nil || !r.Able {
		t.Fatalf("check: the agent cannot work here: %s (%v)", r.Problem, err)
	}
	ofKernel = map[string]feature{}
	for _, f := range r.Kernel.Features {
		ofKernel[f.Name] = f
	}
	return ofKernel
}

// memoryMode says whether this agent writes trace ids into requests on this kernel.
func memoryMode(t *testing.T) bool {
	t.Helper()
	f := checked(t)["bpf_probe_write_user"]
	return f.OK && f.Need != "unused"
}
