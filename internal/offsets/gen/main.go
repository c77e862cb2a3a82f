// Command gen writes a table of struct offsets: for every Go release and
// library version that is supported it builds a small program and reads its
// debug information.
//
//	go run ./internal/offsets/gen -fields probes/x/fields.json -out probes/x/offsets.json
//
// The fields file is a list of {"module","type","name"}. Of Go it measures the
// first and the last published patch of every minor, of a library a sample of
// its releases; where neighbours differ it looks for the version in between
// that changed. Built programs are kept in -cache.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/tracer-agent/tracer-agent/internal/offsets"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run() error {
	fieldsFile := flag.String("fields", "", "list of fields, JSON")
	out := flag.String("out", "", "table to write")
	cache := flag.String("cache", defaultCache(), "where built programs are kept")
	sample := flag.Int("sample", 10, "releases of a library to build at first")
	toolchain := flag.String("go", "go1.26.8", "toolchain that builds libraries")
	flag.Parse()
	if *fieldsFile == "" || *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	fields, err := readFields(*fieldsFile)
	if err != nil {
		return err
	}
	byModule := make(map[string][]offsets.Field)
	for _, f := range fields {
		byModule[f.Module] = append(byModule[f.Module], f)
	}
	w := tableWriter{modules: make(map[string]measured)}
	for mod, fs := range byModule {
		b, err := newBuilder(mod, fs, *cache, *toolchain)
		if err != nil {
			return err
		}
		groups, err := b.versionGroups(*sample)
		if err != nil {
			return err
		}
		m, err := b.measureAll(groups)
		if err != nil {
			return err
		}
		w.modules[mod] = m
	}
	data := w.encode()
	if _, err := offsets.Parse(data); err != nil {
		return fmt.Errorf("own output: %w", err)
	}
	w.report(os.Stderr)
	return os.WriteFile(*out, data, 0o644)
}

func defaultCache() string {
	if dir := os.Getenv("TRACER_TEST_CACHE"); dir != "" {
		return filepath.Join(dir, "offsets")
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "tracer-agent", "offsets")
}

func readFields(path string) ([]offsets.Field, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var fields []offsets.Field
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i, f := range fields {
		if f.Module == "" || f.Type == "" || f.Name == "" || slices.Contains(fields[:i], f) {
			return nil, fmt.Errorf("%s: entry %d (%s) is incomplete or twice there", path, i, f)
		}
	}
	return fields, nil
}
