package main

import (
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
)

//go:embed programs
var programs embed.FS

// builder measures one module's fields in its versions.
type builder struct {
	module    string
	fields    []offsets.Field
	program   []byte
	cache     string
	toolchain string
	known     map[string]map[offsets.Field]int64 // by version
}

func newBuilder(module string, fields []offsets.Field, cache, toolchain string) (*builder, error) {
	name := strings.ReplaceAll(module, "/", "_") + ".go.txt"
	program, err := programs.ReadFile("programs/" + name)
	if err != nil {
		return nil, fmt.Errorf("module %s needs a program that uses it: %w", module, err)
	}
	return &builder{
		module: module, fields: fields, program: program, cache: cache, toolchain: toolchain,
		known: make(map[string]map[offsets.Field]int64),
	}, nil
}

// goCommand runs the go command in dir and returns its standard output.
func goCommand(dir, toolchain string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN="+toolchain, "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOWORK=off", "GOFLAGS=-mod=mod")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("go %s with %s: %w\n%.2000s", strings.Join(args, " "), toolchain, err, exit.Stderr)
		}
		return "", err
	}
	return string(out), nil
}

// versionGroups returns the published versions in which neighbours may be
// compared: one group per Go minor; pairs of sampled releases of a library.
func (b *builder) versionGroups(sample int) ([][]string, error) {
	query := b.module
	if b.module == "std" {
		query = "go"
	}
	dir, err := os.MkdirTemp("", "offsets")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module m\ngo 1.18\n"), 0o644); err != nil {
		return nil, err
	}
	list, err := goCommand(dir, "local", "list", "-m", "-versions", query)
	if err != nil {
		return nil, err
	}
	from, to := b.bounds()
	var versions []string
	for _, v := range strings.Fields(list)[1:] {
		p, ok := offsets.ParseVersion(v)
		if ok && p.Pre == "" && p.Compare(from) >= 0 && p.Compare(to) <= 0 {
			versions = append(versions, v)
		}
	}
	// A mirror may not list old releases and have them all the same.
	if first := b.first(); b.module != "std" && len(versions) > 0 && versions[0] != first {
		versions = append([]string{first}, versions...)
	}
	if len(versions) == 0 {
		return nil, fmt.Errorf("no published version of %s", b.module)
	}
	if b.module == "std" {
		return byMinor(versions), nil
	}
	return b.sampled(versions, sample), nil
}

// bounds reads the program's "// versions: FROM TO" line.
func (b *builder) bounds() (from, to offsets.Version) {
	f := b.versions()
	from, _ = offsets.ParseVersion(f[0])
	to, _ = offsets.ParseVersion(f[1])
	return from, to
}

// first is FROM as the program has it.
func (b *builder) first() string { return b.versions()[0] }

func (b *builder) versions() [2]string {
	for line := range strings.Lines(string(b.program)) {
		if rest, ok := strings.CutPrefix(line, "// versions: "); ok {
			return [2]string(strings.Fields(rest))
		}
	}
	return [2]string{}
}

func byMinor(versions []string) [][]string {
	var out [][]string
	var last offsets.Version
	for _, v := range versions {
		p, _ := offsets.ParseVersion(v)
		if len(out) == 0 || !p.SameMinor(last) {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], v)
		last = p
	}
	return out
}

// sampled cuts the versions into groups that share their ends, so that the
// measurement goes on across them.
func (b *builder) sampled(versions []string, n int) [][]string {
	if len(versions) == 1 {
		return [][]string{versions}
	}
	var out [][]string
	start := 0
	for i := 1; i < n; i++ {
		end := i * (len(versions) - 1) / (n - 1)
		if end > start {
			out = append(out, versions[start:end+1])
			start = end
		}
	}
	return out
}

// measured is what is known of a module: spans of equal offsets, ascending.
type measured struct {
	fields []offsets.Field
	spans  []measuredSpan
}

type measuredSpan struct {
	from, to string
	off      map[offsets.Field]int64
}

func (b *builder) measureAll(groups [][]string) (measured, error) {
	m := measured{fields: b.fields}
	for _, g := range groups {
		spans, err := b.spans(g)
		if err != nil {
			return m, err
		}
		for _, s := range spans {
			m.spans = appendSpan(m.spans, s)
		}
	}
	return m, nil
}

// appendSpan appends s; a span that begins with the version that the last one
// ends with, as sampled groups do, is one with it.
func appendSpan(spans []measuredSpan, s measuredSpan) []measuredSpan {
	if n := len(spans); n > 0 && spans[n-1].to == s.from {
		if maps.Equal(spans[n-1].off, s.off) {
			spans[n-1].to = s.to
			return spans
		}
		// The shared version was measured once; it cannot differ from itself.
		panic("gen: spans " + spans[n-1].from + " and " + s.from + " contradict each other")
	}
	return append(spans, s)
}

// spans measures the ends of a group and, when they differ, its halves.
func (b *builder) spans(group []string) ([]measuredSpan, error) {
	for len(group) > 1 {
		_, err := b.measure(group[0])
		if err == nil {
			break
		}
		fmt.Fprintf(os.Stderr, "gen: leaving out %s %s: %v\n", b.module, group[0], err)
		group = group[1:] // a release that cannot be had any more
	}
	first, err := b.measure(group[0])
	if err != nil {
		return nil, err
	}
	last, err := b.measure(group[len(group)-1])
	if err != nil {
		return nil, err
	}
	if maps.Equal(first, last) {
		return []measuredSpan{{group[0], group[len(group)-1], first}}, nil
	}
	if len(group) == 2 {
		return []measuredSpan{{group[0], group[0], first}, {group[1], group[1], last}}, nil
	}
	mid := len(group) / 2
	left, err := b.spans(group[:mid+1]) // the halves share the middle
	if err != nil {
		return nil, err
	}
	right, err := b.spans(group[mid:])
	if err != nil {
		return nil, err
	}
	for _, s := range right {
		left = appendSpan(left, s)
	}
	return left, nil
}

// measure builds the program with one version and reads the offsets.
func (b *builder) measure(version string) (map[offsets.Field]int64, error) {
	if off, ok := b.known[version]; ok {
		return off, nil
	}
	sum := sha256.Sum256(b.program)
	bin := filepath.Join(b.cache, fmt.Sprintf("%s@%s-%x", strings.ReplaceAll(b.module, "/", "_"), version, sum[:4]))
	if _, err := os.Stat(bin); err != nil {
		if err := b.build(version, bin); err != nil {
			return nil, err
		}
	}
	e, err := goexe.Open(bin)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	off, err := e.DWARFOffsets(b.fields)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", bin, err)
	}
	if len(off) == 0 {
		return nil, fmt.Errorf("%s has none of %d fields of %s", bin, len(b.fields), b.module)
	}
	b.known[version] = off
	return off, nil
}

func (b *builder) build(version, bin string) error {
	dir, err := os.MkdirTemp("", "offsets")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "main.go"), b.program, 0o644); err != nil {
		return err
	}
	mod, toolchain := "module offsets.example\n\ngo 1.18\n", "go"+version
	if b.module != "std" {
		mod, toolchain = "module offsets.example\n\ngo 1.24\n", b.toolchain
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
		return err
	}
	if b.module != "std" {
		if _, err := goCommand(dir, toolchain, "get", b.module+"@"+version); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return err
	}
	tmp := bin + ".tmp"
	if _, err := goCommand(dir, toolchain, "build", "-trimpath", "-o", tmp, "."); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "gen: built %s %s\n", b.module, version)
	return os.Rename(tmp, bin)
}
