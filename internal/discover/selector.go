package discover

import (
	"fmt"
	"slices"
)

// Selection is what a user asks for. A process is selected when PIDs, Exes, Ports
// or AllGo name it and Exclude does not; a pid that is named counts in any case.
type Selection struct {
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
	sel           Selection
	exes, exclude []glob
}

// NewSelector checks the patterns. The error wraps ErrGlob.
func NewSelector(sel Selection) (*Selector, error) {
	s := &Selector{sel: sel}
	for _, list := range []struct {
		patterns []string
		globs    *[]glob
	}{{sel.Exes, &s.exes}, {sel.Exclude, &s.exclude}} {
		for _, pattern := range list.patterns {
			g, err := compileGlob(pattern)
			if err != nil {
				return nil, fmt.Errorf("select executables: %w", err)
			}
			*list.globs = append(*list.globs, g)
		}
	}
	return s, nil
}

// Empty says that nothing can ever be selected.
func (s *Selector) Empty() bool {
	return len(s.sel.PIDs) == 0 && len(s.exes) == 0 && len(s.sel.Ports) == 0 && !s.sel.AllGo
}

// WantsPorts says that listening ports decide.
func (s *Selector) WantsPorts() bool { return len(s.sel.Ports) > 0 }

// Select says whether and why a process is wanted; ports are those it listens on.
func (s *Selector) Select(p Process, ports []uint16) Reason {
	if p.Key.PID == s.sel.SelfPID || (s.sel.SelfExe != ExeID{} && p.Exe == s.sel.SelfExe) {
		return NotSelected
	}
	if slices.Contains(s.sel.PIDs, p.Key.PID) {
		return ByPID
	}
	matches := func(g glob) bool { return g.match(p.Path) }
	switch {
	case slices.ContainsFunc(s.exclude, matches):
		return NotSelected
	case slices.ContainsFunc(s.exes, matches):
		return ByExe
	case slices.ContainsFunc(ports, func(port uint16) bool { return slices.Contains(s.sel.Ports, port) }):
		return ByPort
	case s.sel.AllGo:
		return ByAllGo
	}
	return NotSelected
}
