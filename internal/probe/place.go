package probe

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
)

// ErrRefused says that an executable is not instrumented, and why.
var ErrRefused = errors.New("not instrumented")

// ErrNothingToDo says that the program contains nothing any probe is for.
var ErrNothingToDo = errors.New("the program has nothing that a probe is for")

// indexFuncs finds, in one pass, every function that the specs ask about.
func indexFuncs(exe *goexe.Exe, specs []*Spec) error {
	exact, parents := []string{goexe.AllGsFunc}, []string(nil)
	for _, s := range specs {
		exact = append(exact, s.Functions...)
		for _, p := range s.Points {
			exact = append(exact, p.Site.Funcs...)
			exact = append(exact, p.Site.Callees...)
			if p.Site.inClosure() {
				parents = append(parents, p.Site.Funcs...)
			}
		}
	}
	return exe.Index(goexe.Names(exact, parents))
}

// placeAll places every spec; what goes wrong with one is that one's.
func placeAll(a *Attached, specs []*Spec) {
	for _, s := range specs {
		p, err := place(a.Exe, s)
		if err != nil {
			p = newPlaced(a.Exe)
			p.refuseAll(s, err)
		}
		a.Placed[s.Name] = p
	}
}

func newPlaced(exe *goexe.Exe) *Placed {
	return &Placed{
		Exe:     exe,
		Points:  map[string]goexe.Point{},
		Groups:  map[string]bool{},
		Absent:  map[string]bool{},
		Refused: map[string]error{},
		Lazy:    map[string]bool{},
	}
}

// refuseAll refuses every group that is not absent.
func (p *Placed) refuseAll(s *Spec, why error) {
	for _, g := range s.Groups {
		if !p.Absent[g.Name] && p.Refused[g.Name] == nil {
			p.Refused[g.Name] = why
		}
		delete(p.Groups, g.Name)
	}
}

// place computes where a spec's points are in an executable, and which of its
// groups can be attached. Indexing must have been done.
func place(exe *goexe.Exe, s *Spec) (*Placed, error) {
	p := newPlaced(exe)
	if !anyFunc(exe, s) {
		for _, g := range s.Groups {
			p.Absent[g.Name] = true
		}
		return p, nil
	}
	table, err := s.Table()
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", s.Name, err)
	}
	p.Offsets, p.Source, err = exe.Offsets(s.Fields, table)
	if errors.Is(err, goexe.ErrNoOffsets) && len(s.Optional) > 0 {
		fields := slices.DeleteFunc(slices.Clone(s.Fields), func(f goexe.Field) bool {
			return slices.Contains(s.Optional, f.Module)
		})
		p.Offsets, p.Source, err = exe.Offsets(fields, table)
	}
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", s.Name, err)
	}
	for _, g := range s.Groups {
		p.placeGroup(s, g)
	}
	return p, nil
}

func anyFunc(exe *goexe.Exe, s *Spec) bool {
	return slices.ContainsFunc(s.Points, func(pt Point) bool {
		_, ok := firstFunc(exe, pt.Site.Funcs)
		return ok && !pt.Optional
	})
}

func (p *Placed) placeGroup(s *Spec, g Group) {
	for _, pt := range s.Points {
		if pt.Group != g.Name || !pt.forGo(p.Exe.GoVersion().Minor) {
			continue
		}
		if v := p.Exe.GoVersion(); pt.Writes && v.Newer() {
			p.Refused[g.Name] = fmt.Errorf("%s is newer than the layouts that are known: nothing is written into its memory", v.Raw)
			return
		}
		at, err := findSite(p.Exe, pt.Site)
		switch {
		case err == nil:
			p.Points[pt.Name] = at
		case pt.Optional:
		case errors.Is(err, goexe.ErrNoFunc):
			p.Absent[g.Name] = true
			return
		default:
			p.Refused[g.Name] = fmt.Errorf("%s: %w", pt.Name, err)
			return
		}
	}
	if g.Check != nil {
		if err := g.Check(p); err != nil {
			p.Refused[g.Name] = err
			return
		}
	}
	p.Groups[g.Name] = true
}

func (pt Point) forGo(minor int) bool {
	return (pt.MinGo == 0 || minor >= pt.MinGo) && (pt.MaxGo == 0 || minor <= pt.MaxGo)
}

func (s Site) inClosure() bool { return s.Closure || s.Kind == Entry && len(s.Callees) > 0 }

func firstFunc(exe *goexe.Exe, names []string) (string, bool) {
	for _, f := range names {
		if _, ok := exe.Func(f); ok {
			return f, true
		}
	}
	return "", false
}

func findSite(exe *goexe.Exe, site Site) (goexe.Point, error) {
	fn, ok := firstFunc(exe, site.Funcs)
	if site.inClosure() {
		f, found := exe.Closure(site.Funcs, site.Callees)
		if !found {
			return goexe.Point{}, fmt.Errorf("%w: closure of %s that calls %s", goexe.ErrNoFunc,
				strings.Join(site.Funcs, " or "), strings.Join(site.Callees, " or "))
		}
		fn = f.Name
	} else if !ok {
		return goexe.Point{}, fmt.Errorf("%w: %s", goexe.ErrNoFunc, strings.Join(site.Funcs, " or "))
	}
	switch site.Kind {
	case AfterCall:
		return exe.AfterCall(fn, site.Callees, site.Results)
	case AfterNthCall:
		return exe.AfterCallN(fn, site.Callees, site.Results, site.Nth)
	case OnError:
		return exe.OnError(fn, site.Callees, site.Results)
	case CallSite:
		return exe.CallSiteN(fn, site.Callees, site.Nth)
	case Guard:
		if p, err := exe.Guard(site.Funcs[len(site.Funcs)-1], site.Callees); err == nil {
			return p, nil
		}
	}
	if site.Args > 0 {
		return exe.EntryPointArgs(fn, site.Args)
	}
	return exe.EntryPoint(fn)
}
