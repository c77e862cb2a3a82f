package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// errGone: the process ended, or runs something else, before its executable was open.
var errGone = errors.New("the process ended")

// ErrLeftAlone says that a program is not watched although it could be.
var ErrLeftAlone = errors.New("left alone")

// want has a selected process instrumented, now or when its executable is ready.
func (s *Supervisor) want(p *process) {
	e := s.exes[p.Exe]
	if e != nil && e.state != pending && len(e.procs) == 0 && s.changed(e, p) {
		s.drop(e)
		e = nil
	}
	if e != nil && e.state == refused && errors.Is(e.why, ErrLeftAlone) && p.forced() {
		s.drop(e)
		e = nil
	}
	if e == nil {
		if len(s.exes) >= maxExes && !s.evict() {
			s.refuseProcess(p, fmt.Errorf("%d executables are known already, the limit", maxExes))
			return
		}
		e = &executable{id: p.Exe, path: p.Path, procs: map[telemetry.ProcessKey]*process{}}
		s.exes[p.Exe] = e
		s.queue = append(s.queue, e)
	}
	p.exe = e
	switch e.state {
	case pending:
		e.procs[p.Key] = p
	case attached:
		e.procs[p.Key] = p
		s.letIn(p)
	case refused:
		p.exe = nil
		// Only the first process of a refused executable is worth a line, except
		// when this one was asked for by number.
		if p.reason == discover.ByPID {
			s.refuseProcess(p, e.why)
		}
	}
}

// changed says whether an executable that nobody ran for a while is another file
// now: overwritten in place, or a new file with the old one's inode number.
func (s *Supervisor) changed(e *executable, p *process) bool {
	was := e.stamp
	if e.state == attached {
		was = e.held.stamp
	}
	now, err := stampFile(p.ExePath())
	return err == nil && now != was
}

// evict forgets an executable that is refused and not running.
func (s *Supervisor) evict() bool {
	for _, e := range s.exes {
		if e.state == refused {
			s.drop(e)
			return true
		}
	}
	return false
}

// forced: the process is watched although its program exports its own spans.
func (p *process) forced() bool {
	return p.reason == discover.ByPID || p.policy != nil && p.policy.Exporting
}

// job is one executable to attach, by way of one of its processes.
type job struct {
	exe  *executable
	proc discover.Process
	// forced: attach whatever LeaveAlone says.
	forced bool
	off    func(probe string) bool
}

type result struct {
	job
	a    *probe.Attached
	held *held
	err  error
	// alone is LeaveAlone's word.
	alone error
}

// nextJob returns the worker's channel and what to send, or a nil channel when
// there is nothing to send. The executable stays in the queue until it is sent.
func (s *Supervisor) nextJob() (chan<- job, job) {
	for !s.busy && len(s.queue) > 0 {
		e := s.queue[0]
		for _, p := range e.procs {
			forced := false
			for _, q := range e.procs {
				forced = forced || q.forced()
			}
			return s.jobs, job{e, p.Process, forced, s.unwanted(e)}
		}
		s.queue = s.queue[1:] // all its processes ended while it waited
		delete(s.exes, e.id)
	}
	return nil, job{}
}

// work attaches one executable after the other.
func (s *Supervisor) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-s.jobs:
			r := s.attach(ctx, j)
			select {
			case s.results <- r:
			case <-ctx.Done():
				r.held.release()
				return
			}
		}
	}
}

// attach opens the process's executable, makes sure that it is the one meant, and
// attaches the probes. A panic on the way is this executable's problem only.
func (s *Supervisor) attach(ctx context.Context, j job) (r result) {
	r.job = j
	defer func() {
		if p := recover(); p != nil {
			r.err = fmt.Errorf("internal error while looking at the executable: %v", p)
		}
		if r.err != nil {
			r.held.release()
		}
	}()
	if r.held, r.err = hold(j.proc.ExePath()); r.err != nil {
		if errors.Is(r.err, os.ErrNotExist) {
			r.err = errGone
		}
		return r
	}
	same, err := s.opts.Check(j.proc)
	switch {
	case err != nil:
		r.err = err
	case !same:
		r.err = errGone
	default:
		ref := probe.ExeRef{Dev: j.proc.Exe.Dev, Ino: j.proc.Exe.Ino, Path: r.held.path(), Off: j.off}
		if s.opts.LeaveAlone != nil {
			ref.Vet = func(exe *goexe.Exe) error {
				if r.alone = s.opts.LeaveAlone(exe); r.alone != nil && !j.forced {
					return fmt.Errorf("%w: %w", ErrLeftAlone, r.alone)
				}
				return nil
			}
		}
		r.a, r.err = s.opts.Attacher.Attach(ctx, ref)
	}
	return r
}

// finish takes the worker's result.
func (s *Supervisor) finish(r result) {
	e := r.exe
	switch {
	case errors.Is(r.err, errGone):
		if p := e.procs[r.proc.Key]; p != nil && p.ExecID == r.proc.ExecID {
			delete(e.procs, r.proc.Key) // not the one that it has exec'd since
		}
		if p := s.procs[r.proc.Key]; p != nil && p.exe == e && p.ExecID == r.proc.ExecID {
			p.exe = nil // its exit event is on the way
		}
		if len(e.procs) > 0 {
			s.queue = append(s.queue, e)
		} else {
			delete(s.exes, e.id)
		}
	case r.err != nil:
		s.refuse(e, r)
	default:
		e.state, e.a, e.held, e.alone = attached, r.a, r.held, r.alone
		e.idleSince = time.Now()
		for _, p := range sorted(e.procs) {
			s.letIn(p)
		}
		if len(e.procs) == 0 && (e.released || !e.held.leased) && s.exes[e.id] == e {
			s.drop(e) // all ended meanwhile
		}
	}
}

func (s *Supervisor) refuse(e *executable, r result) {
	e.state, e.why = refused, r.err
	if r.held != nil {
		e.stamp = r.held.stamp
	}
	waiting := sorted(e.procs)
	clear(e.procs)
	for i, p := range waiting {
		if i == 0 || p.reason == discover.ByPID {
			s.refuseProcess(p, e.why)
		}
	}
}

// letIn has a process of an attached executable watched, and says so.
func (s *Supervisor) letIn(p *process) {
	e := p.exe
	if e.alone != nil && !p.forced() {
		s.opts.Attacher.RemoveProcess(p.Key) // the kernel may have let it in
		s.leave(p)
		s.refuseProcess(p, fmt.Errorf("%w: %w", ErrLeftAlone, e.alone))
		return
	}
	s.tune(e)
	service := ""
	if s.opts.Directory != nil {
		service = s.opts.Directory.Add(p.Process, p.policy, e.a)
	}
	prop, hand := s.propagation(p)
	if err := s.opts.Attacher.AddProcess(p.Key, p.StartCode, e.a, hand); err != nil {
		if s.opts.Directory != nil {
			s.opts.Directory.Remove(p.Key)
		}
		s.leave(p)
		s.refuseProcess(p, err)
		return
	}
	p.watched = true
	s.instrumented++
	if p.reason.Whole() && !e.auto {
		if err := s.opts.Attacher.AutoSelect(e.a, true, hand); err != nil {
			s.log.Warn("later processes of this executable are watched a little late", "exe", p.Path, "error", err)
		} else {
			e.auto = true
		}
	}
	p.service = service
	attrs := []any{"pid", p.Key.PID, "service", service, "exe", p.Path, "selected_by", string(p.reason)}
	attrs = append(attrs, describe(e.a)...)
	if e.a.Propagation != nil && prop != nil {
		mode, why := prop.Describe(e.a.Propagation)
		p.handed = mode
		attrs = append(attrs, "propagation", mode, "propagation_because", why)
	}
	s.log.Info("instrumented", attrs...)
}

// propagation is how a process's traces are handed on; nil: not at all.
func (s *Supervisor) propagation(p *process) (prop Propagation, hand probe.Hand) {
	if s.opts.Propagation != nil && p.policy != nil {
		prop = s.opts.Propagation(p.policy.Propagation)
		hand = prop.Hand()
	}
	return prop, hand
}

// describe says what was attached.
func describe(a *probe.Attached) []any {
	var attrs []any
	if a.Exe != nil {
		attrs = append(attrs, "go", a.Exe.GoVersion().String())
	}
	var on, off []string
	for name, placed := range a.Placed {
		for group := range placed.Groups {
			on = append(on, name+"/"+group)
		}
		for group, why := range placed.Refused {
			off = append(off, fmt.Sprintf("%s/%s: %v", name, group, why))
		}
	}
	slices.Sort(on)
	slices.Sort(off)
	attrs = append(attrs, "probes", strings.Join(on, ","))
	if len(off) > 0 {
		attrs = append(attrs, "without", strings.Join(off, "; "))
	}
	return attrs
}

// refuseProcess says why a selected process is not instrumented.
func (s *Supervisor) refuseProcess(p *process, why error) {
	p.exe = nil
	delete(s.pids, p.Key.PID)
	level := slog.LevelWarn
	switch {
	case p.reason == discover.ByPID:
		level = slog.LevelError
	case p.reason == discover.ByAllGo && (errors.Is(why, goexe.ErrNotGo) || errors.Is(why, goexe.ErrNotELF)):
		level = slog.LevelDebug // nobody asked for this one
	case p.reason == discover.ByAllGo, errors.Is(why, ErrLeftAlone):
		level = slog.LevelInfo
	}
	s.notInstrumented(level, p.Key.PID, p.Path, why)
}

func (s *Supervisor) notInstrumented(level slog.Level, pid int32, path string, why error) {
	attrs := []any{"pid", pid}
	if path != "" {
		attrs = append(attrs, "exe", path)
	}
	s.log.Log(context.Background(), level, "not instrumented", append(attrs, "reason", Explain(why))...)
}

// leave takes a process off its executable's books. Without a lease the probes go
// with the last process, because nothing keeps the file from being overwritten.
func (s *Supervisor) leave(p *process) {
	e := p.exe
	p.exe = nil
	delete(e.procs, p.Key)
	if len(e.procs) > 0 || e.state != attached {
		return
	}
	e.idleSince = time.Now()
	if !e.held.leased {
		s.drop(e)
	}
}

// drop detaches and forgets an executable.
func (s *Supervisor) drop(e *executable) {
	delete(s.exes, e.id)
	for _, p := range e.procs {
		p.exe = nil
		p.watched = false
	}
	if e.state != attached {
		return
	}
	s.opts.Attacher.Detach(e.a)
	e.held.release()
	s.log.Debug("executable dropped", "exe", filepath.Base(e.a.Ref.Path), "id", e.id.String())
}

// sweep drops executables that nobody runs: selected by pattern only when their
// file was deleted (it would never be freed), others after a while.
func (s *Supervisor) sweep(now time.Time) {
	for _, e := range s.exes {
		if e.state != attached || len(e.procs) > 0 {
			continue
		}
		if e.held.deleted() || (!e.auto && now.Sub(e.idleSince) >= s.opts.IdleFor) {
			s.drop(e)
		}
	}
}

// yieldLeases lets go of the files that somebody waits to write to.
func (s *Supervisor) yieldLeases() {
	for _, e := range s.exes {
		switch {
		case e.state != attached || !e.held.broken():
		case len(e.procs) > 0:
			e.held.unlease() // the kernel refuses to write to what is running
		default:
			s.drop(e)
		}
	}
}

// takeOut handles an executable that was found unfit while it ran.
func (s *Supervisor) takeOut(r refusal) {
	for _, e := range s.exes {
		if e.state != attached || e.a != r.a {
			continue
		}
		procs := sorted(e.procs)
		e.state, e.why, e.stamp = refused, r.why, e.held.stamp
		e.held.release()
		e.held, e.a, e.auto = nil, nil, false
		clear(e.procs)
		for _, p := range procs {
			p.watched = false
			s.instrumented-- // an end with nothing else left is a failure
			if s.opts.Directory != nil {
				s.opts.Directory.Remove(p.Key)
			}
			s.refuseProcess(p, r.why)
		}
		return
	}
}

func sorted(procs map[telemetry.ProcessKey]*process) []*process {
	out := make([]*process, 0, len(procs))
	for _, p := range procs {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *process) int { return int(a.Key.PID) - int(b.Key.PID) })
	return out
}
