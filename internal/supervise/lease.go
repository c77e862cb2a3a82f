package supervise

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A stamp tells whether a file with the same inode still has the same content.
type stamp struct {
	size         int64
	mtime, ctime unix.Timespec
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

func stampFile(path string) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return stamp{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return stampOf(&st), nil
}

// held is the open file of an executable.
type held struct {
	f      *os.File
	stamp  stamp
	leased bool
}

// hold opens an executable and asks for a read lease on it: whoever wants to write
// to the file waits until release, and SIGIO tells us. Not every file system
// grants leases, and none is granted while somebody writes.
func hold(path string) (*held, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	h := &held{f: f, stamp: stampOf(&st)}
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	h.leased = err == nil
	return h, nil
}

// path is a name by which this very file can be opened as long as it is held.
func (h *held) path() string { return fmt.Sprintf("/proc/self/fd/%d", h.f.Fd()) }

// broken says that somebody waits to write to the file.
func (h *held) broken() bool {
	if !h.leased {
		return false
	}
	lease, err := unix.FcntlInt(h.f.Fd(), unix.F_GETLEASE, 0)
	return err != nil || lease != unix.F_RDLCK
}

// unlease gives the lease back and keeps the file open.
func (h *held) unlease() {
	h.leased = false
	// Only fails when there is no lease any more.
	_, _ = unix.FcntlInt(h.f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
}

// deleted says that no name leads to the file any more.
func (h *held) deleted() bool {
	var st unix.Stat_t
	return unix.Fstat(int(h.f.Fd()), &st) == nil && st.Nlink == 0
}

// release closes the file, and with it gives the lease back.
func (h *held) release() {
	if h != nil {
		h.f.Close()
	}
}
