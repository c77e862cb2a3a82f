package discover

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Values of DISCOVER_TEST_CHILD: what this test binary does instead of testing.
const (
	childWait     = "wait"   // until stdin ends
	childListen   = "listen" // on a port that it prints, until stdin ends
	childExec     = "exec"   // exec itself as childWait
	childThread   = "thread" // end the leader thread, go on in another until stdin ends
	childEnv      = "DISCOVER_TEST_CHILD"
	eventDeadline = 5 * time.Second
)

func TestMain(m *testing.M) {
	mode := os.Getenv(childEnv)
	switch mode {
	case "":
		os.Exit(m.Run())
	case childListen:
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		fmt.Println(l.Addr().(*net.TCPAddr).Port)
	case childExec:
		io.ReadFull(os.Stdin, make([]byte, 1))
		env := []string{childEnv + "=" + childWait}
		panic(syscall.Exec("/proc/self/exe", []string{"again"}, env))
	case childThread:
		// The first goroutine of main runs on the leader thread while it is locked
		// in init; see threadChild.
		threadChild()
	}
	io.Copy(io.Discard, os.Stdin)
}

// child is one process started by a test.
type child struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(t *testing.T, path, mode string) *child {
	t.Helper()
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), childEnv+"="+mode)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{Cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(c.end)
	return c
}

func (c *child) pid() int32 { return int32(c.Process.Pid) }

func (c *child) end() {
	c.in.Close()
	c.Wait() // a second call returns an error at once
}

// newWatcher skips only where the kernel is older than the agent supports.
func newWatcher(t *testing.T, opts Options) *Watcher {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root (CAP_BPF, CAP_PERFMON)")
	}
	w, err := New(opts)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// waitFor returns the first event for which match is true.
func waitFor(t *testing.T, w *Watcher, what string, match func(Event) bool) Event {
	t.Helper()
	timeout := time.After(eventDeadline)
	for {
		select {
		case e, ok := <-w.Events():
			if !ok {
				t.Fatalf("events ended while waiting for %s", what)
			}
			if match(e) {
				return e
			}
		case <-timeout:
			t.Fatalf("no %s within %v; stats %+v", what, eventDeadline, w.Stats())
		}
	}
}

func waitStarted(t *testing.T, w *Watcher, pid int32) Started {
	t.Helper()
	return waitFor(t, w, fmt.Sprintf("Started of %d", pid), func(e Event) bool {
		s, ok := e.(Started)
		return ok && s.Process.Key.PID == pid
	}).(Started)
}

func waitExited(t *testing.T, w *Watcher, key telemetry.ProcessKey) {
	t.Helper()
	waitFor(t, w, fmt.Sprintf("Exited of %v", key), func(e Event) bool { return e == Exited{key} })
}

// waitQuiet returns after the first scan was delivered.
func waitQuiet(t *testing.T, w *Watcher) {
	t.Helper()
	waitFor(t, w, "Scanned", func(e Event) bool { return e == Scanned{} })
}

func statExe(t *testing.T, path string) ExeID {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return ExeID{Dev: unix.Major(st.Dev)<<20 | unix.Minor(st.Dev), Ino: st.Ino}
}

// startTime reads the process's start from /proc in clock ticks of 10 ms.
func startTime(t *testing.T, pid int32) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	n, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRunningProcess(t *testing.T) {
	c := startChild(t, "/proc/self/exe", childListen)
	if _, err := c.out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := newWatcher(t, Options{})
	p := waitStarted(t, w, c.pid()).Process
	if got, want := p.Key.StartNs/10_000_000, startTime(t, c.pid()); got != want {
		t.Errorf("start %d ticks, want %d", got, want)
	}
	if got, want := p.Exe, statExe(t, self); got != want {
		t.Errorf("exe %v, want %v", got, want)
	}
	if p.Path != self {
		t.Errorf("path %q, want %q", p.Path, self)
	}
	if p.PPID != int32(os.Getpid()) {
		t.Errorf("ppid %d, want %d", p.PPID, os.Getpid())
	}
	if p.Comm != "exe" {
		t.Errorf("comm %q, want %q (argv[0]'s base name)", p.Comm, "exe")
	}
	if want := uint64(0x401000); p.StartCode&^0xfff != want&^0xfff && p.StartCode != 0x400000 {
		t.Errorf("start of code %#x, want %#x or 0x400000", p.StartCode, want)
	}
	if ok, err := w.Check(p); err != nil || !ok {
		t.Errorf("Check of a running process: %v, %v", ok, err)
	}
	c.end()
	waitExited(t, w, p.Key)
	if ok, err := w.Check(p); err != nil || ok {
		t.Errorf("Check of an ended process: %v, %v", ok, err)
	}
}

// TestReady: a process is reported well within 200 ms of its exec.
func TestReady(t *testing.T) {
	w := newWatcher(t, Options{})
	waitQuiet(t, w)
	var took []time.Duration
	for range 20 {
		begin := time.Now()
		c := startChild(t, "/proc/self/exe", childWait)
		waitStarted(t, w, c.pid())
		took = append(took, time.Since(begin))
		c.end()
	}
	slices.Sort(took)
	t.Logf("fork to event: median %v, worst %v", took[10], took[19])
	if took[19] > 200*time.Millisecond {
		t.Errorf("worst %v, want at most 200ms", took[19])
	}
}

func TestExecReplaces(t *testing.T) {
	w := newWatcher(t, Options{})
	waitQuiet(t, w)
	c := startChild(t, "/proc/self/exe", childExec)
	first := waitStarted(t, w, c.pid())
	c.in.Write([]byte{0})
	second := waitStarted(t, w, c.pid())
	if first.Replaced || !second.Replaced {
		t.Errorf("replaced: first %v, second %v", first.Replaced, second.Replaced)
	}
	if first.Process.Key != second.Process.Key || first.Process.ExecID >= second.Process.ExecID {
		t.Errorf("same process expected, later exec: first %+v, second %+v", first, second)
	}
	if second.Process.Comm != "exe" && second.Process.Comm != "again" {
		t.Errorf("comm %q", second.Process.Comm)
	}
	if ok, err := w.Check(first.Process); err != nil || ok {
		t.Errorf("Check of the program before: %v, %v", ok, err)
	}
	c.end()
	waitExited(t, w, first.Process.Key)
}

// TestForkExecChain: sh runs sh runs sh runs sleep, the last two by exec.
func TestForkExecChain(t *testing.T) {
	w := newWatcher(t, Options{})
	waitQuiet(t, w)
	cmd := exec.Command("/bin/sh", "-c", `sh -c 'exec sh -c "exec sleep 60"' & echo $!; wait`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer syscall.Kill(pid, syscall.SIGKILL)

	outer := waitStarted(t, w, int32(cmd.Process.Pid))
	// By executable: the path is read a little later and may be the next program's.
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	var seen []Started
	for len(seen) == 0 || seen[len(seen)-1].Process.Exe != statExe(t, sleep) {
		seen = append(seen, waitStarted(t, w, int32(pid)))
	}
	if seen[0].Process.PPID != outer.Process.Key.PID {
		t.Errorf("ppid %d, want %d", seen[0].Process.PPID, outer.Process.Key.PID)
	}
	for i, s := range seen {
		if s.Replaced != (i > 0) || s.Process.Key != seen[0].Process.Key {
			t.Errorf("link %d of the chain: %+v", i, s)
		}
	}
	if len(seen) != 3 {
		t.Errorf("%d programs in process %d, want 3 (sh, sh, sleep)", len(seen), pid)
	}
}

// TestLeaderEndsFirst: the process goes on without its leader thread, is listed,
// and is gone only with its last thread.
func TestLeaderEndsFirst(t *testing.T) {
	c := startChild(t, "/proc/self/exe", childThread)
	tid, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(eventDeadline)
	for !leaderIsZombie(t, c.pid()) {
		if time.Now().After(deadline) {
			t.Fatalf("leader of %d (going on in thread %s) still runs", c.pid(), tid)
		}
		time.Sleep(time.Millisecond)
	}
	w := newWatcher(t, Options{})
	s := waitStarted(t, w, c.pid())
	if want := statExe(t, "/proc/self/exe"); s.Process.Exe != want {
		t.Errorf("exe %v, want %v", s.Process.Exe, want)
	}
	c.end()
	waitExited(t, w, s.Process.Key)
}

func leaderIsZombie(t *testing.T, pid int32) bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), ") Z ")
}

func TestListening(t *testing.T) {
	before := startChild(t, "/proc/self/exe", childListen)
	portBefore := readPort(t, before)
	w := newWatcher(t, Options{Ports: true})
	after := startChild(t, "/proc/self/exe", childListen)
	portAfter := readPort(t, after)
	for _, c := range []struct {
		pid  int32
		port uint16
	}{{before.pid(), portBefore}, {after.pid(), portAfter}} {
		waitFor(t, w, fmt.Sprintf("Listening of %d on %d", c.pid, c.port), func(e Event) bool {
			l, ok := e.(Listening)
			return ok && l.Key.PID == c.pid && l.Port == c.port
		})
	}
}

func readPort(t *testing.T, c *child) uint16 {
	t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(strings.TrimSpace(line), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

// TestAutoSelect: the kernel puts a process of a known executable into tr_procs
// at exec, and throws it out at the next exec or at its end.
func TestAutoSelect(t *testing.T) {
	procs, exes := sharedMaps(t)
	w := newWatcher(t, Options{Procs: procs, ExeAuto: exes})
	waitQuiet(t, w)

	id := statExe(t, "/proc/self/exe")
	key := bpfTrExeKey{Ino: id.Ino, Dev: id.Dev}
	if err := exes.Put(key, bpfTrExeAuto{ExeId: 7, LoadVaddr: 0x400000}); err != nil {
		t.Fatal(err)
	}
	c := startChild(t, "/proc/self/exe", childWait)
	s := waitStarted(t, w, c.pid())
	if !s.Process.Auto {
		t.Error("Auto is false")
	}
	var got bpfTrProc
	if err := procs.Lookup(uint32(c.pid()), &got); err != nil {
		t.Fatalf("not in tr_procs: %v", err)
	}
	want := bpfTrProc{StartNs: s.Process.Key.StartNs, Bias: s.Process.StartCode - 0x400000, ExeId: 7, Epoch: got.Epoch}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	if age := uint32(now.Nano()>>20) - got.Epoch; age > 60<<10 {
		t.Errorf("epoch %d is %d ms ago, want the time of the exec", got.Epoch, age)
	}
	if got != want {
		t.Errorf("tr_procs has %+v, want %+v", got, want)
	}
	c.end()
	waitExited(t, w, s.Process.Key)
	if err := procs.Lookup(uint32(c.pid()), &got); err == nil {
		t.Error("still in tr_procs after its end")
	}

	// A watched process that becomes another program is thrown out.
	cmd := exec.Command("/bin/sh", "-c", "read x; exec cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	pid := uint32(cmd.Process.Pid)
	sh := waitStarted(t, w, int32(pid))
	if err := procs.Put(pid, bpfTrProc{StartNs: sh.Process.Key.StartNs}); err != nil {
		t.Fatal(err)
	}
	in.Write([]byte("\n"))
	waitStarted(t, w, int32(pid))
	if err := procs.Lookup(pid, &got); err == nil {
		t.Error("still in tr_procs after exec of another program")
	}
}

func sharedMaps(t *testing.T) (procs, exes *ebpf.Map) {
	t.Helper()
	procsSpec, exesSpec, err := MapSpecs()
	if err != nil {
		t.Fatal(err)
	}
	maps := make([]*ebpf.Map, 2)
	for i, spec := range []*ebpf.MapSpec{procsSpec, exesSpec} {
		if maps[i], err = ebpf.NewMap(spec); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { maps[i].Close() })
	}
	return maps[0], maps[1]
}

func TestCloseTwice(t *testing.T) {
	w := newWatcher(t, Options{Buffer: 1}) // full: the reporting goroutine waits
	w.Close()
	w.Close()
	for range w.Events() {
	}
}
