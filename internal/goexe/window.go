package goexe

import (
	"bytes"
	"encoding/binary"
)

// windowBytes is how much of the file one window holds in memory.
const windowBytes = 256 << 10

// window reads a byte range of the file through one buffer that moves along:
// cheap for offsets that ascend, correct for any.
type window struct {
	im    *image
	start uint64 // file offset of the range
	size  uint64 // of the range
	buf   []byte
	base  uint64 // offset within the range of buf[0]
}

func newWindow(im *image, start, size uint64) *window {
	return &window{im: im, start: start, size: size}
}

// at returns n bytes at off of the range, valid until the next call.
func (w *window) at(off, n uint64) ([]byte, error) {
	if off > w.size || n > w.size-off || n > windowBytes {
		return nil, corrupt("%d bytes at %#x lie outside a table of %#x", n, off, w.size)
	}
	if off < w.base || off+n > w.base+uint64(len(w.buf)) {
		if err := w.fill(off); err != nil {
			return nil, err
		}
	}
	i := off - w.base
	return w.buf[i : i+n], nil
}

// rest returns what the buffer has from off on, at least one byte unless off is the end.
func (w *window) rest(off uint64) ([]byte, error) {
	if off > w.size {
		return nil, corrupt("offset %#x lies outside a table of %#x", off, w.size)
	}
	if off < w.base || off >= w.base+uint64(len(w.buf)) {
		if err := w.fill(off); err != nil {
			return nil, err
		}
	}
	return w.buf[off-w.base:], nil
}

func (w *window) fill(off uint64) error {
	n := min(w.size-off, windowBytes)
	if uint64(cap(w.buf)) < n {
		w.buf = make([]byte, n)
	}
	w.buf = w.buf[:n]
	w.base = off
	if err := w.im.readAt(w.buf, w.start+off); err != nil {
		w.buf = w.buf[:0]
		return err
	}
	return nil
}

func (w *window) uint32(off uint64) (uint32, error) {
	b, err := w.at(off, 4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

// cString returns the NUL-terminated string at off, cut at maxFuncName bytes;
// it is valid until the next call.
func (w *window) cString(off uint64) ([]byte, error) {
	b, err := w.rest(off)
	if err != nil {
		return nil, err
	}
	if len(b) < maxFuncName && off+uint64(len(b)) < w.size {
		// Near the end of the buffer: start it well before off, because string
		// tables are visited roughly, not strictly, in order.
		if err := w.fill(off - min(off, windowBytes/4)); err != nil {
			return nil, err
		}
		b = w.buf[off-w.base:]
	}
	b = b[:min(len(b), maxFuncName)]
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i], nil
	}
	return b, nil
}
