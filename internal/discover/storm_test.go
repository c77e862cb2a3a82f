package discover

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// ledger follows events and checks their order for every process.
type ledger struct {
	t       *testing.T
	running map[int32]telemetry.ProcessKey
	ended   map[telemetry.ProcessKey]bool
	seen    map[int32]int // Started without Replaced, by pid
}

func newLedger(t *testing.T) *ledger {
	return &ledger{t, map[int32]telemetry.ProcessKey{}, map[telemetry.ProcessKey]bool{}, map[int32]int{}}
}

func (l *ledger) add(e Event) {
	switch e := e.(type) {
	case Started:
		key := e.Process.Key
		now, running := l.running[key.PID]
		switch {
		case e.Replaced && (!running || now != key):
			l.t.Errorf("%v replaced, but %v was running (%v)", key, now, running)
		case !e.Replaced && running:
			l.t.Errorf("%v started while %v was running", key, now)
		case !e.Replaced && l.ended[key]:
			l.t.Errorf("%v started after it ended", key)
		}
		if !e.Replaced {
			l.seen[key.PID]++
		}
		l.running[key.PID] = key
	case Exited:
		if l.running[e.Key.PID] != e.Key {
			l.t.Errorf("%v ended, but %v was running", e.Key, l.running[e.Key.PID])
		}
		delete(l.running, e.Key.PID)
		l.ended[e.Key] = true
	}
}

// TestExecStorm: 200 short-lived processes a second for some seconds; each is
// reported, begin and end, none twice.
func TestExecStorm(t *testing.T) {
	const perSecond, seconds = 200, 3
	w := newWatcher(t, Options{})
	var pids []int32
	stormOver := make(chan struct{})
	go func() {
		defer close(stormOver)
		tick := time.NewTicker(time.Second / perSecond)
		defer tick.Stop()
		for range perSecond * seconds {
			<-tick.C
			cmd := exec.Command("/bin/true")
			if err := cmd.Run(); err != nil {
				t.Errorf("run: %v", err)
				return
			}
			pids = append(pids, int32(cmd.Process.Pid))
		}
	}()
	before := cpuTime(t)
	l := newLedger(t)
	collect(t, w, l, stormOver)
	// The agent's own share: this process forks and waits as well.
	t.Logf("%v CPU of this process per exec, forking included; stats %+v",
		(cpuTime(t)-before)/time.Duration(len(pids)), w.Stats())
	for _, pid := range pids {
		if l.seen[pid] == 0 {
			t.Errorf("process %d was never reported", pid)
		}
		if key, ok := l.running[pid]; ok {
			t.Errorf("the end of %v was never reported", key)
		}
	}
	if s := w.Stats(); s.Lost != 0 || s.Scans != 1 {
		t.Errorf("records were lost at this rate: %+v", s)
	}
}

// collect feeds events until over is closed, and then what had happened by that time: a
// process that begins and ends afterwards is reported last. Others come and go on the host.
func collect(t *testing.T, w *Watcher, l *ledger, over <-chan struct{}) {
	t.Helper()
	for over != nil {
		select {
		case e := <-w.Events():
			l.add(e)
		case <-over:
			over = nil
		}
	}
	last := startChild(t, "/proc/self/exe", childWait)
	waitFor(t, w, "last process", func(e Event) bool {
		l.add(e)
		s, ok := e.(Started)
		return ok && s.Process.Key.PID == last.pid()
	})
	last.end()
	waitFor(t, w, "end of the last process", func(e Event) bool {
		l.add(e)
		x, ok := e.(Exited)
		return ok && x.Key.PID == last.pid()
	})
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestLostRecords: nobody reads while more happens than the ring holds. What is
// lost is made up for by a scan, in order.
func TestLostRecords(t *testing.T) {
	w := newWatcher(t, Options{Buffer: 1})
	l := newLedger(t)
	ends := startChild(t, "/proc/self/exe", childWait)
	for l.seen[ends.pid()] == 0 {
		l.add(<-w.Events())
	}
	// The reporting goroutine now waits for us after one more event.
	deadline := time.Now().Add(60 * time.Second)
	for i := 0; w.readLost() == 0; i++ {
		if time.Now().After(deadline) {
			t.Fatalf("the ring holds more than %d processes", i)
		}
		if err := exec.Command("/bin/true").Run(); err != nil {
			t.Fatal(err)
		}
	}
	// These two are lost for sure.
	begins := startChild(t, "/proc/self/exe", childWait)
	ends.end()

	over := make(chan struct{})
	close(over)
	collect(t, w, l, over)
	if s := w.Stats(); s.Lost == 0 || s.Scans < 2 {
		t.Errorf("stats %+v, want losses and a second scan", s)
	} else {
		t.Logf("stats %+v", s)
	}
	if key, ok := l.running[begins.pid()]; !ok {
		t.Error("a process whose exec record was lost is not known")
	} else if got, want := key.StartNs/10_000_000, startTime(t, begins.pid()); got != want {
		t.Errorf("its start is %d ticks, want %d", got, want)
	}
	if key, ok := l.running[ends.pid()]; ok {
		t.Errorf("%v, whose exit record was lost, is still known", key)
	}
	for pid := range maps.Clone(l.running) {
		if _, ok := l.running[pid]; ok && syscall.Kill(int(pid), 0) != nil {
			waitFor(t, w, fmt.Sprintf("end of %d, which is gone", pid), func(e Event) bool {
				l.add(e)
				_, ok := l.running[pid]
				return !ok
			})
		}
	}
}

// TestPIDReuse: a pid comes again at once; the two processes are told apart.
func TestPIDReuse(t *testing.T) {
	w := newWatcher(t, Options{})
	waitQuiet(t, w)
	first := startChild(t, "/proc/self/exe", childWait)
	pid := first.pid()
	l := newLedger(t)
	s := waitStarted(t, w, pid)
	l.add(s)
	first.end()

	var second *child
	for range 50 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(int(pid)-1)), 0); err != nil {
			t.Skipf("pids cannot be chosen here (needs CAP_CHECKPOINT_RESTORE and CONFIG_CHECKPOINT_RESTORE): %v", err)
		}
		c := startChild(t, "/proc/self/exe", childWait)
		if c.pid() == pid {
			second = c
			break
		}
		c.end() // another thread or process was faster
	}
	if second == nil {
		t.Fatalf("pid %d never came again", pid)
	}
	var again Started
	for again.Process.Key.PID != pid {
		e := waitFor(t, w, "any event", func(Event) bool { return true })
		if x, ok := e.(Exited); ok && x.Key.PID == pid {
			l.add(e)
		}
		if x, ok := e.(Started); ok && x.Process.Key.PID == pid {
			l.add(e)
			again = x
		}
	}
	if again.Replaced || again.Process.Key == s.Process.Key {
		t.Errorf("the second process of pid %d is taken for the first: %+v", pid, again)
	}
	if ok, err := w.Check(s.Process); err != nil || ok {
		t.Errorf("Check of the first process: %v, %v", ok, err)
	}
}

// TestOverlay: one executable in two overlay mounts, as in two containers of one
// image, is one executable, the one below.
func TestOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root (mount)")
	}
	dir := t.TempDir()
	lower := filepath.Join(dir, "lower")
	if err := os.Mkdir(lower, 0o755); err != nil {
		t.Fatal(err)
	}
	// A file system of its own: some hosts' temporary folders are overlays.
	if err := unix.Mount("lower", lower, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(lower, unix.MNT_DETACH)
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(lower, "app"), exe, 0o755); err != nil {
		t.Fatal(err)
	}
	want := statExe(t, filepath.Join(lower, "app"))
	w := newWatcher(t, Options{})
	waitQuiet(t, w)
	if !w.objs.findVMA {
		t.Skip("needs bpf_find_vma (Linux 5.17)")
	}
	for _, name := range []string{"one", "two"} {
		mnt := filepath.Join(dir, name)
		for _, sub := range []string{"", "/upper", "/work", "/mnt"} {
			if err := os.Mkdir(mnt+sub, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		opts := "lowerdir=" + lower + ",upperdir=" + mnt + "/upper,workdir=" + mnt + "/work"
		if err := unix.Mount("overlay", mnt+"/mnt", "overlay", 0, opts); err != nil {
			t.Skipf("needs overlayfs: %v", err)
		}
		defer unix.Unmount(mnt+"/mnt", unix.MNT_DETACH)
		c := startChild(t, mnt+"/mnt/app", childWait)
		if got := waitStarted(t, w, c.pid()).Process; got.Exe != want {
			t.Errorf("mount %s: exe %v from the exec record, want %v", name, got.Exe, want)
		} else if !strings.HasSuffix(got.Path, "/mnt/app") {
			t.Errorf("mount %s: path %q", name, got.Path)
		}
		list, err := w.scanner.list()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			if p.Key.PID == c.pid() && p.Exe != want {
				t.Errorf("mount %s: exe %v from the iterator, want %v", name, p.Exe, want)
			}
		}
		c.end()
	}
}

// TestWithoutFindVMA loads and uses the programs for kernels before 5.17.
func TestWithoutFindVMA(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root (CAP_BPF, CAP_PERFMON)")
	}
	objs, err := loadVariant(Options{Ports: true}, false, false)
	if err != nil {
		t.Fatal(err)
	}
	defer objs.Close()
	s, err := newScanner(objs.tasks, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	procs, err := s.list()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if p.Key.PID == int32(os.Getpid()) {
			return
		}
	}
	t.Errorf("this process is not among %d listed", len(procs))
}

// TestScanIsWhole: the iterator and /proc know the same processes.
func TestScanIsWhole(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root (CAP_BPF, CAP_PERFMON)")
	}
	procs, err := Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	got := map[int32]string{}
	for _, p := range procs {
		got[p.Key.PID] = p.Path
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		path, err := os.Readlink(dir + "/exe")
		if err != nil {
			continue // kernel thread, zombie or gone
		}
		pid, err := strconv.ParseInt(filepath.Base(dir), 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < 2*time.Second {
			continue // perhaps younger than the list
		}
		if listed, ok := got[int32(pid)]; !ok {
			t.Errorf("process %d (%s) is not listed", pid, path)
		} else if strings.TrimSuffix(path, " (deleted)") != listed {
			t.Errorf("process %d: path %q, want %q", pid, listed, path)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	objs, err := load(Options{}, true)
	if err != nil {
		b.Skip(err)
	}
	defer objs.Close()
	s, err := newScanner(objs.tasks, objs.findVMA)
	if err != nil {
		b.Fatal(err)
	}
	defer s.close()
	n := 0
	for b.Loop() {
		procs, err := s.list()
		if err != nil {
			b.Fatal(err)
		}
		n = len(procs)
	}
	b.ReportMetric(float64(n), "processes")
}
