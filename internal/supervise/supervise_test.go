package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/policy"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// The processes and files here are real, and so is discovery; only the probes are
// not: what they would do is written down.

const (
	childEnv = "SUPERVISE_TEST_CHILD" // wait, listen, exec (once, on a byte)
	deadline = 10 * time.Second
)

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "listen":
		l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
		if err != nil {
			panic(err)
		}
		defer l.Close()
	case "exec":
		io.ReadFull(os.Stdin, make([]byte, 1))
		panic(syscall.Exec("/proc/self/exe", []string{"again"}, []string{childEnv + "=wait"}))
	}
	io.Copy(io.Discard, os.Stdin)
}

// book is an Attacher and a Directory that writes down what it is told.
type book struct {
	mu       sync.Mutex
	attach   func(n int, path string) error // of the n-th Attach, from 1
	attached []probe.ExeRef
	detached int
	auto     map[*probe.Attached]bool
	procs    map[telemetry.ProcessKey]*probe.Attached
	named    map[telemetry.ProcessKey]bool
}

func newBook() *book {
	return &book{
		auto:  map[*probe.Attached]bool{},
		procs: map[telemetry.ProcessKey]*probe.Attached{},
		named: map[telemetry.ProcessKey]bool{},
	}
}

func (b *book) Attach(_ context.Context, ref probe.ExeRef) (*probe.Attached, error) {
	b.mu.Lock()
	b.attached = append(b.attached, ref)
	n, hook := len(b.attached), b.attach
	b.mu.Unlock()
	if hook != nil {
		if err := hook(n, ref.Path); err != nil {
			return nil, err
		}
	}
	return &probe.Attached{ID: uint32(n), Ref: ref}, nil
}

func (b *book) Detach(a *probe.Attached) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.detached++
	delete(b.auto, a)
	for key, of := range b.procs {
		if of == a {
			delete(b.procs, key)
		}
	}
}

func (b *book) AutoSelect(a *probe.Attached, on bool, _ probe.Hand) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.auto[a] = on
	return nil
}

func (b *book) AddProcess(key telemetry.ProcessKey, _ uint64, a *probe.Attached, _ probe.Hand) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.procs[key] = a
	return nil
}

func (b *book) RemoveProcess(key telemetry.ProcessKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.procs, key)
}

func (b *book) Replaced(telemetry.ProcessKey) {}

func (b *book) Mute(*probe.Attached, func(string) bool) error { return nil }

func (b *book) Add(p discover.Process, _ *policy.Policy, _ *probe.Attached) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.named[p.Key] = true
	return "svc-" + p.Comm
}

func (b *book) Remove(key telemetry.ProcessKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.named, key)
}

// watched returns who watches a pid, nil for nobody.
func (b *book) watched(pid int) *probe.Attached {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, a := range b.procs {
		if int(key.PID) == pid {
			return a
		}
	}
	return nil
}

func (b *book) counts() (attached, detached, procs, named int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.attached), b.detached, len(b.procs), len(b.named)
}

// rig is a running Supervisor.
type rig struct {
	*book
	t    *testing.T
	s    *Supervisor
	logs *safeBuffer
	err  chan error
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// lines returns the log lines that contain all the words.
func (s *safeBuffer) lines(words ...string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
next:
	for line := range strings.Lines(s.b.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		out = append(out, line)
	}
	return out
}

func start(t *testing.T, b *book, sel discover.Selection, idle time.Duration) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root (CAP_BPF, CAP_PERFMON)")
	}
	selector, err := discover.NewSelector(sel)
	if err != nil {
		t.Fatal(err)
	}
	w, err := discover.New(discover.Options{Ports: selector.WantsPorts()})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{book: b, t: t, logs: &safeBuffer{}, err: make(chan error, 1)}
	r.s = New(Options{
		Logger:   slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Selector: selector, Attacher: b, Directory: b, Events: w.Events(), Check: w.Check,
		PIDs: sel.PIDs, OnlyPIDs: len(sel.Exes) == 0 && len(sel.Ports) == 0 && !sel.AllGo,
		IdleFor: idle,
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { r.err <- r.s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-r.err:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(deadline):
			t.Error("Run does not end")
		}
		w.Close()
		if t.Failed() {
			t.Logf("log:\n%s", strings.Join(r.logs.lines(), ""))
		}
	})
	return r
}

// ended waits for the end of Run, and leaves the result for the cleanup as nil.
func (r *rig) ended() error {
	r.t.Helper()
	select {
	case err := <-r.err:
		r.err <- nil
		return err
	case <-time.After(deadline):
		r.t.Fatal("Run does not end")
		return nil
	}
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not within %v: %s", deadline, what)
		}
	}
}

func (r *rig) untilWatched(pid int) *probe.Attached {
	r.t.Helper()
	r.until(fmt.Sprintf("process %d is watched", pid), func() bool { return r.watched(pid) != nil })
	return r.watched(pid)
}

// program is a copy of this test binary under a name of its own.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "prog")
	copyTo(t, path)
	return path
}

func copyTo(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

type child struct {
	*exec.Cmd
	in io.WriteCloser
}

func run(t *testing.T, path, mode string, env ...string) *child {
	t.Helper()
	cmd := exec.Command(path)
	cmd.Env = append(append(os.Environ(), env...), childEnv+"="+mode)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd, in}
	t.Cleanup(c.end)
	return c
}

func (c *child) pid() int { return c.Process.Pid }
func (c *child) end()     { c.in.Close(); c.Wait() }

func TestOneAttachForMany(t *testing.T) {
	path := program(t)
	first := run(t, path, "wait") // before the start
	r := start(t, newBook(), discover.Selection{Exes: []string{path}}, 0)
	a := r.untilWatched(first.pid())
	var more []*child
	for range 5 {
		c := run(t, path, "wait")
		more = append(more, c)
		if b := r.untilWatched(c.pid()); b != a {
			t.Errorf("process %d has its own attachment", c.pid())
		}
	}
	if n, _, _, named := r.counts(); n != 1 || named != 6 {
		t.Errorf("%d attachments and %d names, want 1 and 6", n, named)
	}
	r.mu.Lock()
	if !r.auto[a] {
		t.Error("later processes are not selected in the kernel")
	}
	r.mu.Unlock()
	for _, c := range append(more, first) {
		c.end()
	}
	r.until("all are let go", func() bool { _, _, n, named := r.counts(); return n == 0 && named == 0 })
	if lines := r.logs.lines("msg=instrumented", "service=svc-prog", "exe="+path); len(lines) != 6 {
		t.Errorf("%d lines for 6 processes: %q", len(lines), lines)
	}
}

// TestReady: a new process of a new executable is in well within 200 ms.
func TestReady(t *testing.T) {
	r := start(t, newBook(), discover.Selection{Exes: []string{"prog"}}, 0)
	r.until("the first scan", func() bool { return true })
	for range 5 {
		path := program(t)
		begin := time.Now()
		c := run(t, path, "wait")
		r.untilWatched(c.pid())
		if took := time.Since(begin); took > 200*time.Millisecond {
			t.Errorf("watched after %v, want at most 200ms", took)
		}
	}
}

func TestRefusedOnce(t *testing.T) {
	path := program(t)
	b := newBook()
	b.attach = func(int, string) error { return fmt.Errorf("look: %w", goexe.ErrUnsupportedGo) }
	r := start(t, b, discover.Selection{Exes: []string{path}}, 0)
	for range 50 { // an exec storm of it costs nothing
		c := run(t, path, "wait")
		c.Process.Kill() // under the race detector an orderly end takes a second
		c.Wait()
	}
	last := run(t, path, "wait")
	r.until("it is refused", func() bool { return len(r.logs.lines(`msg="not instrumented"`)) > 0 })
	// A process of something else, to know that everything before it was handled.
	r.until("the last is seen", func() bool { n, _, _, _ := r.counts(); return n >= 1 })
	last.end()
	if n, _, procs, _ := r.counts(); n != 1 || procs != 0 {
		t.Errorf("%d attempts and %d processes, want 1 and 0", n, procs)
	}
	if lines := r.logs.lines(`msg="not instrumented"`, "level=WARN", "unsupported Go version"); len(lines) != 1 {
		t.Errorf("%d lines, want 1: %q", len(lines), lines)
	}
}

func TestBadOneDoesNotStopOthers(t *testing.T) {
	bad, good := program(t), program(t)
	b := newBook()
	b.attach = func(n int, _ string) error {
		if n == 1 {
			panic("index out of range")
		}
		return nil
	}
	r := start(t, b, discover.Selection{Exes: []string{"prog"}}, 0)
	c := run(t, bad, "wait")
	r.until("the panic is reported", func() bool { return len(r.logs.lines("internal error", "index out of range")) == 1 })
	r.untilWatched(run(t, good, "wait").pid())
	c.end()
}

func TestPIDs(t *testing.T) {
	t.Run("ends with the last", func(t *testing.T) {
		c := run(t, program(t), "wait")
		r := start(t, newBook(), discover.Selection{PIDs: []int32{int32(c.pid())}}, 0)
		r.untilWatched(c.pid())
		c.end()
		if err := r.ended(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Run("none exists", func(t *testing.T) {
		r := start(t, newBook(), discover.Selection{PIDs: []int32{1 << 22, 2}}, 0) // 2 is a kernel thread
		if err := r.ended(); !errors.Is(err, ErrNothingLeft) {
			t.Errorf("Run: %v, want %v", err, ErrNothingLeft)
		}
		if lines := r.logs.lines("level=ERROR", "no such process"); len(lines) != 2 {
			t.Errorf("log %q, want a line for each pid", lines)
		}
	})
	t.Run("a thread", func(t *testing.T) {
		c := run(t, program(t), "wait")
		tid := 0
		for end := time.Now().Add(deadline); tid == 0 && time.Now().Before(end); {
			tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", c.pid()))
			for _, task := range tasks {
				if n, err := strconv.Atoi(filepath.Base(task)); err == nil && n != c.pid() {
					tid = n
				}
			}
		}
		r := start(t, newBook(), discover.Selection{PIDs: []int32{int32(tid)}}, 0)
		if err := r.ended(); !errors.Is(err, ErrNothingLeft) {
			t.Errorf("Run: %v, want %v", err, ErrNothingLeft)
		}
		if lines := r.logs.lines(fmt.Sprintf("use --pid %d", c.pid())); len(lines) != 1 {
			t.Errorf("log %q, want the process named", r.logs.lines())
		}
	})
	t.Run("refused", func(t *testing.T) {
		b := newBook()
		b.attach = func(int, string) error { return goexe.ErrNotGo }
		path := program(t)
		one, two := run(t, path, "wait"), run(t, path, "wait")
		r := start(t, b, discover.Selection{PIDs: []int32{int32(one.pid()), int32(two.pid())}}, 0)
		if err := r.ended(); !errors.Is(err, ErrNothingLeft) {
			t.Errorf("Run: %v, want %v", err, ErrNothingLeft)
		}
		if lines := r.logs.lines("level=ERROR", "not a Go program"); len(lines) != 2 {
			t.Errorf("log %q, want a line for each pid", lines)
		}
	})
}

func TestPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	path := program(t)
	r := start(t, newBook(), discover.Selection{Ports: []uint16{uint16(port)}}, 0)
	other := run(t, path, "wait")
	c := run(t, path, "listen", fmt.Sprintf("PORT=%d", port))
	a := r.untilWatched(c.pid())
	if r.watched(other.pid()) != nil {
		t.Error("a process of the same executable that does not listen is watched")
	}
	r.mu.Lock()
	if r.auto[a] {
		t.Error("all later processes of the executable are selected")
	}
	r.mu.Unlock()
}

func TestReplaced(t *testing.T) {
	path := program(t)
	r := start(t, newBook(), discover.Selection{Exes: []string{path}}, 0)
	c := run(t, path, "exec")
	r.untilWatched(c.pid())
	c.in.Write([]byte{0})
	r.until("it is let in again", func() bool { return len(r.logs.lines("msg=instrumented")) == 2 })
	if n, _, procs, named := r.counts(); n != 1 || procs != 1 || named != 1 {
		t.Errorf("%d attachments, %d processes, %d names, want 1 each", n, procs, named)
	}
	sh := exec.Command("/bin/sh", "-c", "read x; exec "+path)
	in, _ := sh.StdinPipe()
	sh.Env = append(os.Environ(), childEnv+"=wait")
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	defer sh.Wait()
	defer in.Close()
	in.Write([]byte("\n"))
	r.untilWatched(sh.Process.Pid)
}

// TestIdle: an executable that nothing selects for the future is dropped a while
// after its last process; one selected by pattern stays.
func TestIdle(t *testing.T) {
	const idle = 100 * time.Millisecond
	t.Run("by pid", func(t *testing.T) {
		other := run(t, program(t), "wait") // keeps Run going
		c := run(t, program(t), "wait")
		r := start(t, newBook(), discover.Selection{PIDs: []int32{int32(c.pid()), int32(other.pid())}}, idle)
		r.untilWatched(c.pid())
		r.untilWatched(other.pid())
		c.end()
		r.until("it is detached", func() bool { _, n, _, _ := r.counts(); return n == 1 })
	})
	t.Run("by pattern, until deleted", func(t *testing.T) {
		path := program(t)
		if !leases(t, path) {
			t.Skip("this file system grants no leases: executables are detached at once")
		}
		r := start(t, newBook(), discover.Selection{Exes: []string{path}}, idle)
		c := run(t, path, "wait")
		r.untilWatched(c.pid())
		c.end()
		r.until("it is let go", func() bool { _, _, n, _ := r.counts(); return n == 0 })
		time.Sleep(4 * idle) // nothing is to happen: there is nothing to wait for
		if _, n, _, _ := r.counts(); n != 0 {
			t.Error("detached although every later process is selected")
		}
		os.Remove(path)
		r.until("the deleted file is detached", func() bool { _, n, _, _ := r.counts(); return n == 1 })
	})
}

func leases(t *testing.T, path string) bool {
	t.Helper()
	h, err := hold(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.release()
	return h.leased
}

// TestOverwritten: probes are off before the first byte of a file changes, and the
// new content is analysed anew.
func TestOverwritten(t *testing.T) {
	path := program(t)
	if !leases(t, path) {
		t.Skip("this file system grants no leases: executables are detached with their last process")
	}
	r := start(t, newBook(), discover.Selection{Exes: []string{path}}, 0)
	c := run(t, path, "wait")
	r.untilWatched(c.pid())
	c.end()
	r.until("it is let go", func() bool { _, _, n, _ := r.counts(); return n == 0 })

	f, err := os.OpenFile(path, os.O_WRONLY, 0) // waits for the lease
	if err != nil {
		t.Fatal(err)
	}
	if _, n, _, _ := r.counts(); n != 1 {
		t.Errorf("the file is open for writing with probes on it (%d detached)", n)
	}
	if _, err := f.WriteAt([]byte{0}, 15); err != nil { // padding of e_ident
		t.Fatal(err)
	}
	f.Close()
	again := run(t, path, "wait")
	r.untilWatched(again.pid())
	if n, _, _, _ := r.counts(); n != 2 {
		t.Errorf("analysed %d times, want 2", n)
	}
}

// TestRefusedAgain: a refused executable that was replaced in place gets another chance.
func TestRefusedAgain(t *testing.T) {
	path := program(t)
	b := newBook()
	b.attach = func(n int, _ string) error {
		if n == 1 {
			return probe.ErrNothingToDo
		}
		return nil
	}
	r := start(t, b, discover.Selection{Exes: []string{path}}, 0)
	c := run(t, path, "wait")
	r.until("it is refused", func() bool { return len(r.logs.lines("without net/http")) == 1 })
	c.end()
	copyTo(t, path)
	r.untilWatched(run(t, path, "wait").pid())
}

func TestTakenOut(t *testing.T) {
	path := program(t)
	r := start(t, newBook(), discover.Selection{Exes: []string{path}}, 0)
	c := run(t, path, "wait")
	a := r.untilWatched(c.pid())
	r.Detach(a) // as the Manager does
	r.s.Refused(a, fmt.Errorf("%w: goroutine ids are not sane", probe.ErrRefused))
	r.until("it is said", func() bool { return len(r.logs.lines(`msg="not instrumented"`, "not sane")) == 1 })
	next := run(t, path, "wait")
	next.end()
	r.until("nobody is described any more", func() bool { _, _, _, named := r.counts(); return named == 0 })
	if n, _, procs, _ := r.counts(); n != 1 || procs != 0 {
		t.Errorf("%d attachments and %d processes after it was taken out, want 1 and 0", n, procs)
	}
}

// TestGoneBeforeOpen: the process through which an executable was to be opened
// ended; another one of it is taken.
func TestGoneBeforeOpen(t *testing.T) {
	path := program(t)
	one, two := run(t, path, "wait"), run(t, path, "wait")
	b := newBook()
	r := start(t, b, discover.Selection{Exes: []string{path}}, 0)
	r.untilWatched(one.pid())
	r.untilWatched(two.pid())

	s := New(Options{Selector: must(discover.NewSelector(discover.Selection{AllGo: true})), Attacher: b})
	gone := &process{Process: discover.Process{Key: telemetry.ProcessKey{PID: 1 << 22}}}
	res := s.attach(context.Background(), job{exe: &executable{}, proc: gone.Process})
	if !errors.Is(res.err, errGone) {
		t.Errorf("a pid that does not exist: %v, want %v", res.err, errGone)
	}
	s.opts.Check = func(discover.Process) (bool, error) { return false, nil }
	res = s.attach(context.Background(), job{exe: &executable{}, proc: discover.Process{Key: telemetry.ProcessKey{PID: int32(two.pid())}}})
	if !errors.Is(res.err, errGone) {
		t.Errorf("a process that runs something else: %v, want %v", res.err, errGone)
	}
	e := &executable{procs: map[telemetry.ProcessKey]*process{{PID: 7}: {}, {PID: 8}: {}}}
	s.exes[e.id] = e
	s.finish(result{job: job{exe: e, proc: discover.Process{Key: telemetry.ProcessKey{PID: 7}}}, err: errGone})
	if len(s.queue) != 1 || len(e.procs) != 1 {
		t.Errorf("queue %v, processes %v: want it queued again with the other process", s.queue, e.procs)
	}
	if _, next := s.nextJob(); next.exe != e {
		t.Error("it is not the next job")
	}
}

// TestEndedTooSoon: the kernel let a process in whose path could not be read any
// more: it is selected like the others of its executable.
func TestEndedTooSoon(t *testing.T) {
	b := newBook()
	s := New(Options{Selector: must(discover.NewSelector(discover.Selection{Exes: []string{"api"}})), Attacher: b})
	id := discover.ExeID{Dev: 1, Ino: 2}
	a := &probe.Attached{ID: 1}
	h := must(hold("/proc/self/exe"))
	defer h.release()
	s.exes[id] = &executable{id: id, path: "/srv/api", state: attached, a: a, held: h,
		procs: map[telemetry.ProcessKey]*process{{PID: 1}: {}}}
	key := telemetry.ProcessKey{PID: 1 << 22, StartNs: 1}
	s.handle(discover.Started{Process: discover.Process{Key: key, Exe: id, Auto: true}})
	if b.procs[key] != a {
		t.Errorf("watched: %v, want the process of a known executable", b.procs)
	}
	s.handle(discover.Exited{Key: key})
	if len(b.procs) != 0 || len(s.procs) != 0 {
		t.Errorf("after its end: %v, %v", b.procs, s.procs)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
