package harness

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// CountRuns lets the kernel count runs of BPF programs until the test ends. Call
// it before the agent is started.
func CountRuns(t testing.TB) {
	t.Helper()
	c, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		t.Fatalf("let the kernel count program runs: %v", err)
	}
	t.Cleanup(func() { closeQuietly(c) })
}

func closeQuietly(c io.Closer) { _ = c.Close() }

// Runs returns how often each of the agent's uprobe programs has run, by name,
// as the kernel counted it. A program's fds are found in the agent's own table,
// so that no other agent's runs are counted.
func (a *Agent) Runs() map[string]uint64 {
	a.t.Helper()
	ids, err := ProgramIDs(a.PID())
	if err != nil {
		a.t.Fatal(err)
	}
	out := map[string]uint64{}
	for _, id := range ids {
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		if err != nil {
			continue
		}
		info, err := p.Info()
		if err == nil && p.Type() == ebpf.Kprobe {
			if s, err := p.Stats(); err == nil {
				out[info.Name] += s.RunCount
			}
		}
		closeQuietly(p)
	}
	return out
}

// ProgramIDs are the ids of BPF programs that a process holds open.
func ProgramIDs(pid int) ([]uint32, error) {
	dir := fmt.Sprintf("/proc/%d/fdinfo", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	seen := map[uint32]bool{}
	var ids []uint32
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			continue
		}
		if !strings.Contains(string(data), "prog_type:") {
			continue // a link or a map also names its program
		}
		for line := range strings.SplitSeq(string(data), "\n") {
			if v, ok := strings.CutPrefix(line, "prog_id:"); ok {
				id, err := strconv.ParseUint(strings.TrimSpace(v), 10, 32)
				if err == nil && !seen[uint32(id)] {
					seen[uint32(id)] = true
					ids = append(ids, uint32(id))
				}
			}
		}
	}
	return ids, nil
}

// KernelObjects counts what of BPF exists in the kernel.
type KernelObjects struct{ Programs, Maps, Links int }

// CountObjects lists all BPF programs, maps and links of the system.
func CountObjects(t testing.TB) KernelObjects {
	t.Helper()
	var k KernelObjects
	for id := ebpf.ProgramID(0); ; k.Programs++ {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			break
		}
		id = next
	}
	for id := ebpf.MapID(0); ; k.Maps++ {
		next, err := ebpf.MapGetNextID(id)
		if err != nil {
			break
		}
		id = next
	}
	k.Links = countLinks()
	return k
}

// WaitObjects waits until the kernel has no more objects than before; it frees
// them after a grace period.
func WaitObjects(t testing.TB, before KernelObjects) {
	t.Helper()
	deadline := time.Now().Add(Patience * 10 * time.Second)
	for {
		now := CountObjects(t)
		if now.Programs <= before.Programs && now.Maps <= before.Maps && now.Links <= before.Links {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind in the kernel: before %+v, after %+v", before, now)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Metrics asks the agent for its self-metrics with SIGUSR1 and returns them by
// "name{labels}".
func (a *Agent) Metrics() map[string]float64 {
	a.t.Helper()
	from := len(a.stderr.String())
	if err := a.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		a.t.Fatalf("signal the agent: %v", err)
	}
	var text string
	a.wait(Patience*20*time.Second, "self-metrics", func() bool {
		text = a.stderr.String()[from:]
		return strings.Contains(text, "tracer_agent_resident_memory_bytes ")
	})
	// The last lines may still be under way: take it again once it stays.
	for {
		time.Sleep(20 * time.Millisecond)
		again := a.stderr.String()[from:]
		if again == text {
			break
		}
		text = again
	}
	out := map[string]float64{}
	for line := range strings.SplitSeq(text, "\n") {
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || !strings.HasPrefix(line, "tracer_agent_") {
			continue
		}
		if v, err := strconv.ParseFloat(line[i+1:], 64); err == nil {
			out[line[:i]] = v
		}
	}
	return out
}

// Lost is the sum of all losses in the metrics.
func Lost(metrics map[string]float64) float64 {
	var sum float64
	for name, v := range metrics {
		if strings.HasPrefix(name, "tracer_agent_records_lost_total") {
			sum += v
		}
	}
	return sum
}

// Links counts the links and perf events by which the agent's programs are attached.
func (a *Agent) Links() int {
	a.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", a.PID())
	files, err := os.ReadDir(dir)
	if err != nil {
		a.t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		target, err := os.Readlink(filepath.Join(dir, f.Name()))
		if err == nil && (strings.Contains(target, "bpf_link") || strings.Contains(target, "bpf-link") || strings.Contains(target, "perf_event")) {
			n++
		}
	}
	return n
}
