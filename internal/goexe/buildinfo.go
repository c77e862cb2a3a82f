package goexe

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"runtime/debug"
)

// buildInfoMagic begins the linker's record of version and modules.
const buildInfoMagic = "\xff Go buildinf:"

const (
	buildInfoAlign  = 16
	buildInfoHeader = 32
	// buildInfoInline is the flag of records that hold their strings, as all do since Go 1.18.
	buildInfoInline = 2
	maxGoVersion    = 256
	maxModInfo      = 4 << 20
	modInfoMark     = 16 // bytes of a mark before and after the module list
)

// readBuildInfo reads the Go version and the modules. Unlike debug/buildinfo it
// bounds every size and reads nothing but the record.
func readBuildInfo(im *image) (*debug.BuildInfo, error) {
	off, size, err := im.findBuildInfo()
	if err != nil {
		return nil, err
	}
	hdr, err := im.bytesAt(off, buildInfoHeader)
	if err != nil {
		return nil, err
	}
	if hdr[15]&buildInfoInline == 0 {
		return nil, fmt.Errorf("%w: built before Go 1.18", ErrUnsupportedGo)
	}
	w := newWindow(im, off, size)
	version, next, err := w.varString(buildInfoHeader, maxGoVersion)
	if err != nil {
		return nil, fmt.Errorf("version of Go: %w", err)
	}
	if len(version) == 0 {
		return nil, fmt.Errorf("%w: no version in the build information", ErrNotGo)
	}
	info := &debug.BuildInfo{}
	mods, _, err := w.varString(next, maxModInfo)
	if err != nil {
		return nil, fmt.Errorf("module list: %w", err)
	}
	if len(mods) > 2*modInfoMark {
		mods = mods[modInfoMark : len(mods)-modInfoMark]
		if info, err = debug.ParseBuildInfo(string(mods)); err != nil {
			return nil, corrupt("module list: %v", err)
		}
	}
	info.GoVersion = string(version)
	return info, nil
}

// findBuildInfo returns the record's file offset and how much may belong to it.
func (im *image) findBuildInfo() (off, size uint64, err error) {
	if s, ok := im.section(".go.buildinfo"); ok && s.typ == elf.SHT_PROGBITS {
		magic := make([]byte, len(buildInfoMagic))
		if err := im.readAt(magic, s.off); err != nil {
			return 0, 0, err
		}
		if string(magic) == buildInfoMagic {
			return s.off, s.size, nil
		}
	}
	for _, s := range im.segs {
		if s.exec {
			continue
		}
		w := newWindow(im, s.off, s.filesz)
		for pos := uint64(0); pos+buildInfoHeader <= s.filesz; {
			b, err := w.rest(pos)
			if err != nil {
				return 0, 0, err
			}
			i := bytes.Index(b, []byte(buildInfoMagic))
			if i < 0 {
				pos += uint64(max(len(b)-len(buildInfoMagic), 1)) // it may straddle two windows
				continue
			}
			if pos += uint64(i); (s.vaddr+pos)%buildInfoAlign == 0 {
				return s.off + pos, s.filesz - pos, nil
			}
			pos++
		}
	}
	return 0, 0, fmt.Errorf("%w: no build information", ErrNotGo)
}

// varString returns the string with a varint length at off, and what follows it.
func (w *window) varString(off uint64, limit int) (s []byte, next uint64, err error) {
	b, err := w.rest(off)
	if err != nil {
		return nil, 0, err
	}
	n, used := binary.Uvarint(b[:min(len(b), binary.MaxVarintLen64)])
	if used <= 0 || n > uint64(limit) {
		return nil, 0, corrupt("string of %d bytes, at most %d", n, limit)
	}
	off += uint64(used)
	if n > w.size-off {
		return nil, 0, corrupt("string of %d bytes at %#x of %#x", n, off, w.size)
	}
	s, err = w.im.bytesAt(w.start+off, n)
	return s, off + n, err
}
