package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/kernel"
	"github.com/tracer-agent/tracer-agent/internal/propagate"
)

// modeReport says of one way to hand a trace on whether this host allows it.
type modeReport struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Reaches string `json:"reaches"`
	Reason  string `json:"reason,omitempty"` // why not
}

// modes tries every propagation mode. able is what the agent needs in any case.
func modes(able error) []modeReport {
	report := func(name, reaches string, try func() error) modeReport {
		err := able
		if err == nil {
			err = try()
		}
		m := modeReport{Name: name, OK: err == nil, Reaches: reaches}
		switch {
		case able != nil:
			m.Reason = "the agent cannot work here"
		case err != nil:
			m.Reason = oneLine(err)
		}
		return m
	}
	return []modeReport{
		report(config.PropagateJoin, "watched servers on this host, over every protocol; no byte is changed",
			func() error { return nil }),
		report(config.PropagateMemory, "every server, over HTTP/1, HTTPS and HTTP/2; what auto is where it is possible, else join",
			kernel.MayWriteUser),
		report(config.PropagateKernel, "every server, over HTTP/1 in plain text", func() error {
			err := propagate.Try()
			if errors.Is(err, propagate.ErrRefused) || err == nil {
				return err
			}
			return errors.Join(errors.New("could not be tried"), err)
		}),
	}
}

func printModes(w io.Writer, all []modeReport) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nPROPAGATION\tHERE\tREACHES")
	for _, m := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\n", m.Name, yesNo(m.OK), m.Reaches)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, m := range all {
		if !m.OK {
			fmt.Fprintf(w, "  %s: %s\n", m.Name, m.Reason)
		}
	}
	return nil
}
