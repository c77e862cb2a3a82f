package kernels

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// exeCopy gives a test a program file of its own.
func exeCopy(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(out, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return out
}

// codeLen is enough of an instruction to see a breakpoint in it.
const codeLen = 4

// site is an instruction that the agent would put a probe on.
type site struct {
	name string
	addr int64
	code [codeLen]byte // as the program's file has it
}

// sites asks the agent where it attaches, and the program's file what is there. The
// program must not be position independent.
func sites(t *testing.T, ch *chain, memory bool) (out []site) {
	t.Helper()
	text, err := exec.Command(harness.AgentPath(t), "check", "--json", "--pid", strconv.Itoa(ch.a.PID)).Output()
	if err != nil {
		t.Fatalf("check --pid: %v: %s", err, text)
	}
	var r struct {
		Process struct {
			PIE    bool
			Probes []struct {
				Groups []struct {
					Name   string
					OK     bool
					Points []struct{ Name, Address, Class, Note string }
				}
			}
		}
	}
	if err := json.Unmarshal(text, &r); err != nil || r.Process.PIE {
		t.Fatalf("check --json: %v, position independent: %v", err, r.Process.PIE)
	}
	for _, p := range r.Process.Probes {
		for _, g := range p.Groups {
			if strings.HasSuffix(g.Name, "write") && !memory {
				continue // could be attached, but its programs cannot be loaded
			}
			for _, pt := range g.Points {
				if !g.OK || pt.Class == "absent" || pt.Name == "mux" || pt.Name == "upgraded_end" {
					continue // those two come and go
				}
				addr, err := strconv.ParseInt(pt.Address, 0, 64)
				if err != nil {
					t.Fatalf("point %s: %v", pt.Name, err)
				}
				out = append(out, site{name: pt.Name, addr: addr})
			}
		}
	}
	// The same program, started where no agent knows it, has the code unchanged.
	pristine := harness.StartTarget(t, exeCopy(t, ch.path))
	defer pristine.Stop()
	for i := range out {
		out[i].code = codeAt(t, pristine.PID, out[i].addr)
	}
	if len(out) < 6 {
		t.Fatalf("%d probe sites, want the six of HTTP/1 at least", len(out))
	}
	return out
}

func codeAt(t *testing.T, pid int, addr int64) (code [codeLen]byte) {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(code[:], addr); err != nil {
		t.Fatalf("read the code of process %d at %#x: %v", pid, addr, err)
	}
	return code
}

// changed are the sites at which a process has other code than its file.
func changed(t *testing.T, pid int, all []site) (out []string) {
	t.Helper()
	for _, s := range all {
		if code := codeAt(t, pid, s.addr); !bytes.Equal(code[:], s.code[:]) {
			out = append(out, s.name)
		}
	}
	return out
}

// waitRestored waits until every process of the chain has its own code again.
func waitRestored(t *testing.T, ch *chain, all []site) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for _, p := range []*harness.Target{ch.a, ch.b, ch.c} {
		for {
			left := changed(t, p.PID, all)
			if len(left) == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("breakpoints are left in process %d at %v", p.PID, left)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// testKill: kill -9 of the agent under load; no request fails, and the kernel takes
// every breakpoint out of the programs.
func testKill(t *testing.T, agent *harness.Agent, ch *chain, memory bool) {
	all := sites(t, ch, memory)
	for _, p := range []*harness.Target{ch.a, ch.b, ch.c} {
		if got := changed(t, p.PID, all); len(got) != len(all) {
			t.Errorf("breakpoints at %v of process %d, want all of %d", got, p.PID, len(all))
		}
	}
	var stop atomic.Bool
	var served atomic.Int64
	failed := make(chan error, 1)
	go func() {
		for !stop.Load() {
			if _, err := harness.TryGet(ch.url(protos[0])); err != nil {
				failed <- err
				return
			}
			served.Add(1)
		}
		failed <- nil
	}()
	waitServed := func(n int64) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); served.Load() < n && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
		}
	}
	waitServed(10)
	agent.Kill()
	waitRestored(t, ch, all)
	waitServed(served.Load() + 20)
	stop.Store(true)
	if err := <-failed; err != nil {
		t.Errorf("after %d requests: %v", served.Load(), err)
	}
	if served.Load() < 30 {
		t.Errorf("only %d requests were served", served.Load())
	}
	for _, p := range []*harness.Target{ch.a, ch.b, ch.c} {
		if !p.Alive() {
			t.Errorf("process %d has ended: %s", p.PID, p.Stderr())
		}
	}
}

// testAgain: the next agent traces what runs already, connections that are open
// included, stops cleanly, and leaves nothing in the programs or the kernel.
func testAgain(t *testing.T, ch *chain, before harness.KernelObjects) {
	all := sites(t, ch, memoryMode(t))
	agent := harness.Trace(t, ch.a, ch.b, ch.c)
	mark := agent.Mark()
	ch.drive(t, protos[0], requests)
	ch.checkTraces(t, agent.Settle(mark, requests*perTrace, ch.a), true)
	agent.Stop()
	waitRestored(t, ch, all)
	ch.drive(t, protos[0], 5)
	if inGuest() { // elsewhere other programs come and go
		harness.WaitObjects(t, before)
	}
}
