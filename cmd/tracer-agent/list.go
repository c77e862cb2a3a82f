package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tracer-agent/tracer-agent/exporter/console"
	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/kernel"
	"github.com/tracer-agent/tracer-agent/internal/policy"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/resource"
	"github.com/tracer-agent/tracer-agent/internal/supervise"
)

// listed is one Go process, as list prints it.
type listed struct {
	PID       int32    `json:"pid"`
	Service   string   `json:"service"`
	Go        string   `json:"go,omitempty"`
	DebugInfo bool     `json:"debug_info"`
	Ports     []uint16 `json:"ports"`
	Able      bool     `json:"able"`
	// LeftAlone: able, but not watched unless somebody insists.
	LeftAlone bool `json:"left_alone,omitempty"`
	// Why: which probes would attach, or why none would.
	Why string `json:"why"`
	Exe string `json:"exe"`
}

func newList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the Go programs that run here and whether they could be watched",
		Example: `  tracer-agent list
  tracer-agent list --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := kernel.Preflight(); err != nil {
				return err
			}
			rows, unreadable, err := list()
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd, rows)
			}
			if unreadable > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "tracer-agent: %d executables could not be read; run as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH\n", unreadable)
			}
			return printList(cmd.OutOrStdout(), rows)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// list analyses every executable once, whatever number of processes run it.
func list() (rows []listed, unreadable int, err error) {
	procs, err := discover.Snapshot()
	if err != nil {
		return nil, 0, err
	}
	specs, err := specs(config.Default(), false, looks{}, nil)
	if err != nil {
		return nil, 0, err
	}
	builder, err := resource.NewBuilder(resource.Options{AgentVersion: version})
	if err != nil {
		return nil, 0, err
	}
	rows = []listed{}
	seen := map[discover.ExeID]*listed{} // nil: not a Go program
	for _, p := range procs {
		if int(p.Key.PID) == os.Getpid() {
			continue
		}
		verdict, known := seen[p.Exe]
		if !known {
			var denied bool
			verdict, denied = judge(p, specs)
			if denied {
				unreadable++
			}
			seen[p.Exe] = verdict
		}
		if verdict == nil {
			continue
		}
		row := *verdict
		row.PID, row.Exe, row.Ports = p.Key.PID, p.Path, []uint16{}
		if ports, err := discover.ListeningPorts(p.Key.PID); err == nil && len(ports) > 0 {
			row.Ports = ports
		}
		if res, err := builder.Build(resource.Process{Key: p.Key, Exe: p.Path, GoVersion: row.Go}); err == nil {
			row.Service = serviceName(res)
		}
		rows = append(rows, row)
	}
	return rows, unreadable, nil
}

// judge analyses an executable; nil when it is not a Go program or cannot be read.
func judge(p discover.Process, specs []*probe.Spec) (row *listed, denied bool) {
	a, err := probe.Analyse(p.ExePath(), specs)
	if err == nil {
		defer a.Exe.Close()
		r := &processReport{}
		r.fill(a, specs)
		row = &listed{Go: r.Go, DebugInfo: r.DebugInfo, Able: r.attaches(), Why: r.summary()}
		if why := policy.Exports(a.Exe); why != nil && row.Able {
			row.LeftAlone = true
			row.Why = "left alone: " + oneLine(why)
		}
		return row, false
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, true
	case errors.Is(err, goexe.ErrNotELF), errors.Is(err, goexe.ErrNotGo), errors.Is(err, fs.ErrNotExist):
		return nil, false
	}
	row = &listed{Why: supervise.Explain(err)}
	// The version is worth showing with the refusal.
	if exe, err := goexe.Open(p.ExePath()); err == nil {
		defer exe.Close()
		row.Go, row.DebugInfo = exe.GoVersion().Raw, exe.HasDWARF()
	}
	return row, false
}

// summary names what would attach, or why nothing would.
func (r *processReport) summary() string {
	var on, off []string
	for _, p := range r.Probes {
		for _, g := range p.Groups {
			if g.OK {
				on = append(on, g.Name)
			} else if strings.HasPrefix(g.Verdict, "refused") {
				off = append(off, g.Name+" "+g.Verdict)
			}
		}
	}
	if len(on) > 0 {
		return strings.Join(on, ", ")
	}
	return strings.Join(off, "; ")
}

func printList(w io.Writer, rows []listed) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "no Go programs run here")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PID\tSERVICE\tGO\tSTRIPPED\tPORTS\tWATCHABLE\tPROBES, OR WHY NOT\tEXECUTABLE")
	for _, r := range rows {
		ports := make([]string, 0, len(r.Ports))
		for _, p := range r.Ports {
			ports = append(ports, strconv.Itoa(int(p)))
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.PID, dash(console.Printable(r.Service)), dash(console.Printable(strings.TrimPrefix(r.Go, "go"))),
			yesNo(!r.DebugInfo), dash(strings.Join(ports, ",")), yesNo(r.Able), console.Printable(r.Why), console.Printable(r.Exe))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print list: %w", err)
	}
	return nil
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
