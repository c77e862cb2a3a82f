package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// workDir holds what a run builds. The big program takes minutes to build and is
// kept; the rest is quick.
func workDir() (string, error) {
	dir := os.Getenv("TRACER_TEST_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(base, "tracer-agent")
	}
	dir = filepath.Join(dir, "bench")
	return dir, os.MkdirAll(dir, 0o755)
}

// build compiles the package in dir to out.
func build(dir, out string, flags ...string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-o", out}, flags...), ".")...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", dir, err, text)
	}
	return nil
}

// copyFile gives a program an inode of its own.
func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	_ = os.Remove(to)
	return os.WriteFile(to, b, 0o755)
}

// bigPackages and bigFuncs make an executable of some 150 MB with DWARF.
const (
	bigPackages = 47
	bigFuncs    = 1000
)

// buildBig generates a program with many functions and types around the trivial
// server, and builds it with and without symbols. It is kept in the cache.
func buildBig(dir, trivial string) (plain, stripped string, err error) {
	src := filepath.Join(dir, "big")
	plain = filepath.Join(dir, fmt.Sprintf("big-%dx%d-plain", bigPackages, bigFuncs))
	stripped = filepath.Join(dir, fmt.Sprintf("big-%dx%d-stripped", bigPackages, bigFuncs))
	if exists(plain) && exists(stripped) {
		return plain, stripped, nil
	}
	main, err := os.ReadFile(filepath.Join(trivial, "main.go"))
	if err != nil {
		return "", "", err
	}
	text := string(main)
	var imports, calls strings.Builder
	for p := range bigPackages {
		fmt.Fprintf(&imports, "\t\"big/p%d\"\n", p)
		fmt.Fprintf(&calls, "\tif len(os.Args) > %d {\n\t\tfmt.Println(p%d.Run(len(os.Args)))\n\t}\n", 1000+p, p)
		pkg := filepath.Join(src, fmt.Sprintf("p%d", p))
		if err := os.MkdirAll(pkg, 0o755); err != nil {
			return "", "", err
		}
		if err := os.WriteFile(filepath.Join(pkg, "p.go"), bigPackage(p), 0o644); err != nil {
			return "", "", err
		}
	}
	text = strings.Replace(text, "import (\n", "import (\n"+imports.String(), 1)
	text = strings.Replace(text, "\tflag.Parse()\n", "\tflag.Parse()\n"+calls.String(), 1)
	if err := os.WriteFile(filepath.Join(src, "main.go"), []byte(text), 0o644); err != nil {
		return "", "", err
	}
	if err := os.WriteFile(filepath.Join(src, "go.mod"), []byte("module big\n\ngo 1.26.0\n"), 0o644); err != nil {
		return "", "", err
	}
	if err := build(src, plain); err != nil {
		return "", "", err
	}
	return plain, stripped, build(src, stripped, "-ldflags=-s -w")
}

// bigPackage is one package's source: functions that call each other through a
// table, so that the linker keeps them, with types and strings of their own.
func bigPackage(p int) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "package p%d\n\nimport (\n\t\"fmt\"\n\t\"strings\"\n)\n\n", p)
	for f := range bigFuncs {
		fmt.Fprintf(&b, `type T%[1]d struct {
	A, B int
	Name string
	Next *T%[1]d
	Tags map[string][]T%[1]d
}

func F%[1]d(n int, s string, t *T%[1]d) (string, error) {
	if n <= 0 || t == nil {
		return "", fmt.Errorf("function %[1]d of package %[2]d: n is %%d", n)
	}
	m := map[string]int{s: n, "k%[1]d": %[1]d}
	for i := 0; i < n; i++ {
		m[strings.Repeat(s, i)] += i
		t.Tags[s] = append(t.Tags[s], T%[1]d{A: i, B: m[s], Name: s})
	}
	if t.Next != nil {
		return F%[1]d(n-1, s+t.Name, t.Next)
	}
	return fmt.Sprintf("%%v %%v %%s", m, t.A, strings.ToUpper(s)), nil
}

`, f, p)
	}
	fmt.Fprint(&b, "var all = []func(int) string{\n")
	for f := range bigFuncs {
		fmt.Fprintf(&b, "\tfunc(n int) string { s, _ := F%[1]d(n, \"x\", &T%[1]d{}); return s },\n", f)
	}
	fmt.Fprint(&b, "}\n\nfunc Run(n int) string { return all[n%len(all)](n) }\n")
	return []byte(b.String())
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
