package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Toolchains are the Go releases that targets are built with, oldest first.
var Toolchains = []string{
	"1.18.10", "1.19.13", "1.20.14", "1.21.13", "1.22.12",
	"1.23.12", "1.24.9", "1.25.3", "1.26.8", "1.27.4",
}

// Newest is the toolchain of a [Build] that names none: the one this module is
// written for.
const Newest = "1.26.8"

// Mode is a way of linking.
type Mode string

// The build modes of the matrix.
const (
	Plain    Mode = "plain"    // static, symbols and DWARF
	NoDWARF  Mode = "w"        // -ldflags=-w
	Stripped Mode = "sw"       // -ldflags="-s -w"
	PIE      Mode = "pie"      // position independent
	CGO      Mode = "cgo"      // cgo and the external linker
	Trimmed  Mode = "trimpath" // -trimpath -ldflags="-s -w"
)

// flags are the build's arguments, and whether cgo is on.
func (m Mode) flags() (args []string, cgo bool) {
	switch m {
	case NoDWARF:
		return []string{"-ldflags=-w"}, false
	case Stripped:
		return []string{"-ldflags=-s -w"}, false
	case PIE:
		return []string{"-buildmode=pie"}, false
	case CGO:
		return []string{"-ldflags=-linkmode=external"}, true
	case Trimmed:
		return []string{"-trimpath", "-ldflags=-s -w"}, false
	default:
		return nil, false
	}
}

// Build names an executable built from source in the repository.
type Build struct {
	Dir  string // module folder, relative to the repository
	Pkg  string // package in it, "" for the module's root
	Go   string // toolchain such as "1.21.13"; "" is Newest
	Mode Mode   // "" is Plain
	Mod  string // another go.mod in Dir, for other versions of what it requires
}

// Root is the repository's folder.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "testdata", "targets")); err == nil {
			return dir
		}
	}
	t.Fatal("find the repository: no folder above has testdata/targets")
	return ""
}

// CacheDir is where built executables are kept between runs:
// TRACER_TEST_CACHE, or tracer-agent in the user's cache folder.
func CacheDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("TRACER_TEST_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(base, "tracer-agent")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

var buildLock sync.Mutex

// Path builds the executable, unless the cache has it, and returns its path.
func (b Build) Path(t testing.TB) string {
	t.Helper()
	if b.Go == "" {
		b.Go = Newest
	}
	if b.Mode == "" {
		b.Mode = Plain
	}
	src := filepath.Join(Root(t), b.Dir)
	args, cgo := b.Mode.flags()
	if b.Mod != "" {
		args = append(args, "-modfile="+b.Mod)
	}
	name := filepath.Base(filepath.Join(b.Dir, b.Pkg))
	sum, err := sourceHash(src, append(args, b.Go, b.Pkg, string(b.Mode)))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(CacheDir(t), fmt.Sprintf("%s-go%s-%s-%s", name, b.Go, b.Mode, sum[:16]))
	out := filepath.Join(dir, name)

	buildLock.Lock()
	defer buildLock.Unlock()
	if _, err := os.Stat(out); err == nil {
		return out
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tmp := out + ".tmp"
	pkg := "."
	if b.Pkg != "" {
		pkg = "./" + b.Pkg
	}
	cmd := exec.Command("go", append(append([]string{"build", "-o", tmp}, args...), pkg)...)
	cmd.Dir = src
	cmd.Env = goEnv("GOTOOLCHAIN=go"+b.Go, cgoEnv(cgo))
	if strings.HasPrefix(b.Go, "1.19") {
		// Its index of packages, the first there was, fails on some file systems.
		cmd.Env = append(cmd.Env, "GODEBUG=goindex=0")
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s with go%s (%s): %v\n%s", b.Dir, b.Go, b.Mode, err, text)
	}
	if err := os.Rename(tmp, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// goEnv is this process's environment without what steers the go command.
func goEnv(extra ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "GOFLAGS=") || strings.HasPrefix(s, "GOTOOLCHAIN=") || strings.HasPrefix(s, "CGO_ENABLED=")
	})
	return append(append(env, "GOFLAGS=-buildvcs=false"), extra...)
}

func cgoEnv(on bool) string {
	if on {
		return "CGO_ENABLED=1"
	}
	return "CGO_ENABLED=0"
}

// sourceHash is over names and contents of all files below dir, and extra.
func sourceHash(dir string, extra []string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, extra)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n", rel, len(data))
		h.Write(data)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("hash the source in %s: %w", dir, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

var (
	agentOnce sync.Once
	agentDir  string
	agentErr  error
)

// AgentPath builds the agent from this repository, as `make build` does, once
// per test run. Where there is no Go, TRACER_AGENT_BIN names one that is built.
func AgentPath(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("TRACER_AGENT_BIN"); path != "" {
		return path
	}
	agentOnce.Do(func() {
		// Not t.TempDir: later tests use it, too; Main removes it.
		if agentDir, agentErr = os.MkdirTemp("", "tracer-agent-test"); agentErr != nil { //nolint:usetesting
			return
		}
		cmd := exec.Command("go", "build", "-trimpath", "-o", agentDir, "./cmd/tracer-agent")
		cmd.Dir = Root(t)
		cmd.Env = goEnv(cgoEnv(false))
		if text, err := cmd.CombinedOutput(); err != nil {
			agentErr = fmt.Errorf("build the agent: %w\n%s", err, text)
		}
	})
	if agentErr != nil {
		t.Fatal(agentErr)
	}
	return filepath.Join(agentDir, "tracer-agent")
}

// Main runs a package's tests and removes the agent that they used. Call it from
// TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if agentDir != "" {
		_ = os.RemoveAll(agentDir)
	}
	os.Exit(code)
}
