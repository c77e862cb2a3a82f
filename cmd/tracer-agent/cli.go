package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/supervise"
)

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake in how the program was called.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// errSaid means that what went wrong has been said already.
var errSaid = errors.New("said already")

// execute runs the command line and returns the exit code.
func execute(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteC()
	return exitCode(cmd, err, stderr)
}

// exitCode says on one line what is wrong, and what to do.
func exitCode(cmd *cobra.Command, err error, stderr io.Writer) int {
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errSaid), errors.Is(err, supervise.ErrNothingLeft):
		return exitFailed
	case errors.As(err, &usage), errors.Is(err, config.ErrInvalid), errors.Is(err, discover.ErrGlob):
		fmt.Fprintf(stderr, "tracer-agent: %s; see %s --help\n", oneLine(err), cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(stderr, "tracer-agent: %s\n", oneLine(err))
	return exitFailed
}

// oneLine joins the lines of an error.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "tracer-agent",
		Short: "OpenTelemetry spans of Go programs, from the kernel",
		Long: `tracer-agent watches running Go programs by eBPF uprobes and turns their HTTP
requests and calls into OpenTelemetry spans. The programs are not changed, not
restarted, and need no SDK. It needs Linux 5.10 or later with BTF, and root (or
CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE).`,
		Example: `  tracer-agent list                                   what can be watched here?
  tracer-agent run --pid 4711                         print the spans of one process
  tracer-agent run --exe '/srv/*/api' --endpoint http://localhost:4317
  tracer-agent check --pid 4711                       what would be attached where?`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true})
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newRun(), newCheck(), newList(), newConfig(), newHealth(), newMan(), newVersion())
	return root
}

// noArgs refuses arguments that are no flags.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}
