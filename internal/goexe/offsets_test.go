package goexe

import (
	"debug/dwarf"
	"debug/elf"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/internal/offsets"
)

// fields are all fields that the committed tables know.
func fields(t *testing.T) []Field {
	t.Helper()
	var all []Field
	for _, path := range []string{"../offsets/runtime/fields.json", "../../probes/nethttp/fields.json"} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var some []Field
		if err := json.Unmarshal(data, &some); err != nil {
			t.Fatal(err)
		}
		all = append(all, some...)
	}
	return all
}

func nethttpTable(t *testing.T) *offsets.Table {
	t.Helper()
	data, err := os.ReadFile("../../probes/nethttp/offsets.json")
	if err != nil {
		t.Fatal(err)
	}
	table, err := offsets.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// TestTableAgainstDWARF compares what the tables say, on both architectures,
// with the executable's own debug information.
func TestTableAgainstDWARF(t *testing.T) {
	all, table := fields(t), nethttpTable(t)
	check := func(t *testing.T, e *Exe) {
		fromTable, source, err := e.Offsets(all, table)
		if err != nil || source != OffsetsTable {
			t.Fatalf("source %d, %v", source, err)
		}
		fromDWARF, err := e.DWARFOffsets(all)
		if err != nil {
			t.Fatal(err)
		}
		if len(fromDWARF) < 60 {
			t.Errorf("only %d fields in the debug information", len(fromDWARF))
		}
		for f, want := range fromDWARF {
			if got, ok := fromTable[f]; !ok || got != want {
				t.Errorf("%s is at %d by the table (%v), at %d by the debug information", f, got, ok, want)
			}
		}
	}
	eachStd(t, func(t *testing.T, e *Exe, arch, version, mode string) {
		if hasDWARF(mode) {
			check(t, e)
		} else if _, source, err := e.Offsets(all, table); err != nil || source != OffsetsTable {
			t.Errorf("stripped: source %d, %v", source, err)
		}
	})
	for _, v := range versions() {
		if strings.HasPrefix(v, "1.27") {
			continue // there, golang.org/x/net/http2 is a wrapper around net/http
		}
		t.Run("xnet-"+v, func(t *testing.T) { check(t, open(t, "xnet", "amd64", v, "plain")) })
	}
}

// TestDWARFAgainstStandardLibrary reads the same structs with debug/dwarf.
func TestDWARFAgainstStandardLibrary(t *testing.T) {
	for _, c := range [][]string{
		{"std", "amd64", "1.18.10", "plain"}, // .zdebug_info
		{"std", "amd64", "1.26.8", "plain"},  // SHF_COMPRESSED, DWARF 5
		{"std", "amd64", "1.26.8", "cgo"},    // with C units
		{"std", "arm64", "1.27.4", "plain"},
	} {
		t.Run(strings.Join(c, "-"), func(t *testing.T) {
			got, err := open(t, c...).DWARFOffsets(fields(t))
			if err != nil {
				t.Fatal(err)
			}
			want := standardOffsets(t, gobin(t, c...), fields(t))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("debug/dwarf (-) and ours (+):\n%s", diff)
			}
		})
	}
}

func standardOffsets(t *testing.T, path string, want []Field) map[Field]int64 {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := f.DWARF()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[Field]int64)
	r := d.Reader()
	for {
		entry, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if entry == nil {
			return out
		}
		if entry.Tag != dwarf.TagStructType {
			continue
		}
		name, _ := entry.Val(dwarf.AttrName).(string)
		name = strings.TrimPrefix(name, "noalg.")
		for _, f := range want {
			if f.Type == name && f.Name == SizeField {
				out[f], _ = entry.Val(dwarf.AttrByteSize).(int64)
			}
		}
		for entry.Children {
			member, err := r.Next()
			if err != nil || member == nil || member.Tag == 0 {
				break
			}
			for _, f := range want {
				if n, _ := member.Val(dwarf.AttrName).(string); f.Type == name && f.Name == n {
					out[f], _ = member.Val(dwarf.AttrDataMemberLoc).(int64)
				}
			}
		}
	}
}

func TestOffsetSources(t *testing.T) {
	goid := Field{Module: "std", Type: "runtime.g", Name: "goid"}
	method := Field{Module: "std", Type: "net/http.Request", Name: "Method"}
	xnet := Field{Module: "golang.org/x/net", Type: "golang.org/x/net/http2.stream", Name: "id"}
	parse := func(s string) *offsets.Table {
		table, err := offsets.Parse([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	table := func(span string) *offsets.Table {
		return parse(`{"format":1,"modules":{"std":{"spans":[[` + span + `]],"types":{"net/http.Request":{"Method":[[0,0,4242]]}}}}}`)
	}
	for name, c := range map[string]struct {
		mode   string
		fields []Field
		table  *offsets.Table
		want   map[Field]int64
		source OffsetSource
		err    error
	}{
		"exact, debug information not asked": {"plain", []Field{method}, table(`"1.26.0","1.26.9"`), map[Field]int64{method: 4242}, OffsetsTable, nil},
		"debug information before nearest":   {"plain", []Field{method}, table(`"1.26.0","1.26.7"`), map[Field]int64{method: 0}, OffsetsDWARF, nil},
		"nearest of the minor":               {"sw", []Field{method}, table(`"1.26.0","1.26.7"`), map[Field]int64{method: 4242}, OffsetsNearest, nil},
		"another minor is not near":          {"sw", []Field{method}, table(`"1.25.0","1.25.7"`), nil, OffsetsNone, ErrNoOffsets},
		"no table, debug information":        {"plain", []Field{method}, nil, map[Field]int64{method: 0}, OffsetsDWARF, nil},
		"no table, stripped":                 {"sw", []Field{method}, nil, nil, OffsetsNone, ErrNoOffsets},
		"the runtime's own":                  {"sw", []Field{goid}, nil, map[Field]int64{goid: 152}, OffsetsTable, nil},
		"module not in the build":            {"sw", []Field{goid, xnet}, nil, map[Field]int64{goid: 152}, OffsetsTable, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, source, err := open(t, "std", "amd64", "1.26.8", c.mode).Offsets(c.fields, c.table)
			if !errors.Is(err, c.err) || source != c.source {
				t.Errorf("source %d, error %v, want %d, %v", source, err, c.source, c.err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestVersionTrust(t *testing.T) {
	for raw, exact := range map[string]bool{
		"go1.26.8": true, "go1.26": true, "go1.27rc1": false, "devel go1.27-abcdef Mon": false,
		"go1.26.8 X:nogreenteagc": false, "go1.26.8-custom": false,
	} {
		v, ok := parseGoVersion(raw)
		if !ok {
			t.Errorf("%q is no version", raw)
			continue
		}
		e := &Exe{version: v}
		if _, got, _ := e.moduleVersion("std"); got != exact {
			t.Errorf("%q: exact = %v", raw, got)
		}
	}
	for _, raw := range []string{"", "go", "1.26.8", "go1", "gogo1.2", "devel +abcdef"} {
		if v, ok := parseGoVersion(raw); ok {
			t.Errorf("%q parsed as %v", raw, v)
		}
	}
}
