package goruntime

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// TestVariablesOfStripped compares where the runtime's variables are by the code that uses
// them, which is what a stripped executable has, with what the symbols say.
func TestVariablesOfStripped(t *testing.T) {
	names := []string{}
	for _, v := range []string{"1.18.10", "1.21.13", "1.26.8", "1.27.4"} {
		for _, mode := range []string{"plain", "pie", "cgo", "cgopie", "staticpie", "v3"} {
			names = append(names, "std-amd64-"+v+"-"+mode)
		}
		names = append(names, "std-arm64-"+v+"-plain", "std-arm64-"+v+"-pie")
	}
	paths := map[string]string{}
	for _, name := range names {
		paths[name] = filepath.Join(harness.CacheDir(t), "gobins", name)
		if _, err := os.Stat(paths[name]); err != nil {
			if out, err := exec.Command("make", "-C", "../../testdata/gobins", name).CombinedOutput(); err != nil {
				t.Fatalf("build %s: %v\n%s", name, err, out)
			}
		}
	}
	for name, path := range paths {
		t.Run(name, func(t *testing.T) {
			exe, err := goexe.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer exe.Close()
			want, err := exe.Vars(variables...)
			if err != nil {
				t.Fatal(err)
			}
			l, err := layoutOf(exe)
			if err != nil {
				t.Fatal(err)
			}
			got, err := exe.FindVars(uses(l.off))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("symbols, then what the code says: %s", d)
			}
		})
	}
}

// A layout that the code does not agree with is refused, with the variable's name.
func TestVariablesDisagree(t *testing.T) {
	exe, err := goexe.Open(harness.Build{Dir: "testdata/targets/runtimestats", Mode: harness.Stripped}.Path(t))
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	l, err := layoutOf(exe)
	if err != nil {
		t.Fatal(err)
	}
	l.off["mstats.mspan_sys"] += 4
	if _, err := exe.FindVars(uses(l.off)); !errors.Is(err, goexe.ErrNoOffsets) || !strings.Contains(err.Error(), "runtime.memstats") {
		t.Errorf("got %v", err)
	}
}
