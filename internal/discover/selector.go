package discover

import (
	"fmt"
	"slices"
)

// Rule names processes: those that PIDs, Exes, Ports or AllGo name.
type Rule struct {
	PIDs  []int32
	Exes  []string // patterns, see Selector
	Ports []uint16
	// AllGo selects every process; whether it is a Go program shows later.
	AllGo bool
}

// Selection is what a user asks for. A process is selected when one of Rules, or PIDs,
// Exes, Ports or AllGo name it and Exclude does not; a pid that is named counts in any
// case.
type Selection struct {
	// Rules are tried in this order, all of a rule before the next one, and before the
	// fields below, which are the last rule.
	Rules []Rule

	PIDs    []int32
	Exes    []string
	Ports   []uint16
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
)

// Whole says that every process of the executable is selected, not just this one:
// then later ones can be watched from their exec on.
func (r Reason) Whole() bool { return r == ByExe || r == ByAllGo }

// Selector decides which processes are wanted. It is pure: the same process and
// ports give the same answer at any time, from any goroutine.
//
// Patterns: * and ? stop at a slash, ** does not; [a-z], {a,b}. A pattern without
// a slash is for the file name, any other for the whole path.
type Selector struct {
	sel     Selection
	rules   []Rule
	exes    [][]glob // by rule
	exclude []glob
}

// NewSelector checks the patterns. The error wraps ErrGlob.
func NewSelector(sel Selection) (*Selector, error) {
	s := &Selector{sel: sel}
	s.rules = append(slices.Clone(sel.Rules), Rule{PIDs: sel.PIDs, Exes: sel.Exes, Ports: sel.Ports, AllGo: sel.AllGo})
	for _, rule := range s.rules {
		globs, err := compileGlobs(rule.Exes)
		if err != nil {
			return nil, err
		}
		s.exes = append(s.exes, globs)
	}
	var err error
	s.exclude, err = compileGlobs(sel.Exclude)
	return s, err
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
	return !slices.ContainsFunc(s.rules, func(r Rule) bool {
		return len(r.PIDs) > 0 || len(r.Exes) > 0 || len(r.Ports) > 0 || r.AllGo
	})
}

// WantsPorts says that listening ports decide.
func (s *Selector) WantsPorts() bool {
	return slices.ContainsFunc(s.rules, func(r Rule) bool { return len(r.Ports) > 0 })
}

// Select says whether and why a process is wanted, and which rule names it: an index of
// Selection.Rules, or their number for the last one. ports are those it listens on. A
// pid that is named comes before everything else.
func (s *Selector) Select(p Process, ports []uint16) (why Reason, rule int) {
	if p.Key.PID == s.sel.SelfPID || (s.sel.SelfExe != ExeID{} && p.Exe == s.sel.SelfExe) {
		return NotSelected, 0
	}
	for i, r := range s.rules {
		if slices.Contains(r.PIDs, p.Key.PID) {
			return ByPID, i
		}
	}
	matches := func(g glob) bool { return g.match(p.Path) }
	if slices.ContainsFunc(s.exclude, matches) {
		return NotSelected, 0
	}
	for i, r := range s.rules {
		switch {
		case slices.ContainsFunc(s.exes[i], matches):
			return ByExe, i
		case slices.ContainsFunc(ports, func(port uint16) bool { return slices.Contains(r.Ports, port) }):
			return ByPort, i
		case r.AllGo:
			return ByAllGo, i
		}
	}
	return NotSelected, 0
}
