package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/offsets"
)

var (
	a = offsets.Field{Module: "std", Type: "T", Name: "a"}
	b = offsets.Field{Module: "std", Type: "T", Name: "b"}
)

// known answers as builds would.
func known(at map[string]int64) map[string]map[offsets.Field]int64 {
	out := make(map[string]map[offsets.Field]int64)
	for v, off := range at {
		out[v] = map[offsets.Field]int64{a: 0}
		if off >= 0 {
			out[v][b] = off
		}
	}
	return out
}

func TestSpans(t *testing.T) {
	for name, c := range map[string]struct {
		at    map[string]int64
		group []string
		want  [][2]string
	}{
		// Only the ends are measured: a version between them would be asked in vain.
		"ends agree":         {map[string]int64{"1.2.0": 8, "1.2.9": 8}, []string{"1.2.0", "1.2.3", "1.2.9"}, [][2]string{{"1.2.0", "1.2.9"}}},
		"one release":        {map[string]int64{"1.2.0": 8}, []string{"1.2.0"}, [][2]string{{"1.2.0", "1.2.0"}}},
		"changed in the end": {map[string]int64{"1.2.0": 8, "1.2.1": 8, "1.2.2": 16}, []string{"1.2.0", "1.2.1", "1.2.2"}, [][2]string{{"1.2.0", "1.2.1"}, {"1.2.2", "1.2.2"}}},
		"appears": {map[string]int64{"1.2.0": -1, "1.2.1": -1, "1.2.2": 16, "1.2.3": 16, "1.2.4": 16},
			[]string{"1.2.0", "1.2.1", "1.2.2", "1.2.3", "1.2.4"}, [][2]string{{"1.2.0", "1.2.1"}, {"1.2.2", "1.2.4"}}},
	} {
		t.Run(name, func(t *testing.T) {
			bld := &builder{module: "std", fields: []offsets.Field{a, b}, known: known(c.at)}
			m, err := bld.measureAll([][]string{c.group})
			if err != nil {
				t.Fatal(err)
			}
			var got [][2]string
			for _, s := range m.spans {
				got = append(got, [2]string{s.from, s.to})
			}
			if !slices.Equal(got, c.want) {
				t.Fatalf("spans %v, want %v", got, c.want)
			}
			checkTable(t, m, c.at)
		})
	}
}

// checkTable encodes what was measured and asks the table for it.
func checkTable(t *testing.T, m measured, at map[string]int64) {
	t.Helper()
	table, err := offsets.Parse(tableWriter{map[string]measured{"std": m}}.encode())
	if err != nil {
		t.Fatal(err)
	}
	for v, want := range at {
		if got, match := table.Lookup("std", v, "T", "b"); got != want || match != offsets.Exact {
			t.Errorf("%s: %d, match %d, want %d", v, got, match, want)
		}
	}
}

func TestGroups(t *testing.T) {
	got := byMinor([]string{"1.18", "1.18.10", "1.19.2", "1.21.0", "1.21.13"})
	want := [][]string{{"1.18", "1.18.10"}, {"1.19.2"}, {"1.21.0", "1.21.13"}}
	if !slices.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("byMinor: %v, want %v", got, want)
	}
	got = new(builder).sampled([]string{"a", "b", "c", "d", "e"}, 3)
	want = [][]string{{"a", "b", "c"}, {"c", "d", "e"}}
	if !slices.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("sampled: %v, want %v", got, want)
	}
}

func TestReadFields(t *testing.T) {
	for text, ok := range map[string]bool{
		`[{"module":"std","type":"T","name":"a"}]`:                                        true,
		`[{"module":"std","type":"T"}]`:                                                   false,
		`[{"module":"std","type":"T","name":"a"},{"module":"std","type":"T","name":"a"}]`: false,
		`{`: false,
	} {
		path := filepath.Join(t.TempDir(), "fields.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readFields(path); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}
