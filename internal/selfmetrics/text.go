package selfmetrics

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// WriteText writes all metrics in the Prometheus text format.
func (r *Registry) WriteText(w io.Writer) error {
	b := bufio.NewWriter(w)
	for _, f := range r.Snapshot() {
		if len(f.Samples) == 0 {
			continue
		}
		if f.Help != "" {
			fmt.Fprintf(b, "# HELP %s %s\n", f.Name, strings.ReplaceAll(f.Help, "\n", " "))
		}
		fmt.Fprintf(b, "# TYPE %s %s\n", f.Name, f.Kind)
		for _, s := range f.Samples {
			fmt.Fprintf(b, "%s%s %s\n", f.Name, render(s.Labels), strconv.FormatFloat(s.Value, 'g', -1, 64))
		}
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}

// RegisterRSS adds the agent's own resident memory. A host without
// /proc/self/statm simply has no such metric.
func (r *Registry) RegisterRSS() {
	r.Func(NameRSS, "", KindGauge, func(emit Emit) {
		if rss, ok := residentBytes("/proc/self/statm"); ok {
			emit(float64(rss))
		}
	})
}

// residentBytes reads the second field of a statm file, which is in pages.
func residentBytes(path string) (int64, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0, false
	}
	return pages * int64(os.Getpagesize()), true
}
