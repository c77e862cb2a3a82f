package discover

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// ExeID names an executable file as the kernel maps it. It is not what stat(2)
// says on overlayfs or btrfs.
type ExeID struct {
	Dev uint32 // kernel dev_t: major << 20 | minor
	Ino uint64
}

// String gives the id as major:minor:inode, like /proc/PID/maps.
func (e ExeID) String() string {
	return fmt.Sprintf("%x:%x:%d", e.Dev>>20, e.Dev&0xfffff, e.Ino)
}

// Process is one process and the program it runs now.
type Process struct {
	Key telemetry.ProcessKey
	// ExecID grows with every exec of the same process: Key and ExecID together
	// name one run of one program.
	ExecID uint64
	PPID   int32
	Comm   string
	Exe    ExeID
	// Path is the executable's path in the process's own mount namespace, "" if
	// the process ended before it could be read. After an exec right after this
	// one it is already that program's: then Watcher.Check says no. It is for people
	// and globs, not for opening: that goes through /proc/PID/exe.
	Path string
	// StartCode is mm->start_code: address of the lowest executable segment.
	StartCode uint64
	// Auto says that the kernel side put the process into the watched set at exec.
	Auto bool
}

// ExePath is the way to open the executable whatever mount namespace it is in.
func (p Process) ExePath() string { return ExePath(p.Key.PID) }

// ExePath is /proc/PID/exe.
func ExePath(pid int32) string { return "/proc/" + strconv.Itoa(int(pid)) + "/exe" }

// Event is one of Started, Exited, Listening and Scanned.
type Event interface{ event() }

// Started says that a process runs a program: it was there at the beginning, or
// it has just called exec.
type Started struct {
	Process Process
	// Replaced: the same process (same key) ran another program before, which is
	// gone; no Exited came for it.
	Replaced bool
}

// Exited says that all threads of a process are gone.
type Exited struct{ Key telemetry.ProcessKey }

// Listening says that a process has a listening TCP socket on a port. It may come
// more than once for one socket.
type Listening struct {
	Key  telemetry.ProcessKey
	Port uint16
}

// Scanned comes once: all processes that ran when the Watcher was made have been
// reported.
type Scanned struct{}

func (Scanned) event()   {}
func (Started) event()   {}
func (Exited) event()    {}
func (Listening) event() {}

func processOf(e *bpfDiscoverEvent) Process {
	comm := make([]byte, 0, len(e.Comm))
	for _, c := range e.Comm {
		if c == 0 {
			break
		}
		comm = append(comm, byte(c))
	}
	return Process{
		Key:       keyOf(e),
		ExecID:    e.ExecId,
		PPID:      int32(e.Ppid),
		Comm:      strings.ToValidUTF8(string(comm), "?"),
		Exe:       ExeID{Dev: e.Dev, Ino: e.Ino},
		StartCode: e.StartCode,
		Auto:      e.Flags&bpfDiscoverFlagFLAG_AUTO != 0,
	}
}

func keyOf(e *bpfDiscoverEvent) telemetry.ProcessKey {
	return telemetry.ProcessKey{PID: int32(e.Tgid), StartNs: e.StartNs}
}

// exePathOf reads the path of a process's executable, "" when it is gone.
func exePathOf(pid int32) string {
	path, err := os.Readlink(ExePath(pid))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(path, " (deleted)")
}
