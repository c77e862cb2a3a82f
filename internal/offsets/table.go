package offsets

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Field names one struct field. Module is "std" for the standard library and
// runtime, else the module path whose version decides the offset.
type Field struct {
	Module string `json:"module"` // "std"
	Type   string `json:"type"`   // "net/http.Request"
	Name   string `json:"name"`   // "Method"
}

// String returns the field as "net/http.Request.Method".
func (f Field) String() string { return f.Type + "." + f.Name }

// Match says how a Lookup was answered.
type Match uint8

const (
	// None: the table knows no release of that minor, or not the field at all.
	None Match = iota
	// Exact: the very version was measured, or lies between two equal ones.
	Exact
	// Nearest: the closest measured release of the same minor.
	Nearest
)

// Absent is the offset of a field that the version does not have.
const Absent int64 = -1

// ErrTable marks a table that cannot be used.
var ErrTable = errors.New("offsets: bad table")

// Bounds of a table; a larger one is refused.
const (
	maxTableBytes = 4 << 20
	maxSpans      = 4096
	maxFields     = 16384
)

// Table is a parsed table of offsets. It is immutable and safe for concurrent use.
type Table struct {
	modules map[string]*module
}

// span is a range of versions in which every field has the same offset.
type span struct{ from, to Version }

type module struct {
	spans  []span          // ascending, disjoint
	fields map[Field][]run // runs ascending, disjoint
}

// run is the offset of one field in the spans first..last.
type run struct {
	first, last int
	off         int64
}

// tableJSON is the file format. Spans are [from, to]; a field's runs are
// [first span, last span, offset]; spans that no run covers lack the field.
type tableJSON struct {
	Format  int                   `json:"format"`
	Modules map[string]moduleJSON `json:"modules"`
}

type moduleJSON struct {
	Spans [][2]string                      `json:"spans"`
	Types map[string]map[string][][3]int64 `json:"types"`
}

//go:embed runtime/offsets.json
var runtimeJSON []byte

// Runtime returns the table of the runtime's own fields, which every probe shares.
func Runtime() (*Table, error) { return runtimeTable() }

var runtimeTable = sync.OnceValues(func() (*Table, error) { return Parse(runtimeJSON) })

// Parse reads a table. The error wraps ErrTable and names what is wrong.
func Parse(data []byte) (*Table, error) {
	if len(data) > maxTableBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTable, len(data), maxTableBytes)
	}
	var in tableJSON
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTable, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: data after the table", ErrTable)
	}
	if in.Format != 1 {
		return nil, fmt.Errorf("%w: format %d, want 1", ErrTable, in.Format)
	}
	t := &Table{modules: make(map[string]*module, len(in.Modules))}
	for path, mj := range in.Modules {
		m, err := parseModule(path, mj)
		if err != nil {
			return nil, err
		}
		t.modules[path] = m
	}
	return t, nil
}

func parseModule(path string, in moduleJSON) (*module, error) {
	if len(in.Spans) > maxSpans {
		return nil, fmt.Errorf("%w: %s has %d spans, at most %d", ErrTable, path, len(in.Spans), maxSpans)
	}
	m := &module{fields: make(map[Field][]run)}
	for i, s := range in.Spans {
		from, okFrom := ParseVersion(s[0])
		to, okTo := ParseVersion(s[1])
		if !okFrom || !okTo || from.Compare(to) > 0 {
			return nil, fmt.Errorf("%w: %s span %q..%q", ErrTable, path, s[0], s[1])
		}
		if i > 0 && m.spans[i-1].to.Compare(from) >= 0 {
			return nil, fmt.Errorf("%w: %s span %q is not after the one before", ErrTable, path, s[0])
		}
		m.spans = append(m.spans, span{from, to})
	}
	for typ, fields := range in.Types {
		for name, runs := range fields {
			if len(m.fields) >= maxFields {
				return nil, fmt.Errorf("%w: %s has more than %d fields", ErrTable, path, maxFields)
			}
			f := Field{Module: path, Type: typ, Name: name}
			if err := m.addRuns(f, runs); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

func (m *module) addRuns(f Field, runs [][3]int64) error {
	next := int64(0)
	out := make([]run, 0, len(runs))
	for _, r := range runs {
		if r[0] < next || r[1] < r[0] || r[1] >= int64(len(m.spans)) || r[2] < 0 {
			return fmt.Errorf("%w: %s of %s has the run %v among %d spans", ErrTable, f, f.Module, r, len(m.spans))
		}
		next = r[1] + 1
		out = append(out, run{int(r[0]), int(r[1]), r[2]})
	}
	m.fields[f] = out
	return nil
}

// Lookup returns the offset of module's type.field in bytes for a version such
// as "1.26.8" or "v0.38.0". With Exact and Nearest it is Absent when that
// version is known not to have the field; with None it means nothing.
func (t *Table) Lookup(mod, version, typ, field string) (off int64, match Match) {
	if t == nil {
		return Absent, None
	}
	m := t.modules[mod]
	if m == nil {
		return Absent, None
	}
	runs, known := m.fields[Field{mod, typ, field}]
	if !known {
		return Absent, None
	}
	v, ok := ParseVersion(version)
	if !ok {
		return Absent, None
	}
	i, match := m.span(v)
	if match == None {
		return Absent, None
	}
	for _, r := range runs {
		if r.first <= i && i <= r.last {
			return r.off, match
		}
	}
	return Absent, match
}

// Has reports how the table knows a version of a module.
func (t *Table) Has(mod, version string) Match {
	if t == nil || t.modules[mod] == nil {
		return None
	}
	v, ok := ParseVersion(version)
	if !ok {
		return None
	}
	_, match := t.modules[mod].span(v)
	return match
}

// span finds the span of v, or the nearest that has an end in v's minor.
func (m *module) span(v Version) (int, Match) {
	i, found := slices.BinarySearchFunc(m.spans, v, func(s span, v Version) int {
		switch {
		case s.to.Compare(v) < 0:
			return -1
		case s.from.Compare(v) > 0:
			return 1
		}
		return 0
	})
	if found {
		return i, Exact
	}
	// i is the first span after v.
	below, above := -1, -1
	if i > 0 && m.spans[i-1].to.SameMinor(v) {
		below = i - 1
	}
	if i < len(m.spans) && m.spans[i].from.SameMinor(v) {
		above = i
	}
	switch {
	case below < 0 && above < 0:
		return 0, None
	case below < 0:
		return above, Nearest
	case above < 0:
		return below, Nearest
	case m.spans[above].from.Patch-v.Patch < v.Patch-m.spans[below].to.Patch:
		return above, Nearest
	}
	return below, Nearest
}
