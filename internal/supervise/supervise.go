package supervise

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/policy"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const (
	// maxExes bounds the executables that are remembered, refused ones included.
	maxExes = 4096
	// idleFor is how long an executable keeps its probes without a process.
	idleFor = 30 * time.Second
	// sweepEvery is how often idle executables are looked for.
	sweepEvery = 5 * time.Second
	// maxPorts bounds the listening ports that are remembered of one process.
	maxPorts = 256
)

// ErrNothingLeft says that only certain pids were asked for and none of them could
// be instrumented; why is in the log, one line each.
var ErrNothingLeft = errors.New("no process left to watch")

// Attacher puts probes on executables and lets processes in; *probe.Manager.
type Attacher interface {
	Attach(context.Context, probe.ExeRef) (*probe.Attached, error)
	Detach(*probe.Attached)
	AutoSelect(a *probe.Attached, on bool, hand probe.Hand) error
	AddProcess(key telemetry.ProcessKey, startCode uint64, a *probe.Attached, hand probe.Hand) error
	RemoveProcess(telemetry.ProcessKey)
	// Replaced: the process runs another program, which the kernel has let in already.
	Replaced(telemetry.ProcessKey)
	// Mute attaches the probes of an executable that are wanted and detaches the others.
	Mute(a *probe.Attached, off func(probe string) bool) error
}

// Directory learns which processes are watched, to describe them to exporters.
type Directory interface {
	// Add is told before the first span of a process can come, and returns the
	// service's name for the log.
	Add(p discover.Process, pol *policy.Policy, a *probe.Attached) (service string)
	// Remove: the process ended; spans of it may still be under way.
	Remove(telemetry.ProcessKey)
}

// Propagation is how traces of some processes are handed on.
type Propagation interface {
	Hand() probe.Hand
	// Describe says for people what of it is in force in an executable, and why.
	Describe(*probe.Propagation) (mode, why string)
}

// Options of a Supervisor; Logger and Directory may be nil.
type Options struct {
	Logger    *slog.Logger
	Selector  *discover.Selector
	Attacher  Attacher
	Directory Directory
	// Events is the Watcher's channel.
	Events <-chan discover.Event
	// Check is the Watcher's: whether a process still runs the same program.
	Check func(discover.Process) (bool, error)
	// PIDs are the processes asked for by number.
	PIDs []int32
	// OnlyPIDs: nothing else is selected; Run ends when the last of them is gone.
	OnlyPIDs bool
	// Propagation says how the traces of processes are handed on that have a mode in
	// their policy; nil: not at all.
	Propagation func(mode string) Propagation
	// LeaveAlone says why an executable should not be watched unless its processes' policy
	// or a pid says so; nil: it may be.
	LeaveAlone func(*goexe.Exe) error
	// IdleFor overrides how long an executable keeps its probes without a process.
	IdleFor time.Duration
}

// Supervisor is the state of Run.
type Supervisor struct {
	opts Options
	log  *slog.Logger

	// procs holds all processes of the host, selected or not: the selection may change.
	procs map[telemetry.ProcessKey]*process
	exes  map[discover.ExeID]*executable
	// pids are those of Options.PIDs that are neither gone nor refused.
	pids         map[int32]bool
	instrumented int

	queue   []*executable // to be attached; the first is with the worker if busy
	busy    bool
	jobs    chan job
	results chan result
	refused chan refusal
	orders  chan order
	ended   chan struct{} // closed at the end of Run
	ready   atomic.Bool   // the processes that ran at the start were looked at
}

type process struct {
	discover.Process
	ports  []uint16
	reason discover.Reason
	policy *policy.Policy
	// undecided: its pod is not known yet.
	undecided bool
	exe       *executable // nil while not selected
	// watched: the Attacher has it.
	watched bool
	// service and handed are what the log said of it.
	service, handed string
}

type exeState uint8

const (
	pending exeState = iota
	attached
	refused
)

type executable struct {
	id    discover.ExeID
	path  string // of its first process
	state exeState
	procs map[telemetry.ProcessKey]*process

	// attached
	a         *probe.Attached
	held      *held
	auto      bool
	idleSince time.Time

	// refused
	why   error
	stamp stamp

	// alone: why it is left alone unless a process's policy says otherwise.
	alone error
	// released: the selection has changed while it was pending.
	released bool
}

type refusal struct {
	a   *probe.Attached
	why error
}

// New returns a Supervisor; Run does the work.
func New(opts Options) *Supervisor {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.IdleFor == 0 {
		opts.IdleFor = idleFor
	}
	s := &Supervisor{
		opts:    opts,
		log:     opts.Logger,
		procs:   map[telemetry.ProcessKey]*process{},
		exes:    map[discover.ExeID]*executable{},
		pids:    map[int32]bool{},
		jobs:    make(chan job),
		results: make(chan result, 1),
		refused: make(chan refusal, 64),
		orders:  make(chan order),
		ended:   make(chan struct{}),
	}
	for _, pid := range opts.PIDs {
		s.pids[pid] = true
	}
	return s
}

// Refused takes the news that probes turned out not to fit an executable after
// they were attached; the Manager has detached it already. It never blocks for
// long, and may be called from any goroutine while Run runs.
func (s *Supervisor) Refused(a *probe.Attached, why error) {
	select {
	case s.refused <- refusal{a, why}:
	default: // 64 wait already: the processes stay in our books, unwatched
	}
}

// Run works until ctx is done (nil), events end (nil), or, with OnlyPIDs, no
// process is left: nil when some were instrumented, else ErrNothingLeft. Nothing
// is detached at the end: that is for the Attacher's owner.
func (s *Supervisor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.work(ctx)
	}()
	defer func() {
		close(s.ended)
		cancel()
		<-done
		for _, e := range s.exes {
			e.held.release()
		}
	}()

	leases := make(chan os.Signal, 1)
	signal.Notify(leases, unix.SIGIO)
	defer signal.Stop(leases)
	sweep := time.NewTicker(min(sweepEvery, s.opts.IdleFor))
	defer sweep.Stop()

	for {
		jobs, next := s.nextJob()
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-s.opts.Events:
			if !ok {
				return nil
			}
			s.handle(ev)
		case jobs <- next:
			s.busy = true
			s.queue = s.queue[1:]
		case r := <-s.results:
			s.busy = false
			s.finish(r)
		case r := <-s.refused:
			s.takeOut(r)
		case o := <-s.orders:
			o.do()
			close(o.done)
		case <-leases:
			s.yieldLeases()
		case <-sweep.C:
			s.sweep(time.Now())
		}
		if s.opts.OnlyPIDs && len(s.pids) == 0 {
			if s.instrumented == 0 {
				return ErrNothingLeft
			}
			s.log.Info("all processes that were asked for have ended")
			return nil
		}
	}
}

func (s *Supervisor) handle(ev discover.Event) {
	switch ev := ev.(type) {
	case discover.Started:
		s.started(ev)
	case discover.Exited:
		s.exited(ev.Key)
	case discover.Listening:
		s.listening(ev)
	case discover.Scanned:
		s.scanned()
	}
}

// scanned looks for pids that were asked for and do not exist.
func (s *Supervisor) scanned() {
	s.ready.Store(true)
	running := map[int32]bool{}
	for key := range s.procs {
		running[key.PID] = true
	}
	for pid := range s.pids {
		if !running[pid] {
			s.notInstrumented(slog.LevelError, pid, "", errNoProcess(pid))
			delete(s.pids, pid)
		}
	}
}

// errNoProcess says what a number is that is no process's.
func errNoProcess(pid int32) error {
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		for line := range strings.Lines(string(status)) {
			tgid, ok := strings.CutPrefix(line, "Tgid:")
			if tgid = strings.TrimSpace(tgid); ok && tgid != fmt.Sprint(pid) {
				return fmt.Errorf("a thread of process %s; use --pid %s", tgid, tgid)
			}
		}
	}
	if _, err := os.Readlink(discover.ExePath(pid)); errors.Is(err, fs.ErrPermission) {
		return errors.New("its executable cannot be read; run as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH")
	}
	return errors.New("no such process, or a kernel thread; tracer-agent list shows what can be watched")
}

func (s *Supervisor) started(ev discover.Started) {
	p := ev.Process
	if old := s.procs[p.Key]; old != nil {
		s.replaced(old, p)
	}
	if e := s.exes[p.Exe]; p.Path == "" && e != nil {
		p.Path = e.path // it ended too soon to ask; the kernel may have let it in
	}
	proc := &process{Process: p}
	s.procs[p.Key] = proc
	if !s.choose(proc) {
		if p.Auto {
			// The kernel let it in for its inode; something else says otherwise.
			s.opts.Attacher.RemoveProcess(p.Key)
		}
		return
	}
	s.want(proc)
}

// choose asks the selector about a process and notes the answer.
func (s *Supervisor) choose(p *process) (wanted bool) {
	sel := s.opts.Selector.Select(p.Process, p.ports)
	p.reason, p.policy, p.undecided = sel.Reason, sel.Policy, sel.Undecided
	return p.reason != discover.NotSelected
}

// replaced forgets the program that a process ran before. The kernel side has
// already thrown the process out, or let it in for its new program.
func (s *Supervisor) replaced(old *process, now discover.Process) {
	delete(s.procs, old.Key)
	if old.exe != nil {
		s.leave(old)
	}
	if !old.watched {
		return
	}
	if now.Auto {
		s.opts.Attacher.Replaced(old.Key)
	} else {
		s.opts.Attacher.RemoveProcess(old.Key)
	}
	if s.opts.Directory != nil {
		s.opts.Directory.Remove(old.Key)
	}
}

func (s *Supervisor) exited(key telemetry.ProcessKey) {
	p := s.procs[key]
	if p == nil {
		return
	}
	delete(s.procs, key)
	if p.exe != nil {
		s.leave(p)
	}
	if p.watched {
		s.opts.Attacher.RemoveProcess(key)
		if s.opts.Directory != nil {
			s.opts.Directory.Remove(key)
		}
		s.log.Debug("ended", "pid", key.PID)
	}
	delete(s.pids, key.PID)
}

func (s *Supervisor) listening(ev discover.Listening) {
	p := s.procs[ev.Key]
	if p == nil {
		return
	}
	if slices.Contains(p.ports, ev.Port) || len(p.ports) >= maxPorts {
		return
	}
	p.ports = append(p.ports, ev.Port)
	if s.opts.Selector.WantsPorts() {
		s.reconsider(p) // a rule may also exclude it, or give it other settings
	}
}
