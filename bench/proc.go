package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
)

// The two processors: the server under test has the first to itself.
const (
	serverCPU = "0"
	loadCPU   = "1"
)

type procSpec struct {
	path string
	args []string
	env  []string
	cpu  string // taskset's list; "" = any
	// logLine, when set, is waited for on standard error instead of a ready line.
	logLine string
}

type ready struct {
	PID  int    `json:"pid"`
	HTTP string `json:"http"`
}

// proc is a running program that this run started.
type proc struct {
	cmd    *exec.Cmd
	ready  ready
	took   time.Duration // from start to ready
	exited chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

// start starts a program and waits, at most a minute, until it is ready.
func start(s procSpec) (*proc, error) {
	p, err := launch(s)
	if err != nil {
		return nil, err
	}
	if err := p.wait(s.logLine); err != nil {
		p.stop()
		return nil, fmt.Errorf("start %s: %w\n%s", filepath.Base(s.path), err, p.text())
	}
	return p, nil
}

func launch(s procSpec) (*proc, error) {
	path, args := s.path, s.args
	if s.cpu != "" {
		path, args = "taskset", append([]string{"-c", s.cpu, s.path}, s.args...)
	}
	p := &proc{cmd: exec.Command(path, args...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), s.env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	errs, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.read(out, began) })
	wg.Go(func() { p.read(errs, began) })
	go func() {
		wg.Wait()
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// read keeps what the program prints, each line with the time since its start.
func (p *proc) read(r io.Reader, began time.Time) {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		p.mu.Lock()
		fmt.Fprintf(&p.log, "%d %s\n", time.Since(began).Nanoseconds(), sc.Text())
		p.mu.Unlock()
	}
}

func (p *proc) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// find returns the first line that contains all texts, and when it was printed.
func (p *proc) find(texts ...string) (line string, at time.Duration, ok bool) {
next:
	for l := range strings.SplitSeq(p.text(), "\n") {
		stamp, rest, _ := strings.Cut(l, " ")
		for _, t := range texts {
			if !strings.Contains(rest+" ", t) {
				continue next
			}
		}
		ns, err := strconv.ParseInt(stamp, 10, 64)
		if err != nil {
			continue
		}
		return rest, time.Duration(ns), true
	}
	return "", 0, false
}

// await waits for a line, at most a minute.
func (p *proc) await(texts ...string) (string, time.Duration, error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(500 * time.Microsecond) {
		if line, at, ok := p.find(texts...); ok {
			return line, at, nil
		}
		select {
		case <-p.exited:
			return "", 0, errors.New("it ended: " + p.text())
		default:
		}
	}
	return "", 0, fmt.Errorf("no line with %q after a minute", texts)
}

func (p *proc) wait(logLine string) error {
	want := logLine
	if want == "" {
		want = "ready "
	}
	line, at, err := p.await(want)
	if err != nil {
		return err
	}
	p.took = at
	if logLine == "" {
		return json.Unmarshal([]byte(strings.TrimPrefix(line, "ready ")), &p.ready)
	}
	return nil
}

func (p *proc) pid() int { return p.cmd.Process.Pid }

// stop ends the program and waits for it.
func (p *proc) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// cpuTime is what all threads of a process have run, from the scheduler's
// nanosecond accounts.
func cpuTime(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("no scheduler accounts of process %d", pid)
	}
	var sum time.Duration
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has just ended
		}
		first, _, _ := strings.Cut(string(b), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", f, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// rssMiB is a process's resident memory.
func rssMiB(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no resident memory", pid)
}

// programRuns is the sum of runs of all uprobe programs that a process holds,
// as the kernel counts them while statistics are on.
func programRuns(pid int) (uint64, error) {
	runs, _, err := programStats(pid)
	return runs, err
}

// programStats is programRuns and how long they took.
func programStats(pid int) (runs uint64, took time.Duration, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		return 0, 0, err
	}
	seen := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(b, []byte("prog_type:")) {
			continue
		}
		_, rest, _ := strings.Cut(string(b), "prog_id:")
		id, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
		if id == "" || seen[id] {
			continue
		}
		seen[id] = true
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return 0, 0, err
		}
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(n))
		if err != nil {
			return 0, 0, err
		}
		if p.Type() == ebpf.Kprobe {
			st, err := p.Stats()
			if err != nil {
				return 0, 0, err
			}
			runs += st.RunCount
			took += st.Runtime
		}
		if err := p.Close(); err != nil {
			return 0, 0, err
		}
	}
	return runs, took, nil
}
