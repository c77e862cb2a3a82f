package supervise

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"

	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// errEnded says that Run has ended.
var errEnded = errors.New("the supervisor has ended")

// order is done by Run between two events.
type order struct {
	do   func()
	done chan struct{}
}

func (s *Supervisor) order(ctx context.Context, do func()) error {
	o := order{do, make(chan struct{})}
	select {
	case s.orders <- o:
	case <-s.ended:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
	<-o.done
	return nil
}

// Settings are what may change while Run runs.
type Settings struct {
	Selector *discover.Selector
	PIDs     []int32
	OnlyPIDs bool
}

// Reconfigure applies other settings. A process that is selected before and after keeps
// its probes throughout; one that no longer is has lost them when Reconfigure returns.
func (s *Supervisor) Reconfigure(ctx context.Context, set Settings) error {
	return s.order(ctx, func() { s.reconfigure(set) })
}

// PodsChanged has the selector asked again about processes whose pod was not known.
func (s *Supervisor) PodsChanged(ctx context.Context) error {
	return s.order(ctx, func() {
		for _, p := range sorted(s.procs) {
			if p.undecided && s.choose(p) {
				s.want(p)
			}
		}
	})
}

func (s *Supervisor) reconfigure(set Settings) {
	s.opts.Selector, s.opts.OnlyPIDs = set.Selector, set.OnlyPIDs
	s.pids = map[int32]bool{}
	for _, pid := range set.PIDs {
		s.pids[pid] = true
	}
	for _, e := range s.exes {
		if e.state == refused && errors.Is(e.why, ErrLeftAlone) {
			s.drop(e) // the new settings may think otherwise
		}
	}
	for _, p := range sorted(s.procs) {
		s.reconsider(p)
	}
	s.scanned()
	s.settle()
}

// reconsider asks the new selector about a process.
func (s *Supervisor) reconsider(p *process) {
	if len(p.ports) == 0 && s.opts.Selector.WantsPorts() {
		p.ports, _ = discover.ListeningPorts(p.Key.PID) // an error: it has ended
	}
	before := p.policy
	wanted := s.choose(p)
	switch {
	case !wanted && p.exe != nil:
		s.letGo(p)
	case wanted && p.exe == nil:
		s.want(p)
	case wanted && p.watched && p.exe.alone != nil && !p.forced():
		why := p.exe.alone
		s.letGo(p)
		s.notInstrumented(slog.LevelInfo, p.Key.PID, p.Path, why)
	case wanted && p.watched && p.policy != before:
		s.renew(p)
	}
}

// renew applies another policy to a process that is watched.
func (s *Supervisor) renew(p *process) {
	if s.opts.Directory != nil {
		s.opts.Directory.Add(p.Process, p.policy, p.exe.a)
	}
	_, hand := s.propagation(p)
	if err := s.opts.Attacher.AddProcess(p.Key, p.StartCode, p.exe.a, hand); err != nil {
		s.log.Warn("settings of a process", "pid", p.Key.PID, "error", err)
	}
}

// letGo ends the watching of a process that runs on.
func (s *Supervisor) letGo(p *process) {
	e := p.exe
	p.exe = nil
	delete(e.procs, p.Key)
	e.released = true
	if !p.watched {
		return
	}
	p.watched = false
	s.opts.Attacher.RemoveProcess(p.Key)
	if s.opts.Directory != nil {
		s.opts.Directory.Remove(p.Key)
	}
	s.log.Info("released", "pid", p.Key.PID, "exe", p.Path, "reason", "no longer selected")
}

// settle brings the executables into line with their processes: all detaching at once,
// because the kernel may take a grace period for each.
func (s *Supervisor) settle() {
	var wg sync.WaitGroup
	for _, e := range s.exes {
		if e.state != attached {
			continue
		}
		if len(e.procs) > 0 {
			s.setAuto(e)
			wg.Go(func() { s.mute(e, s.unwanted(e)) })
			continue
		}
		again := s.opts.Selector.Select(discover.Process{Exe: e.id, Path: e.path}, nil)
		if e.auto && again.Reason.Whole() {
			continue
		}
		delete(s.exes, e.id)
		wg.Go(func() {
			s.opts.Attacher.Detach(e.a)
			e.held.release()
		})
	}
	wg.Wait()
}

// setAuto has later processes of an executable let in by the kernel, or no longer.
func (s *Supervisor) setAuto(e *executable) {
	whole := false
	var hand probe.Hand
	for _, p := range e.procs {
		if p.watched && p.reason.Whole() {
			whole = true
			_, hand = s.propagation(p)
		}
	}
	if !whole && !e.auto {
		return
	}
	if err := s.opts.Attacher.AutoSelect(e.a, whole, hand); err != nil {
		s.log.Warn("later processes of this executable", "exe", e.path, "watch", whole, "error", err)
		return
	}
	e.auto = whole
}

// tune attaches and detaches probes of an executable as its processes want.
func (s *Supervisor) tune(e *executable) { s.mute(e, s.unwanted(e)) }

func (s *Supervisor) mute(e *executable, off func(string) bool) {
	if err := s.opts.Attacher.Mute(e.a, off); err != nil {
		s.log.Warn("probes of an executable", "exe", e.path, "error", err)
	}
}

// unwanted says which probes none of an executable's processes wants; the probes sit on
// the file, so one process is enough.
func (s *Supervisor) unwanted(e *executable) func(probe string) bool {
	var wants []*process
	for _, p := range e.procs {
		c := *p
		wants = append(wants, &c)
	}
	return func(name string) bool {
		return len(wants) > 0 && !slices.ContainsFunc(wants, func(p *process) bool { return p.policy == nil || !p.policy.Off(name) })
	}
}

// Target is a process that is selected, for a status page.
type Target struct {
	PID        int32
	Exe        string
	SelectedBy string
	// Service and Propagation as the log line has them.
	Service, Propagation string
	// Attached is nil while the process is not instrumented; Why says why, if it is known.
	Attached *probe.Attached
	Why      error
}

// Ready says that the processes that ran at the start were looked at.
func (s *Supervisor) Ready() bool { return s.ready.Load() }

// Targets returns the selected processes by pid, at most limit.
func (s *Supervisor) Targets(ctx context.Context, limit int) (out []Target, err error) {
	err = s.order(ctx, func() {
		for _, p := range sorted(s.procs) {
			if p.reason == discover.NotSelected || len(out) == limit {
				continue
			}
			t := Target{PID: p.Key.PID, Exe: p.Path, SelectedBy: string(p.reason), Service: p.service, Propagation: p.handed}
			if e := p.exe; e != nil && p.watched {
				t.Attached = e.a
			} else if e := s.exes[p.Exe]; e != nil && e.state == refused {
				t.Why = e.why
			}
			out = append(out, t)
		}
	})
	slices.SortFunc(out, func(a, b Target) int { return cmp.Compare(a.PID, b.PID) })
	return out, err
}
