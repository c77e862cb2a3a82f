package goexe

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/tracer-agent/tracer-agent/internal/offsets"
)

// Exe is one opened Go executable. It is not safe for concurrent use.
type Exe struct {
	closer  io.Closer
	im      *image
	info    *debug.BuildInfo
	version Version
	runtime *offsets.Table
	funcs   funcIndex
	mod     moduleData
}

// Open analyses the headers and the build information of the executable at
// path, which may be /proc/PID/exe. The error wraps ErrNotELF, ErrNotGo,
// ErrUnsupportedArch, ErrUnsupportedGo or ErrCorrupt, or is the system's.
// The caller closes the Exe; it keeps the file open for further questions.
func Open(path string) (*Exe, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open executable: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open executable: %w", err)
	}
	if !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("open executable %s: %w: not a regular file", path, ErrNotELF)
	}
	e, err := newExe(f, st.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open executable %s: %w", path, err)
	}
	e.closer = f
	return e, nil
}

// newExe analyses an executable of size bytes.
func newExe(r io.ReaderAt, size int64) (e *Exe, err error) {
	defer recovered(&err)
	im, err := readImage(r, size)
	if err != nil {
		return nil, err
	}
	info, err := readBuildInfo(im)
	if err != nil {
		return nil, err
	}
	v, ok := parseGoVersion(info.GoVersion)
	if !ok {
		return nil, fmt.Errorf("%w: %.64q", ErrUnsupportedGo, info.GoVersion)
	}
	if v.Major != 1 || v.Minor < minGoMinor {
		return nil, fmt.Errorf("%w: %s, need 1.%d or later", ErrUnsupportedGo, v, minGoMinor)
	}
	table, err := offsets.Runtime()
	if err != nil {
		return nil, err
	}
	return &Exe{im: im, info: info, version: v, runtime: table}, nil
}

// recovered turns a panic of a parser into an error: the one place where a
// hostile file that slipped through the bounds checks is stopped.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = corrupt("parser stopped: %v", r)
	}
}

// Close closes the file. It may be called more than once.
func (e *Exe) Close() error {
	if e.closer == nil {
		return nil
	}
	err := e.closer.Close()
	e.closer = nil
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Arch returns "amd64" or "arm64".
func (e *Exe) Arch() string {
	if e.im.machine == elf.EM_AARCH64 {
		return "arm64"
	}
	return "amd64"
}

// GoVersion returns the toolchain's version.
func (e *Exe) GoVersion() Version { return e.version }

// MainPath returns the import path of package main, for example
// "example.com/shop/cmd/api", or "command-line-arguments".
func (e *Exe) MainPath() string { return e.info.Path }

// Module returns the version of a module in the build, the main module
// included. Of a replaced module it is the replacement's version, "" when that
// is a folder.
func (e *Exe) Module(path string) (version string, ok bool) {
	if e.info.Main.Path == path {
		return e.info.Main.Version, true
	}
	for _, d := range e.info.Deps {
		if d.Path != path {
			continue
		}
		if d.Replace != nil {
			return d.Replace.Version, true
		}
		return d.Version, true
	}
	return "", false
}

// PIE reports whether the kernel chooses the load address.
func (e *Exe) PIE() bool { return e.im.typ == elf.ET_DYN }

// LoadVaddr returns what the kernel's mm->start_code is for this executable
// before the load bias: the p_vaddr (not rounded to a page) of the executable
// PT_LOAD segment with the lowest address. bias = mm->start_code - LoadVaddr.
func (e *Exe) LoadVaddr() uint64 {
	low := ^uint64(0)
	for _, s := range e.im.segs {
		if s.exec && s.vaddr < low {
			low = s.vaddr
		}
	}
	if low == ^uint64(0) {
		return 0
	}
	return low
}

// HasDWARF reports whether the executable has debug information of types.
func (e *Exe) HasDWARF() bool {
	_, ok := e.im.section(".debug_info")
	if !ok {
		_, ok = e.im.section(".zdebug_info")
	}
	return ok
}

// FileOffset maps a link-time virtual address to an offset in the file, which
// is what the kernel's uprobe interface takes.
func (e *Exe) FileOffset(vaddr uint64) (uint64, error) { return e.im.fileOffset(vaddr) }
