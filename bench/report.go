package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// row is one line of the report.
type row struct {
	what, must, agent, sdk, base string
	ok                           bool
}

type report struct {
	machine string
	rows    []row
}

func (r *report) add(x row) { r.rows = append(r.rows, x) }

// broken names the rows whose limit does not hold.
func (r *report) broken() []string {
	var out []string
	for _, x := range r.rows {
		if !x.ok {
			out = append(out, fmt.Sprintf("%s: %s, must be %s", x.what, x.agent, x.must))
		}
	}
	return out
}

func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString(`# What it costs

Written by ` + "`make bench`" + `. A trivial net/http handler with one processor to itself
(GOMAXPROCS=1); load generator, agent and the receiver of spans share the other
one. The three take turns of 40 ms; medians of pairs. The SDK twin is the same
server with otelhttp and the OpenTelemetry SDK, exporting in the same way.
Absolute figures hold for this machine only; the ratios are what matters.

` + r.machine + `

| what | must | agent | SDK twin | untouched |
| --- | --- | --- | --- | --- |
`)
	for _, x := range r.rows {
		mark := ""
		if !x.ok {
			mark = " **(limit broken)**"
		}
		base := x.base
		if base == "" {
			base = "-"
		}
		fmt.Fprintf(&b, "| %s | %s | %s%s | %s | %s |\n", x.what, x.must, x.agent, mark, x.sdk, base)
	}
	return b.String()
}

// machine says what it was measured on.
func machine() string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.SplitSeq(string(b), "\n") {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	virtual := ""
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil && strings.Contains(string(b), "hypervisor") {
		virtual = ", virtual machine"
	}
	kernel := "unknown"
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		kernel, _, _ = strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	}
	return fmt.Sprintf("%s, %d processors%s, Linux %s, %s.", model, runtime.NumCPU(), virtual, kernel, runtime.Version())
}

func sizeMB(path string) (int64, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return st.Size() / 1e6, nil
}
