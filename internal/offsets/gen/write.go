package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/tracer-agent/tracer-agent/internal/offsets"
)

// tableWriter encodes what was measured, one field a line, so that a change of
// one offset is a change of one line.
type tableWriter struct {
	modules map[string]measured
}

// runs returns the field's [first span, last span, offset].
func (m measured) runs(f offsets.Field) [][3]int64 {
	out := [][3]int64{}
	for i, s := range m.spans {
		off, ok := s.off[f]
		if !ok {
			continue
		}
		if n := len(out); n > 0 && out[n-1][1] == int64(i-1) && out[n-1][2] == off {
			out[n-1][1] = int64(i)
			continue
		}
		out = append(out, [3]int64{int64(i), int64(i), off})
	}
	return out
}

func (w tableWriter) encode() []byte {
	var b bytes.Buffer
	b.WriteString("{\"format\": 1, \"modules\": {")
	sep := "\n"
	for _, path := range slices.Sorted(maps.Keys(w.modules)) {
		m := w.modules[path]
		fmt.Fprintf(&b, "%s%s: {\"spans\": [", sep, quote(path))
		sep = ",\n"
		for i, s := range m.spans {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "[%s, %s]", quote(s.from), quote(s.to))
		}
		b.WriteString("],\n \"types\": {")
		m.encodeTypes(&b)
		b.WriteString("\n}}")
	}
	b.WriteString("\n}}\n")
	return b.Bytes()
}

func (m measured) encodeTypes(b *bytes.Buffer) {
	fields := slices.SortedStableFunc(slices.Values(m.fields), func(x, y offsets.Field) int { return cmp.Compare(x.Type, y.Type) })
	last := ""
	for i, f := range fields {
		switch {
		case i == 0:
			fmt.Fprintf(b, "\n%s: {\n", quote(f.Type))
		case f.Type != last:
			fmt.Fprintf(b, "},\n%s: {\n", quote(f.Type))
		default:
			b.WriteString(",\n")
		}
		last = f.Type
		runs, _ := json.Marshal(m.runs(f)) // integers cannot fail
		fmt.Fprintf(b, "  %s: %s", quote(f.Name), runs)
	}
	b.WriteString("}")
}

func quote(s string) string {
	out, _ := json.Marshal(s) // a string cannot fail
	return string(out)
}

// report says where a field is missing, for the reader to judge: a version
// that does not have it, or a program that does not use it.
func (w tableWriter) report(out io.Writer) {
	for _, path := range slices.Sorted(maps.Keys(w.modules)) {
		m := w.modules[path]
		for _, f := range m.fields {
			runs := m.runs(f)
			if len(runs) == 0 {
				fmt.Fprintf(out, "gen: %s: in no version\n", f)
				continue
			}
			next := int64(0)
			for _, r := range append(runs, [3]int64{int64(len(m.spans)), 0, 0}) {
				if r[0] > next {
					fmt.Fprintf(out, "gen: %s: not in %s .. %s\n", f, m.spans[next].from, m.spans[r[0]-1].to)
				}
				next = r[1] + 1
			}
		}
	}
}
