package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// needed are the capabilities the agent uses while it runs, and for what. Which of them
// it can do without, and what is lost, is tried by TestCapabilities.
var needed = []struct {
	bit       uint
	name, use string
}{
	{unix.CAP_BPF, capBPF, "load BPF programs and maps"},
	{unix.CAP_PERFMON, capPerfmon, "attach to tracepoints and programs, read their memory"},
	{unix.CAP_SYS_ADMIN, capSysAdmin, "stands for the two above; count probe hits, write traceparent into memory, perf uprobes on some kernels"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "open executables of other users' processes"},
	{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", "read executables that only their users may read"},
	{unix.CAP_LEASE, "CAP_LEASE", "hold other users' executables against writing while they are probed"},
}

// effective reads the effective set, 0 when it cannot be read.
func effective() uint64 {
	data, err := capget()
	if err != nil {
		return 0
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective)
}

func capget() (data [2]unix.CapUserData, err error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return data, fmt.Errorf("read capabilities: %w", err)
	}
	return data, nil
}

// capabilities says which of the needed ones are effective. On a kernel without CAP_BPF
// (before 5.8) those bits are never set, and CAP_SYS_ADMIN stands for them.
func capabilities() []Capability {
	have := effective()
	out := make([]Capability, 0, len(needed))
	for _, n := range needed {
		out = append(out, Capability{Name: n.name, OK: have>>n.bit&1 == 1, Use: n.use})
	}
	return out
}

// MissingCapabilities are those that are not effective, and that no other stands for.
func MissingCapabilities() (missing []Capability) {
	list := capabilities()
	admin := slices.ContainsFunc(list, func(c Capability) bool { return c.Name == capSysAdmin && c.OK })
	for _, c := range list {
		if !c.OK && !(admin && (c.Name == capBPF || c.Name == capPerfmon)) {
			missing = append(missing, c)
		}
	}
	return missing
}

// ErrManyThreads means that the binary was built with cgo, which has threads that Go does
// not know of.
var ErrManyThreads = errors.New("privileges cannot be dropped by a binary that was built with cgo")

// DropPrivileges gives up for good, in all threads, every capability that is not needed
// while the agent runs, and the right to get any by execve. network keeps CAP_NET_ADMIN,
// for programs on sockets. It returns the names of what is left. Ambient capabilities go
// with the inheritable ones.
func DropPrivileges(network bool) (left string, err error) {
	data, err := capget()
	if err != nil {
		return "", err
	}
	var keep uint64
	var names []string
	for _, n := range needed {
		keep |= 1 << n.bit
	}
	if network {
		keep |= 1 << unix.CAP_NET_ADMIN
	}
	for i := range data {
		mask := uint32(keep >> (32 * i))
		data[i].Permitted &= mask
		data[i].Effective &= mask
		data[i].Inheritable = 0
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return "", fmt.Errorf("set no_new_privs: %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	err = allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data[0])))
	if err != nil {
		return "", fmt.Errorf("drop capabilities: %w", err)
	}
	now := uint64(data[1].Effective)<<32 | uint64(data[0].Effective)
	for _, n := range needed {
		if now>>n.bit&1 == 1 {
			names = append(names, n.name)
		}
	}
	if now>>unix.CAP_NET_ADMIN&1 == 1 {
		names = append(names, "CAP_NET_ADMIN")
	}
	return strings.Join(names, " "), nil
}

//go:uintptrescapes
func allThreads(call, a, b uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall(call, a, b, 0)
	switch errno {
	case 0:
		return nil
	case unix.ENOTSUP:
		return ErrManyThreads
	}
	return errno
}
