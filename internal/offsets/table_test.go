package offsets

import (
	"errors"
	"os"
	"strings"
	"testing"
)

const sample = `{"format": 1, "modules": {
"std": {"spans": [["1.18", "1.18.10"], ["1.20.3", "1.20.3"], ["1.20.9", "1.20.14"], ["1.26.0", "1.26.8"]],
 "types": {"T": {"always": [[0,3,8]], "late": [[2,3,16]], "moved": [[0,0,0],[1,2,24]], "never": []}}},
"example.com/m": {"spans": [["v0.10.0", "v0.14.0"], ["v1.2.3", "v1.2.3"]],
 "types": {"T": {"f": [[0,0,8],[1,1,16]]}}}}}`

func TestLookup(t *testing.T) {
	table, err := Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		module, version, field string
		off                    int64
		match                  Match
	}{
		{"std", "1.18", "always", 8, Exact},
		{"std", "1.18.0", "always", 8, Exact},
		{"std", "go1.18.5", "always", 8, Exact},
		{"std", "1.18.11", "always", 8, Nearest},
		{"std", "1.19.3", "always", Absent, None},
		{"std", "1.18", "late", Absent, Exact},
		{"std", "1.20.5", "late", Absent, Nearest}, // nearer to 1.20.3
		{"std", "1.20.7", "late", 16, Nearest},     // nearer to 1.20.9
		{"std", "1.20.6", "late", Absent, Nearest}, // as near to both: the older one
		{"std", "1.20", "moved", 24, Nearest},
		{"std", "1.26.8", "moved", Absent, Exact},
		{"std", "1.26.9", "always", 8, Nearest},
		{"std", "1.27.0", "always", Absent, None},
		{"std", "1.26.8", "never", Absent, Exact},
		{"std", "1.26.8", "unknown", Absent, None},
		{"std", "devel", "always", Absent, None},
		{"std", "", "always", Absent, None},
		{"example.com/m", "v0.12.0", "f", 8, Exact},
		{"example.com/m", "v0.12.3", "f", 8, Exact},
		{"example.com/m", "v0.15.0", "f", Absent, None},
		{"example.com/m", "v1.2.4-0.20240101000000-abcdefabcdef", "f", 16, Nearest},
		{"example.com/m", "v1.2.3+incompatible", "f", 16, Exact},
		{"example.com/other", "v1.2.3", "f", Absent, None},
	} {
		off, match := table.Lookup(c.module, c.version, "T", c.field)
		if off != c.off || match != c.match {
			t.Errorf("Lookup(%s %s %s) = %d, %d, want %d, %d", c.module, c.version, c.field, off, match, c.off, c.match)
		}
	}
	var none *Table
	if _, match := none.Lookup("std", "1.26.8", "T", "always"); match != None {
		t.Errorf("a nil table answers %d", match)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string]string{
		"not JSON":        `{`,
		"tail":            `{"format":1,"modules":{}} x`,
		"format":          `{"format":2,"modules":{}}`,
		"unknown key":     `{"format":1,"module":{}}`,
		"bad version":     `{"format":1,"modules":{"m":{"spans":[["x","1.2"]],"types":{}}}}`,
		"reversed span":   `{"format":1,"modules":{"m":{"spans":[["1.3","1.2"]],"types":{}}}}`,
		"overlap":         `{"format":1,"modules":{"m":{"spans":[["1.2","1.3"],["1.3","1.4"]],"types":{}}}}`,
		"run off the end": `{"format":1,"modules":{"m":{"spans":[["1.2","1.3"]],"types":{"T":{"f":[[0,1,8]]}}}}}`,
		"runs overlap":    `{"format":1,"modules":{"m":{"spans":[["1.2","1.3"]],"types":{"T":{"f":[[0,0,8],[0,0,9]]}}}}}`,
		"negative offset": `{"format":1,"modules":{"m":{"spans":[["1.2","1.3"]],"types":{"T":{"f":[[0,0,-8]]}}}}}`,
		"negative span":   `{"format":1,"modules":{"m":{"spans":[["1.2","1.3"]],"types":{"T":{"f":[[-1,0,8]]}}}}}`,
		"too large":       `{"format":1,"modules":{}}` + strings.Repeat(" ", maxTableBytes),
	} {
		if _, err := Parse([]byte(c)); !errors.Is(err, ErrTable) {
			t.Errorf("%s: %v, want %v", name, err, ErrTable)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for s, want := range map[string]Version{
		"1.26":        {1, 26, 0, ""},
		"go1.26.8":    {1, 26, 8, ""},
		"go1.27rc1":   {1, 27, 0, "rc1"},
		"v0.38.0":     {0, 38, 0, ""},
		"v1.2.3-pre1": {1, 2, 3, "pre1"},
		"v1.2.3+meta": {1, 2, 3, ""},
	} {
		if got, ok := ParseVersion(s); !ok || got != want {
			t.Errorf("ParseVersion(%q) = %+v, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "1", "v", "1.", "1.2.", "1.2.3.4", "1.-2", "devel", "1.99999999999", "rc1"} {
		if got, ok := ParseVersion(s); ok {
			t.Errorf("ParseVersion(%q) = %+v", s, got)
		}
	}
	order := []string{"1.9.9", "1.27beta1", "1.27rc1", "1.27.0", "1.27.1", "2.0"}
	for i := 1; i < len(order); i++ {
		a, _ := ParseVersion(order[i-1])
		b, _ := ParseVersion(order[i])
		if a.Compare(b) >= 0 || b.Compare(a) <= 0 || a.Compare(a) != 0 {
			t.Errorf("%s is not before %s", order[i-1], order[i])
		}
	}
}

// TestRuntimeTable: the runtime's fields that every probe needs are known for
// the ends of every supported minor.
func TestRuntimeTable(t *testing.T) {
	table, err := Runtime()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{
		"1.18", "1.18.10", "1.19.13", "1.20", "1.20.14", "1.21.0", "1.21.13", "1.22.0", "1.22.12", "1.23.0", "1.23.12",
		"1.24.0", "1.24.13", "1.25.0", "1.25.14", "1.26.0", "1.26.11", "1.27.0", "1.27.4",
	} {
		for _, f := range []Field{{"std", "runtime.g", "goid"}, {"std", "runtime.m", "curg"}, {"std", "runtime.moduledata", "types"}} {
			if off, match := table.Lookup(f.Module, v, f.Type, f.Name); match != Exact || off < 0 {
				t.Errorf("%s in %s: %d, match %d", f, v, off, match)
			}
		}
		_, swiss := mustExact(t, table, v, "internal/runtime/maps.Map", "dirPtr")
		_, old := mustExact(t, table, v, "runtime.hmap", "buckets")
		if swiss == old {
			t.Errorf("%s: Swiss map %v, old map %v", v, swiss, old)
		}
	}
}

func mustExact(t *testing.T, table *Table, v, typ, field string) (int64, bool) {
	t.Helper()
	off, match := table.Lookup("std", v, typ, field)
	if match != Exact {
		t.Errorf("%s.%s in %s: match %d", typ, field, v, match)
	}
	return off, off != Absent
}

func FuzzTable(f *testing.F) {
	f.Add([]byte(sample), "1.20.5")
	if real, err := os.ReadFile("runtime/offsets.json"); err == nil {
		f.Add(real, "1.26.8")
	}
	f.Fuzz(func(t *testing.T, data []byte, version string) {
		table, err := Parse(data)
		if err != nil {
			if !errors.Is(err, ErrTable) {
				t.Errorf("error %v", err)
			}
			return
		}
		for mod, m := range table.modules {
			for field := range m.fields {
				off, match := table.Lookup(mod, version, field.Type, field.Name)
				if off < Absent || match == None && off != Absent {
					t.Errorf("%s in %s: %d, match %d", field, version, off, match)
				}
			}
		}
	})
}
