package goexe

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// reducedVersions are the Go releases of the usual run; TRACER_MATRIX=all adds the rest.
var reducedVersions = []string{"1.18.10", "1.21.13", "1.26.8", "1.27.4"}

// versions are the last published patches of every supported minor, those of
// testdata/gobins/Makefile.
func versions() []string {
	if os.Getenv("TRACER_MATRIX") != "all" {
		return reducedVersions
	}
	return []string{"1.18.10", "1.19.13", "1.20.14", "1.21.13", "1.22.12", "1.23.12", "1.24.13", "1.25.14", "1.26.8", "1.27.4"}
}

var modes = map[string][]string{
	"amd64": {"plain", "w", "sw", "pie", "cgo", "cgopie", "staticpie", "v3"},
	"arm64": {"plain", "sw", "pie"},
}

// buildLock keeps one build at a time: a Go build uses every core by itself.
var buildLock sync.Mutex

// gobin returns the path of a program of testdata/gobins, and builds what is missing.
func gobin(tb testing.TB, parts ...string) string {
	tb.Helper()
	name := strings.Join(parts, "-")
	cache := os.Getenv("TRACER_TEST_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir() // XDG_CACHE_HOME or ~/.cache
		if err != nil {
			tb.Fatal(err)
		}
		cache = filepath.Join(dir, "tracer-agent")
	}
	path := filepath.Join(cache, "gobins", name)
	buildLock.Lock()
	defer buildLock.Unlock()
	if _, err := os.Stat(path); err != nil {
		tb.Logf("building %s", name)
		out, err := exec.Command("make", "-C", "../../testdata/gobins", name).CombinedOutput()
		if err != nil {
			tb.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return path
}

// open opens a program of testdata/gobins for the length of the test.
func open(tb testing.TB, parts ...string) *Exe {
	tb.Helper()
	e, err := Open(gobin(tb, parts...))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
	})
	return e
}

// eachStd runs f on the std program of every version, architecture and mode.
func eachStd(t *testing.T, f func(t *testing.T, e *Exe, arch, version, mode string)) {
	for _, v := range versions() {
		for arch, ms := range modes {
			for _, mode := range ms {
				t.Run(strings.Join([]string{arch, v, mode}, "-"), func(t *testing.T) {
					f(t, open(t, "std", arch, v, mode), arch, v, mode)
				})
			}
		}
	}
}

// has reports whether a build mode keeps the debug information, the symbol table.
func hasDWARF(mode string) bool  { return !slices.Contains([]string{"w", "sw"}, mode) }
func hasSymtab(mode string) bool { return mode != "sw" }
func isPIE(mode string) bool     { return strings.HasSuffix(mode, "pie") }
