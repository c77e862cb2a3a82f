package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tracer-agent/tracer-agent/exporter/console"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// processReport says what would be attached to one process.
type processReport struct {
	PID       int    `json:"pid"`
	Exe       string `json:"exe,omitempty"`
	Go        string `json:"go,omitempty"`
	Main      string `json:"main,omitempty"`
	Arch      string `json:"arch,omitempty"`
	PIE       bool   `json:"pie"`
	DebugInfo bool   `json:"debug_info"`
	Functions string `json:"functions_from,omitempty"`
	// NoAncestors is why a goroutine's ancestors further up than its starter are not found.
	NoAncestors string        `json:"no_ancestors,omitempty"`
	Probes      []probeReport `json:"probes,omitempty"`
	Verdict     string        `json:"verdict"`
}

type probeReport struct {
	Name    string        `json:"name"`
	Doc     string        `json:"doc"`
	Offsets string        `json:"offsets_from"`
	Groups  []groupReport `json:"groups"`
}

type groupReport struct {
	Name    string        `json:"name"`
	What    string        `json:"what"`
	Verdict string        `json:"verdict"`
	OK      bool          `json:"ok"`
	Points  []pointReport `json:"points,omitempty"`
}

type pointReport struct {
	Name     string `json:"name"`
	Function string `json:"function"`
	Address  string `json:"address"`
	Instr    string `json:"instruction"`
	Class    string `json:"class"`
	// Note: attached only while needed, or what is lost without it.
	Note string `json:"note,omitempty"`
}

func (r *processReport) fill(a *probe.Attached, specs []*probe.Spec) {
	exe := a.Exe
	r.Go, r.Main, r.Arch = exe.GoVersion().Raw, exe.MainPath(), exe.Arch()
	r.PIE, r.DebugInfo, r.Functions = exe.PIE(), exe.HasDWARF(), exe.SymbolSource()
	if a.NoAncestors != nil {
		r.NoAncestors = oneLine(a.NoAncestors)
	}
	for _, s := range specs {
		if placed := a.Placed[s.Name]; placed != nil {
			r.Probes = append(r.Probes, reportProbe(s, placed))
		}
	}
	r.Verdict = "nothing would be attached"
	if r.attaches() {
		r.Verdict = "would be instrumented"
	}
}

func reportProbe(s *probe.Spec, placed *probe.Placed) probeReport {
	pr := probeReport{Name: s.Name, Doc: s.Doc, Offsets: offsetSource(placed.Source)}
	for _, g := range s.Groups {
		gr := groupReport{Name: g.Name, What: g.What, OK: placed.Groups[g.Name]}
		switch why := placed.Refused[g.Name]; {
		case gr.OK:
			gr.Verdict = "attaches"
		case why != nil:
			gr.Verdict = "refused: " + oneLine(why)
		default:
			gr.Verdict = "not in this program"
		}
		if gr.OK {
			gr.Points = reportPoints(s, g.Name, placed)
		}
		pr.Groups = append(pr.Groups, gr)
	}
	return pr
}

// reportPoints lists the points of a group that attaches.
func reportPoints(s *probe.Spec, group string, placed *probe.Placed) (out []pointReport) {
	minor := placed.Exe.GoVersion().Minor
	for _, pt := range s.Points {
		if pt.Group != group || minor < pt.MinGo || (pt.MaxGo != 0 && minor > pt.MaxGo) {
			continue
		}
		at, ok := placed.Points[pt.Name]
		if !ok {
			out = append(out, pointReport{Name: pt.Name, Class: "absent", Note: "not seen: " + pt.Lost})
			continue
		}
		p := pointReport{
			Name: pt.Name, Function: at.Func, Address: fmt.Sprintf("%#x", at.Addr),
			Instr: at.Instr, Class: className(at.Class),
		}
		if placed.IsLazy(pt) {
			p.Note = "only while needed"
		}
		out = append(out, p)
	}
	return out
}

// attaches says whether any group would be attached.
func (r *processReport) attaches() bool {
	return slices.ContainsFunc(r.Probes, func(p probeReport) bool {
		return slices.ContainsFunc(p.Groups, func(g groupReport) bool { return g.OK })
	})
}

func className(c goexe.Class) string {
	switch c {
	case goexe.ClassEmulated:
		return "emulated"
	case goexe.ClassTrampoline:
		return "trampoline"
	case goexe.ClassStepped:
		return "single-stepped"
	}
	return "unknown"
}

func offsetSource(s goexe.OffsetSource) string {
	switch s {
	case goexe.OffsetsTable:
		return "table of known versions"
	case goexe.OffsetsDWARF:
		return "debug information of the executable"
	case goexe.OffsetsNearest:
		return "nearest known release of the same minor version"
	}
	return "nothing"
}

func (r *processReport) print(w io.Writer) error {
	fmt.Fprintf(w, "process %d: %s\n", r.PID, console.Printable(r.Exe))
	if r.Go != "" {
		fmt.Fprintf(w, "  %s, %s, package %s, PIE: %s, debug information: %s, functions from %s\n",
			console.Printable(r.Go), r.Arch, console.Printable(r.Main), yesNo(r.PIE), yesNo(r.DebugInfo), r.Functions)
	}
	if r.NoAncestors != "" {
		fmt.Fprintf(w, "  a call by a goroutine that another one started, which itself was started by the request's,\n"+
			"  finds its request by its context only: %s\n", console.Printable(r.NoAncestors))
	}
	for _, p := range r.Probes {
		fmt.Fprintf(w, "\n  probe %s (%s), struct offsets from: %s\n", p.Name, p.Doc, p.Offsets)
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		for _, g := range p.Groups {
			fmt.Fprintf(t, "  %s: %s: %s\n", g.Name, g.What, g.Verdict)
			for _, pt := range g.Points {
				fmt.Fprintf(t, "    %s\t%s\t%s\t%s\t%s\t%s\n", pt.Name, pt.Address, pt.Class,
					strings.ReplaceAll(pt.Instr, "\t", " "), console.Printable(pt.Function), pt.Note)
			}
		}
		if err := t.Flush(); err != nil {
			return fmt.Errorf("print report: %w", err)
		}
	}
	_, err := fmt.Fprintf(w, "\n  verdict: %s\n", r.Verdict)
	return err
}
