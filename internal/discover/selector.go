package discover

import (
	"fmt"
	"slices"

	"github.com/tracer-agent/tracer-agent/internal/policy"
)

// Selection is what a user asks for. A process is selected when one of Rules, or PIDs,
// Exes, Ports or AllGo name it and Exclude does not; a pid that is named counts in any
// case.
type Selection struct {
	// Rules are asked before the fields below.
	Rules Rules

	PIDs  []int32
	Exes  []string // patterns, see Selector
	Ports []uint16
	// AllGo selects every process; whether it is a Go program shows later.
	AllGo   bool
	Exclude []string // patterns
	// SelfPID and SelfExe are never selected: the agent's process, and other
	// processes of its executable. Zero: nobody.
	SelfPID int32
	SelfExe ExeID
}

// Reason says why a process is selected.
type Reason string

const (
	// NotSelected is the zero Reason.
	NotSelected Reason = ""
	ByPID       Reason = "pid"
	ByExe       Reason = "exe"
	ByPort      Reason = "port"
	ByAllGo     Reason = "all-go"
	BySelector  Reason = "selector" // more than the executable
)

// Whole says that every process of the executable is selected, not just this one:
// then later ones can be watched from their exec on.
func (r Reason) Whole() bool { return r == ByExe || r == ByAllGo }

// Selector decides which processes are wanted. It may be asked from any goroutine. What
// rules ask of a process beyond what it is given is read from /proc for each answer.
//
// Patterns: * and ? stop at a slash, ** does not; [a-z], {a,b}. A pattern without
// a slash is for the file name, any other for the whole path.
type Selector struct {
	sel           Selection
	exes, exclude []glob

	instrument   []settings
	excludeRules []*rule
	pods         Pods
	policy       *policy.Policy
	ports        bool // a rule asks for ports
}

// NewSelector checks the patterns. The error wraps ErrGlob.
func NewSelector(sel Selection) (s *Selector, err error) {
	s = &Selector{sel: sel}
	if s.exes, err = compileGlobs(sel.Exes); err != nil {
		return nil, err
	}
	if s.exclude, err = compileGlobs(sel.Exclude); err != nil {
		return nil, err
	}
	if err := s.compile(sel.Rules); err != nil {
		return nil, err
	}
	return s, nil
}

func compileGlobs(patterns []string) (globs []glob, err error) {
	for _, pattern := range patterns {
		g, err := compileGlob(pattern)
		if err != nil {
			return nil, fmt.Errorf("select executables: %w", err)
		}
		globs = append(globs, g)
	}
	return globs, nil
}

// Empty says that nothing can ever be selected.
func (s *Selector) Empty() bool {
	return len(s.sel.PIDs) == 0 && len(s.exes) == 0 && len(s.sel.Ports) == 0 && !s.sel.AllGo && len(s.instrument) == 0
}

// WantsPorts says that listening ports decide.
func (s *Selector) WantsPorts() bool { return len(s.sel.Ports) > 0 || s.ports }

// General is the policy of what no rule has settings for.
func (s *Selector) General() *policy.Policy { return s.policy }

// HasRules says that there are rules that a process may be excluded by, or have settings
// from.
func (s *Selector) HasRules() bool { return len(s.instrument) > 0 || len(s.excludeRules) > 0 }

// Select says whether and why a process is wanted; ports are those it listens on.
func (s *Selector) Select(p Process, ports []uint16) Selected {
	if p.Key.PID == s.sel.SelfPID || (s.sel.SelfExe != ExeID{} && p.Exe == s.sel.SelfExe) {
		return Selected{}
	}
	if sel, named := s.byPID(p, ports); named {
		return sel
	}
	matches := func(g glob) bool { return g.match(p.Path) }
	if slices.ContainsFunc(s.exclude, matches) {
		return Selected{}
	}
	if sel, decided := s.byRules(p, s.facts(p, ports)); decided {
		return sel
	}
	switch {
	case slices.ContainsFunc(s.exes, matches):
		return Selected{Reason: ByExe, Policy: s.policy}
	case slices.ContainsFunc(ports, func(port uint16) bool { return slices.Contains(s.sel.Ports, port) }):
		return Selected{Reason: ByPort, Policy: s.policy}
	case s.sel.AllGo:
		return Selected{Reason: ByAllGo, Policy: s.policy}
	}
	return Selected{}
}

func (s *Selector) facts(p Process, ports []uint16) *facts {
	return &facts{pid: p.Key.PID, ports: ports, pods: s.pods}
}

// byPID: a pid that is named is watched in any case, with the settings of the selector
// that names it, or else of the first one that fits.
func (s *Selector) byPID(p Process, ports []uint16) (Selected, bool) {
	f := s.facts(p, ports)
	for _, r := range s.instrument {
		if !r.off && slices.Contains(r.m.PIDs, int(p.Key.PID)) && r.match(p, f) == yes {
			return Selected{Reason: ByPID, Policy: r.policy}, true
		}
	}
	if !slices.Contains(s.sel.PIDs, p.Key.PID) {
		return Selected{}, false
	}
	sel := Selected{Reason: ByPID, Policy: s.policy}
	for _, r := range s.instrument {
		if !r.off && r.match(p, f) == yes {
			sel.Policy = r.policy
			break
		}
	}
	return sel, true
}
