package testkernel

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// RequireEnv is the environment variable that turns an unjustified skip into a
// failure when it is "1".
const RequireEnv = "TRACER_REQUIRE_KERNEL"

// Feature names something a test needs of the kernel or of its own privileges.
type Feature string

const (
	// Root: effective user 0, able to load BPF programs.
	Root Feature = "root"
	// BTF: the kernel's own type information in /sys/kernel/btf/vmlinux.
	BTF Feature = "btf"
	// RingBuf: BPF_MAP_TYPE_RINGBUF.
	RingBuf Feature = "ringbuf"
	// Uprobe: a BPF program attached to a user-space address by a perf event.
	Uprobe Feature = "uprobe"
	// UprobeMulti: BPF_TRACE_UPROBE_MULTI links.
	UprobeMulti Feature = "uprobe_multi"
	// TPBTF: BTF-enabled raw tracepoints.
	TPBTF Feature = "tp_btf"
	// RawTracepoint: raw tracepoints.
	RawTracepoint Feature = "raw_tp"
	// Iter: BPF iterators over tasks.
	Iter Feature = "iter"
	// Kprobe: BPF programs on kernel functions; hosts may refuse it.
	Kprobe Feature = "kprobe"
	// Fentry: BPF trampolines on kernel functions; hosts may refuse it.
	Fentry Feature = "fentry"
	// WriteUser: bpf_probe_write_user; refused under lockdown.
	WriteUser Feature = "write_user"
)

// version is a kernel version, major and minor.
type version struct{ major, minor int }

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v version) before(o version) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

// entry describes one feature.
type entry struct {
	// min is the first kernel that has it.
	min version
	// probe returns nil when the feature works here.
	probe func() error
	// policy returns why this host may refuse the feature on a kernel that has
	// it, "" when it may not. nil: no policy excuses it.
	policy func() string
}

var table = map[Feature]entry{
	Root:          {min: version{0, 0}, probe: probeRoot},
	BTF:           {min: version{5, 4}, probe: probeBTF},
	RingBuf:       {min: version{5, 8}, probe: probeRingBuf},
	Uprobe:        {min: version{4, 17}, probe: probeUprobe},
	UprobeMulti:   {min: version{6, 6}, probe: probeUprobeMulti},
	TPBTF:         {min: version{5, 5}, probe: probeTPBTF},
	RawTracepoint: {min: version{4, 17}, probe: probeRawTracepoint},
	Iter:          {min: version{5, 8}, probe: probeIter},
	Kprobe:        {min: version{4, 1}, probe: probeKprobe, policy: refusedByHost},
	Fentry:        {min: version{5, 5}, probe: probeFentry, policy: refusedByHost},
	WriteUser:     {min: version{4, 8}, probe: probeWriteUser, policy: lockedDown},
}

var (
	mu      sync.Mutex
	results = map[Feature]error{}
)

// Require runs the test only where every one of the features works. Otherwise
// it skips the test with the feature's name and the reason, or fails it when
// TRACER_REQUIRE_KERNEL=1 and this kernel does not justify the skip.
func Require(t testing.TB, fs ...Feature) {
	t.Helper()
	for _, f := range fs {
		verdict, reason := judge(f, Have(f), running(), os.Getenv(RequireEnv) == "1")
		switch verdict {
		case verdictSkip:
			t.Skip(reason)
		case verdictFail:
			t.Fatal(reason)
		}
	}
}

// Have returns nil when the feature works on this kernel with this process's
// privileges, else the reason. The answer is kept for the process's life.
func Have(f Feature) error {
	e, ok := table[f]
	if !ok {
		return fmt.Errorf("kernel feature %q is not known to testkernel", f)
	}
	mu.Lock()
	defer mu.Unlock()
	err, done := results[f]
	if !done {
		// Kernels before 5.11 count programs against it; without the right to, as it is.
		_ = rlimit.RemoveMemlock()
		err = e.probe()
		results[f] = err
	}
	return err
}

type verdict int

const (
	verdictRun verdict = iota
	verdictSkip
	verdictFail
)

// judge decides what becomes of a test; err is what the feature's probe said.
func judge(f Feature, err error, kernel version, strict bool) (verdict, string) {
	if err == nil {
		return verdictRun, ""
	}
	e, ok := table[f]
	if !ok {
		return verdictFail, err.Error()
	}
	if kernel.before(e.min) {
		return verdictSkip, fmt.Sprintf("needs kernel feature %s (Linux %s, here %s): %v", f, e.min, kernel, err)
	}
	if e.policy != nil {
		if why := e.policy(); why != "" {
			return verdictSkip, fmt.Sprintf("needs kernel feature %s, which this host refuses (%s): %v", f, why, err)
		}
	}
	if strict {
		return verdictFail, fmt.Sprintf("kernel feature %s must work on Linux %s (%s=1): %v", f, kernel, RequireEnv, err)
	}
	return verdictSkip, fmt.Sprintf("needs kernel feature %s: %v", f, err)
}

// running is the running kernel's version; 0.0 when it cannot be told.
func running() version {
	var u unix.Utsname
	var v version
	if unix.Uname(&u) == nil {
		_, _ = fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &v.major, &v.minor)
	}
	return v
}

func probeRoot() error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("effective user is %d, run the test as root", uid)
	}
	return nil
}

func probeBTF() error {
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	return err
}

func probeRingBuf() error { return features.HaveMapType(ringBufType) }
