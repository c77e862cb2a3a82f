package kernel

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root (CAP_BPF, CAP_PERFMON)")
	}
}

func TestProbe(t *testing.T) {
	needRoot(t)
	f := Probe()
	seen := map[string]bool{}
	for _, feature := range f.Features {
		t.Logf("%-22s %v %s", feature.Name, feature.OK, feature.Reason)
		if seen[feature.Name] {
			t.Errorf("%s is listed twice", feature.Name)
		}
		seen[feature.Name] = true
		if feature.OK == (feature.Reason != "") {
			t.Errorf("%s: ok=%v with reason %q", feature.Name, feature.OK, feature.Reason)
		}
		if strings.Contains(feature.Reason, "\n") {
			t.Errorf("%s: reason of several lines: %q", feature.Name, feature.Reason)
		}
		if feature.Use == "" || feature.Missing == "" || feature.MinKernel == "" || feature.Need == "" {
			t.Errorf("%s: texts missing: %+v", feature.Name, feature)
		}
	}
	for _, name := range []string{BTF, RingBuffer, RawTracepoint, TaskIterator} {
		if !f.Has(name) {
			t.Errorf("%s must work where the agent is tested", name)
		}
	}
	if f.InitialPIDNS {
		if err := f.Err(); err != nil {
			t.Errorf("Err: %v", err)
		}
		if err := Preflight(); err != nil {
			t.Errorf("Preflight: %v", err)
		}
	}
	if f.Has("no such feature") {
		t.Error("Has knows a feature that is not listed")
	}
}

// TestProbeAgreesWithUse: what Probe says about uprobe_multi is what the kernel
// says when it is used.
func TestProbeAgreesWithUse(t *testing.T) {
	needRoot(t)
	before := ownLinks(t)
	f := Probe()
	for _, name := range []string{UprobeMulti, Uprobe} {
		err := tryUprobeMulti()
		if name == Uprobe {
			err = tryUprobe(0)
		}
		if f.Has(name) != (err == nil) {
			t.Errorf("%s: Probe says %v, use says %v", name, f.Has(name), err)
		}
	}
	if after := ownLinks(t); after != before {
		t.Errorf("%d links of this process after probing, %d before", after, before)
	}
}

// ownLinks counts open BPF link descriptors of this process.
func ownLinks(t *testing.T) int {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && strings.HasPrefix(target, "anon_inode:bpf") {
			n++
		}
	}
	return n
}

func TestErr(t *testing.T) {
	caps := func(names ...string) (out []Capability) {
		for _, n := range names {
			out = append(out, Capability{Name: n, OK: true})
		}
		return out
	}
	ok := func(name string, need Need) Feature { return Feature{Name: name, Need: need, OK: true} }
	no := func(name string, need Need) Feature {
		return Feature{Name: name, Need: need, Reason: "refused", MinKernel: "5.8"}
	}
	tests := []struct {
		name string
		f    Features
		want error
		text string
	}{
		{"root", Features{InitialPIDNS: true, Capabilities: caps(capSysAdmin)}, nil, ""},
		{"two capabilities", Features{InitialPIDNS: true, Capabilities: caps(capBPF, capPerfmon)}, nil, ""},
		{"one capability", Features{InitialPIDNS: true, Capabilities: caps(capBPF)}, ErrPrivileges, "CAP_PERFMON missing"},
		{"none", Features{InitialPIDNS: true}, ErrPrivileges, "CAP_BPF and CAP_PERFMON missing"},
		{"container", Features{Capabilities: caps(capSysAdmin)}, ErrPIDNamespace, "hostPID"},
		{"required missing", Features{
			InitialPIDNS: true, Capabilities: caps(capSysAdmin), Release: "4.19",
			Features: []Feature{no("ring_buffer", Required)},
		}, ErrNotSupported, "ring_buffer (Linux 5.8 and later; this is 4.19): refused"},
		{"better missing", Features{
			InitialPIDNS: true, Capabilities: caps(capSysAdmin),
			Features: []Feature{no("x", Better), no("y", Unused)},
		}, nil, ""},
		{"one alternative", Features{
			InitialPIDNS: true, Capabilities: caps(capSysAdmin),
			Features: []Feature{no("a", OneOf), ok("b", OneOf)},
		}, nil, ""},
		{"no alternative", Features{
			InitialPIDNS: true, Capabilities: caps(capSysAdmin),
			Features: []Feature{no("a", OneOf), no("b", OneOf)},
		}, ErrNotSupported, "none of a (refused), b (refused)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.f.Err()
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err != nil && (!strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("got %q, want one line with %q", err, tt.text)
			}
		})
	}
}

// printEnv makes this test binary print Preflight's error and the probed features.
const printEnv = "KERNEL_TEST_PRINT"

func TestMain(m *testing.M) {
	if os.Getenv(printEnv) == "" {
		os.Exit(m.Run())
	}
	if err := Preflight(); err != nil {
		os.Stderr.WriteString(err.Error())
	}
	json.NewEncoder(os.Stdout).Encode(Probe())
}

func runRestricted(t *testing.T, attr *syscall.SysProcAttr) (Features, string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), printEnv+"=1")
	cmd.SysProcAttr = attr
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var f Features
	if err := json.Unmarshal(out, &f); err != nil {
		t.Fatal(err)
	}
	return f, stderr.String()
}

func TestUnprivileged(t *testing.T) {
	needRoot(t)
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// Others may not enter the directory of the test binary.
	path := filepath.Join(os.TempDir(), filepath.Base(t.TempDir())+"-kernel.test")
	if err := os.WriteFile(path, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	cmd := exec.Command(path)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), printEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var f Features
	if err := json.Unmarshal(out, &f); err != nil {
		t.Fatal(err)
	}
	for _, c := range f.Capabilities {
		if c.OK {
			t.Errorf("nobody has %s", c.Name)
		}
	}
	for _, name := range []string{RingBuffer, RawTracepoint, UprobeMulti, WriteUser} {
		if f.Has(name) {
			t.Errorf("%s works for nobody", name)
		}
	}
	if !errors.Is(f.Err(), ErrPrivileges) {
		t.Errorf("Err: %v, want %v", f.Err(), ErrPrivileges)
	}
	if got := stderr.String(); !strings.Contains(got, "run as root") || strings.Contains(got, "\n") {
		t.Errorf("Preflight said %q, want one line that says what to do", got)
	}
}

func TestOtherPIDNamespace(t *testing.T) {
	needRoot(t)
	if !InitialPIDNamespace() {
		t.Fatal("this test must run in the initial pid namespace")
	}
	f, said := runRestricted(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS})
	// /proc is still the host's: /proc/self does not exist in the child's eyes
	// unless it is mounted again, and that too must not count as initial.
	if f.InitialPIDNS {
		t.Error("a child in a new pid namespace thinks it is in the initial one")
	}
	if !strings.Contains(said, "hostPID") {
		t.Errorf("Preflight said %q", said)
	}
}

func TestLockdown(t *testing.T) {
	for content, want := range map[string]string{
		"none [integrity] confidentiality\n": "integrity",
		"[none] integrity confidentiality\n": "none",
		"":                                   "",
		"garbage":                            "",
		"[open":                              "open",
	} {
		path := filepath.Join(t.TempDir(), "lockdown")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lockdown(path); got != want {
			t.Errorf("lockdown of %q: got %q, want %q", content, got, want)
		}
	}
	if got := lockdown("/nonexistent"); got != "" {
		t.Errorf("lockdown without file: %q", got)
	}
}

func TestFileOffset(t *testing.T) {
	const maps = `00400000-00500000 r-xp 00002000 fd:01 42 /bin/x
7f0000000000-7f0000001000 r-xp 00000000 00:00 0 [vdso]
`
	if got, err := fileOffset(strings.NewReader(maps), 0x401234); err != nil || got != 0x3234 {
		t.Errorf("got %#x, %v, want 0x3234", got, err)
	}
	for _, addr := range []uint64{0x3fffff, 0x500000, 0x7f0000000010} {
		if got, err := fileOffset(strings.NewReader(maps), addr); !errors.Is(err, errNotMapped) {
			t.Errorf("%#x: got %#x, %v, want %v", addr, got, err, errNotMapped)
		}
	}
	if _, err := fileOffset(strings.NewReader("nonsense\n"), 1); err == nil {
		t.Error("no error for nonsense")
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"load:\n\toperation not permitted (MEMLOCK may be too low, consider rlimit.RemoveMemlock)": "load: operation not permitted",
		"cannot use helper (9 line(s) omitted)":                                                    "cannot use helper",
		strings.Repeat("x", 300):                                                                   strings.Repeat("x", 200) + "...",
	} {
		if got := oneLine(errors.New(in)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestMemlock(t *testing.T) {
	needRoot(t)
	if err := RaiseMemlock(); err != nil && !strings.Contains(err.Error(), "RLIMIT_MEMLOCK") {
		t.Errorf("RaiseMemlock: %v", err)
	}
}
