package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/kernel"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/supervise"
)

// checkReport is what check prints as JSON.
type checkReport struct {
	Kernel  kernel.Features `json:"kernel"`
	Able    bool            `json:"able"`
	Problem string          `json:"problem,omitempty"`
	Modes   []modeReport    `json:"propagation"`
	Process *processReport  `json:"process,omitempty"`
}

func newCheck() *cobra.Command {
	var asJSON bool
	var pid int
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what this kernel allows and, with --pid, what would be attached where",
		Long: `check tries every kernel feature the agent could use and says what each is for,
and what is lost without it. With --pid it also analyses the executable of a
process and prints, for each probe, the function, address and instruction of
every attach point and what a hit costs. Nothing stays attached.

Cost classes: emulated (about 1 us a hit), trampoline (about 0.6 us),
single-stepped (10 us and more under virtualization).`,
		Example: `  tracer-agent check
  tracer-agent check --pid 4711 --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("pid") && pid < 1 {
				return usageError{fmt.Errorf("--pid %d: want a process id", pid)}
			}
			return check(cmd, pid, asJSON)
		},
	}
	cmd.Flags().IntVar(&pid, "pid", 0, "analyse the executable of this process")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func check(cmd *cobra.Command, pid int, asJSON bool) error {
	// Its only effect is on kernels before 5.11, where the probes say what is wrong.
	_ = kernel.RaiseMemlock()
	report := checkReport{Kernel: kernel.Probe()}
	err := report.Kernel.Err()
	report.Able = err == nil
	if err != nil {
		report.Problem = oneLine(err)
	}
	report.Modes = modes(err)
	var perr error
	if pid != 0 {
		report.Process, perr = examine(pid)
	}
	if asJSON {
		if werr := writeJSON(cmd, report); werr != nil {
			return werr
		}
	} else if werr := printCheck(cmd.OutOrStdout(), report); werr != nil {
		return werr
	}
	return errors.Join(err, perr)
}

// examine analyses a process's executable. The error is one line; the report is
// given with it where there is something to report.
func examine(pid int) (*processReport, error) {
	list, err := specs(config.Default(), false, looks{}, nil)
	if err != nil {
		return nil, err
	}
	if kernel.MayWriteUser() != nil {
		list = probe.WithoutWrites(list)
	}
	path := fmt.Sprintf("/proc/%d/exe", pid)
	report := &processReport{PID: pid}
	if report.Exe, err = os.Readlink(path); err != nil {
		err = fmt.Errorf("process %d: %s", pid, explainPID(pid, err))
		report.Verdict = err.Error()
		return report, err
	}
	a, err := probe.Analyse(path, list)
	if err != nil {
		report.Verdict = "not instrumented: " + supervise.Explain(err)
		return report, fmt.Errorf("process %d (%s): %s", pid, report.Exe, supervise.Explain(err))
	}
	defer a.Exe.Close()
	report.fill(a, list)
	if !report.attaches() {
		return report, fmt.Errorf("process %d (%s): %s", pid, report.Exe, report.Verdict)
	}
	return report, nil
}

// explainPID says why a process's executable cannot be found.
func explainPID(pid int, err error) string {
	switch {
	case errors.Is(err, os.ErrPermission):
		return "its executable cannot be read; run as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
	case errors.Is(err, os.ErrNotExist):
		if _, serr := os.Stat(fmt.Sprintf("/proc/%d", pid)); serr == nil {
			return "a kernel thread, or it is ending; tracer-agent list shows what can be watched"
		}
		return "no such process; tracer-agent list shows what can be watched"
	}
	return oneLine(err)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func printCheck(w io.Writer, r checkReport) error {
	k := r.Kernel
	fmt.Fprintf(w, "kernel %s, initial pid namespace: %s", k.Release, yesNo(k.InitialPIDNS))
	if k.Lockdown != "" {
		fmt.Fprintf(w, ", lockdown: %s", k.Lockdown)
	}
	fmt.Fprint(w, "\n\n")

	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "CAPABILITY\tHERE\tUSED TO")
	for _, c := range k.Capabilities {
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.Name, yesNo(c.OK), c.Use)
	}
	fmt.Fprintln(t, "\nFEATURE\tHERE\tNEED\tSINCE\tUSED TO")
	for _, f := range k.Features {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", f.Name, yesNo(f.OK), f.Need, f.MinKernel, f.Use)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	missing := false
	for _, f := range k.Features {
		if f.OK {
			continue
		}
		if !missing {
			fmt.Fprintln(w, "\nWithout:")
			missing = true
		}
		fmt.Fprintf(w, "  %s: %s\n    (%s)\n", f.Name, f.Missing, f.Reason)
	}
	if err := printModes(w, r.Modes); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	if r.Able {
		fmt.Fprintln(w, "\nThe agent can work here.")
	} else {
		fmt.Fprintf(w, "\nThe agent cannot work here: %s\n", r.Problem)
	}
	if r.Process != nil {
		fmt.Fprintln(w)
		return r.Process.print(w)
	}
	return nil
}
