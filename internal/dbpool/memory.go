package dbpool

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// errMemory says that a program's memory could not be read.
var errMemory = errors.New("read memory")

// Memory is a program's.
type Memory struct{ pid int }

// Of returns a process's memory.
func Of(pid int32) Memory { return Memory{int(pid)} }

// Read fills b from address at.
func (m Memory) Read(at uint64, b []byte) error {
	if at == 0 || at>>63 != 0 {
		return fmt.Errorf("%w: at 0x%x", errMemory, at)
	}
	n, err := unix.ProcessVMReadv(m.pid, []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}},
		[]unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", errMemory, err)
	}
	if n != len(b) {
		return fmt.Errorf("%w: %d of %d bytes", errMemory, n, len(b))
	}
	return nil
}

// Words is a piece of memory, read at once. The first error stays: callers look at Err
// when they are done.
type Words struct {
	b   []byte
	Err error
}

// Words reads the n bytes at address at.
func (m Memory) Words(at uint64, n int) *Words {
	w := &Words{b: make([]byte, n)}
	w.Err = m.Read(at, w.b)
	return w
}

// U64 is the word at off.
func (w *Words) U64(off int) uint64 {
	if w.Err != nil || off < 0 || off+8 > len(w.b) {
		w.outside(off)
		return 0
	}
	return binary.NativeEndian.Uint64(w.b[off:])
}

// U32 is the half word at off.
func (w *Words) U32(off int) uint32 {
	if w.Err != nil || off < 0 || off+4 > len(w.b) {
		w.outside(off)
		return 0
	}
	return binary.NativeEndian.Uint32(w.b[off:])
}

// Int is the int at off.
func (w *Words) Int(off int) int64 { return int64(w.U64(off)) }

func (w *Words) outside(off int) {
	if w.Err == nil {
		w.Err = fmt.Errorf("%w: %d is outside of %d bytes", errMemory, off, len(w.b))
	}
}
