// Package ring reads a BPF ring buffer and waits for it in the Go runtime's own poller.
// The library's reader waits in a system call; as long as one goroutine does, the runtime's
// monitor thread looks after it, every 20 µs at first, which costs an agent that has
// nothing to do more than all else.
package ring

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// Reader is used by one goroutine, but for Wake.
type Reader struct {
	rb   *ringbuf.Reader
	file *os.File // the map's descriptor, in the poller
	conn syscall.RawConn

	mu    sync.Mutex
	woken bool
}

// NewReader opens a reader on a ring buffer map.
func NewReader(m *ebpf.Map) (*Reader, error) {
	rb, err := ringbuf.NewReader(m)
	if err != nil {
		return nil, fmt.Errorf("open ring buffer: %w", err)
	}
	rb.SetDeadline(time.Unix(1, 0)) // it never waits
	r := &Reader{rb: rb}
	if err := r.poll(m.FD()); err != nil {
		rb.Close()
		return nil, fmt.Errorf("open ring buffer: %w", err)
	}
	return r, nil
}

// poll hands a descriptor of the map to the poller.
func (r *Reader) poll(mapFD int) error {
	fd, err := unix.FcntlInt(uintptr(mapFD), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // NewFile asks for that
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	r.file = os.NewFile(uintptr(fd), "ring buffer")
	err = r.file.SetReadDeadline(time.Time{}) // fails where it cannot be polled
	if err == nil {
		r.conn, err = r.file.SyscallConn()
	}
	if err != nil {
		r.file.Close()
	}
	return err
}

// Wait returns when a program wakes the reader, when Wake is called or was, at a time, or
// at once when at least enough bytes are there already.
func (r *Reader) Wait(until time.Time, enough int) error {
	r.mu.Lock()
	woken := r.woken
	r.woken = false
	err := r.file.SetReadDeadline(until)
	r.mu.Unlock()
	if woken || err != nil {
		return err
	}
	first := true
	err = r.conn.Read(func(uintptr) bool {
		// What has woken the reader before this is forgotten, and is in the ring.
		ready := !first || r.rb.AvailableBytes() >= enough
		first = false
		return ready
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for the ring buffer: %w", err)
	}
	return nil
}

// Wake ends the Wait under way, or else the next one.
func (r *Reader) Wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.woken = true
	_ = r.file.SetReadDeadline(time.Unix(1, 0)) // it can only fail when closed
}

// Read reads the next record; false when there is none. It does not wait.
func (r *Reader) Read(rec *ringbuf.Record) (bool, error) {
	err := r.rb.ReadInto(rec)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read ring buffer: %w", err)
	}
	return true, nil
}

// Size is the ring's, in bytes.
func (r *Reader) Size() int { return r.rb.BufferSize() }

// Available is how many bytes wait to be read.
func (r *Reader) Available() int { return r.rb.AvailableBytes() }

// Close frees the reader; no other call may be under way.
func (r *Reader) Close() error { return errors.Join(r.file.Close(), r.rb.Close()) }
