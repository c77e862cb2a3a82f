package kernel

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// Sentinels of Features.Err and Preflight.
var (
	// ErrPrivileges: the process may not load or attach BPF programs.
	ErrPrivileges = errors.New("not enough privileges")
	// ErrPIDNamespace: pids of the kernel and of /proc are different numbers here.
	ErrPIDNamespace = errors.New("not in the initial pid namespace")
	// ErrNotSupported: the kernel lacks something the agent cannot do without.
	ErrNotSupported = errors.New("not supported by this kernel")
)

// Need says how much the agent depends on a feature.
type Need string

const (
	// Required: without it the agent cannot work at all.
	Required Need = "required"
	// OneOf: one of the features with this need is enough.
	OneOf Need = "one of"
	// Better: it works without, with less or at a higher price.
	Better Need = "better"
	// Unused: the agent does without on purpose; shown because people ask.
	Unused Need = "unused"
)

// Feature is the answer about one feature.
type Feature struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Reason is why not, in the kernel's words; "" when OK.
	Reason string `json:"reason,omitempty"`
	// MinKernel is the first release that has it, "5.8".
	MinKernel string `json:"min_kernel"`
	Need      Need   `json:"need"`
	// Use is what the agent does with it.
	Use string `json:"use"`
	// Missing is what becomes of the agent without it.
	Missing string `json:"missing"`
}

// Capability is one of the process's effective capabilities.
type Capability struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Use  string `json:"use"`
}

// Features is everything Probe found out.
type Features struct {
	Release      string `json:"release"`
	InitialPIDNS bool   `json:"initial_pid_namespace"`
	// Lockdown is the mode the lockdown file shows, "" when it cannot be read. For
	// information only: nothing is decided by it.
	Lockdown     string       `json:"lockdown,omitempty"`
	Capabilities []Capability `json:"capabilities"`
	Features     []Feature    `json:"features"`
}

// Probe tries everything. It takes some 100 ms: perf uprobes and kprobes wait for
// the kernel when they are taken away.
func Probe() Features {
	f := Features{
		Release:      release(),
		InitialPIDNS: InitialPIDNamespace(),
		Lockdown:     lockdown("/sys/kernel/security/lockdown"),
		Capabilities: capabilities(),
	}
	for _, e := range table {
		feature := e.Feature
		if err := e.try(); err != nil {
			feature.Reason = oneLine(err)
		} else {
			feature.OK = true
		}
		f.Features = append(f.Features, feature)
	}
	return f
}

// Has says whether a feature of that name was found to work.
func (f Features) Has(name string) bool {
	for _, feature := range f.Features {
		if feature.Name == name {
			return feature.OK
		}
	}
	return false
}

// Err returns nil when the agent can work with these features; otherwise one line
// that says what is missing and what to do.
func (f Features) Err() error {
	if err := mayRun(f.Capabilities, f.InitialPIDNS); err != nil {
		return err
	}
	var alternatives []string
	found := false
	for _, feature := range f.Features {
		switch {
		case feature.Need == Required && !feature.OK:
			return fmt.Errorf("%w: %s (Linux %s and later; this is %s): %s",
				ErrNotSupported, feature.Name, feature.MinKernel, f.Release, feature.Reason)
		case feature.Need == OneOf:
			found = found || feature.OK
			alternatives = append(alternatives, feature.Name+" ("+feature.Reason+")")
		}
	}
	if !found && len(alternatives) > 0 {
		return fmt.Errorf("%w: none of %s", ErrNotSupported, strings.Join(alternatives, ", "))
	}
	return nil
}

// Preflight is the cheap part of Probe, for the start of a run: privileges, pid
// namespace, and what nothing works without. It also lifts the memory limit that
// kernels before 5.11 put on maps.
func Preflight() error {
	if err := mayRun(capabilities(), InitialPIDNamespace()); err != nil {
		return err
	}
	limit := ""
	if err := RaiseMemlock(); err != nil {
		limit = "; " + err.Error()
	}
	for _, e := range table {
		if e.Need != Required || !e.cheap {
			continue
		}
		if err := e.try(); err != nil {
			return fmt.Errorf("%w: %s (Linux %s and later; this is %s): %s%s",
				ErrNotSupported, e.Name, e.MinKernel, release(), oneLine(err), limit)
		}
	}
	return nil
}

func mayRun(caps []Capability, initialNS bool) error {
	have := map[string]bool{}
	for _, c := range caps {
		have[c.Name] = c.OK
	}
	if !have[capSysAdmin] && (!have[capBPF] || !have[capPerfmon]) {
		var missing []string
		for _, name := range []string{capBPF, capPerfmon} {
			if !have[name] {
				missing = append(missing, name)
			}
		}
		return fmt.Errorf("%w: %s missing; run as root, or give the binary "+
			"CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE (in Kubernetes: privileged, or capabilities.add)",
			ErrPrivileges, strings.Join(missing, " and "))
	}
	if !initialNS {
		return fmt.Errorf("%w: process ids in here are not the kernel's; run on the host, "+
			"or with --pid=host (Docker) or hostPID: true (Kubernetes)", ErrPIDNamespace)
	}
	return nil
}

// initialPIDNSInode is PROC_PID_INIT_INO of include/linux/proc_ns.h.
const initialPIDNSInode = 0xEFFFFFFC

// InitialPIDNamespace says whether this process sees the same pids as the kernel.
func InitialPIDNamespace() bool {
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/pid", &st) == nil && st.Ino == initialPIDNSInode
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// lockdown reads "none [integrity] confidentiality" as "integrity".
func lockdown(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	_, mode, ok := strings.Cut(string(b), "[")
	if !ok {
		return ""
	}
	mode, _, _ = strings.Cut(mode, "]")
	return mode
}

const (
	capBPF      = "CAP_BPF"
	capPerfmon  = "CAP_PERFMON"
	capSysAdmin = "CAP_SYS_ADMIN"
)

// asides are the BPF library's hints that do not hold here: Preflight has seen to
// the memory limit, and a table has no room for a verifier log.
var asides = regexp.MustCompile(` \((MEMLOCK may be too low, consider rlimit\.RemoveMemlock|\d+ line\(s\) omitted)\)`)

// oneLine makes an error fit a table.
func oneLine(err error) string {
	const most = 200
	s := asides.ReplaceAllString(strings.Join(strings.Fields(err.Error()), " "), "")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
