package goexe

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
)

// Bounds of what is accepted from an ELF file.
const (
	maxSections = 8192
	maxSegments = 512
	maxNameTab  = 1 << 20 // bytes of section names
)

// section is one section header.
type section struct {
	name      string
	typ       elf.SectionType
	flags     elf.SectionFlag
	addr, off uint64
	size      uint64
	entsize   uint64
}

// segment is one PT_LOAD program header.
type segment struct {
	vaddr, off, filesz, memsz uint64
	exec, write               bool
}

// image is the parsed skeleton of an ELF file: headers only.
type image struct {
	r        io.ReaderAt
	size     int64
	machine  elf.Machine
	typ      elf.Type
	segs     []segment
	sections []section
	budget   int64 // bytes that may still be read
}

// A file is read a few times over at most, whatever its tables say: they may overlap, and
// each of them be within its own bound.
const (
	readTimes = 16
	readFloor = 64 << 20
)

func readBudget(size int64) int64 { return readTimes*size + readFloor }

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
}

// readImage reads the ELF headers. A file without section headers is fine.
func readImage(r io.ReaderAt, size int64) (*image, error) {
	var hdr elf.Header64
	buf := make([]byte, binary.Size(hdr))
	if size < int64(len(buf)) {
		return nil, fmt.Errorf("%w: %d bytes", ErrNotELF, size)
	}
	if _, err := r.ReadAt(buf, 0); err != nil {
		return nil, fmt.Errorf("read ELF header: %w", err)
	}
	if string(buf[:4]) != elf.ELFMAG {
		return nil, fmt.Errorf("%w: no ELF magic", ErrNotELF)
	}
	if elf.Class(buf[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(buf[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return nil, fmt.Errorf("%w: not 64-bit little-endian", ErrUnsupportedArch)
	}
	if _, err := binary.Decode(buf, binary.LittleEndian, &hdr); err != nil {
		return nil, corrupt("ELF header: %v", err)
	}
	im := &image{r: r, size: size, budget: readBudget(size), machine: elf.Machine(hdr.Machine), typ: elf.Type(hdr.Type)}
	if im.typ != elf.ET_EXEC && im.typ != elf.ET_DYN {
		return nil, fmt.Errorf("%w: ELF type %s", ErrNotELF, im.typ)
	}
	if im.machine != elf.EM_X86_64 && im.machine != elf.EM_AARCH64 {
		return nil, fmt.Errorf("%w: %s", ErrUnsupportedArch, im.machine)
	}
	if err := im.readSegments(&hdr); err != nil {
		return nil, err
	}
	if err := im.readSections(&hdr); err != nil {
		return nil, err
	}
	return im, nil
}

func (im *image) readSegments(hdr *elf.Header64) error {
	const entry = 56
	if hdr.Phnum == 0 || hdr.Phnum > maxSegments || hdr.Phentsize != entry {
		return corrupt("%d program headers of %d bytes", hdr.Phnum, hdr.Phentsize)
	}
	buf, err := im.bytesAt(hdr.Phoff, uint64(hdr.Phnum)*entry)
	if err != nil {
		return fmt.Errorf("program headers: %w", err)
	}
	for ; len(buf) >= entry; buf = buf[entry:] {
		var p elf.Prog64
		if _, err := binary.Decode(buf, binary.LittleEndian, &p); err != nil {
			return corrupt("program header: %v", err)
		}
		if elf.ProgType(p.Type) != elf.PT_LOAD {
			continue
		}
		if p.Vaddr+p.Memsz < p.Vaddr || p.Off+p.Filesz < p.Off || p.Filesz > p.Memsz {
			return corrupt("segment at %#x has a size that overflows", p.Vaddr)
		}
		im.segs = append(im.segs, segment{
			p.Vaddr, p.Off, p.Filesz, p.Memsz,
			elf.ProgFlag(p.Flags)&elf.PF_X != 0, elf.ProgFlag(p.Flags)&elf.PF_W != 0,
		})
	}
	if len(im.segs) == 0 {
		return corrupt("no loadable segment")
	}
	return nil
}

func (im *image) readSections(hdr *elf.Header64) error {
	const entry = 64
	if hdr.Shoff == 0 || hdr.Shnum == 0 {
		return nil // stripped of section headers: segments are enough for most
	}
	if hdr.Shnum > maxSections || hdr.Shentsize != entry || hdr.Shstrndx >= hdr.Shnum {
		return corrupt("%d section headers of %d bytes, names in %d", hdr.Shnum, hdr.Shentsize, hdr.Shstrndx)
	}
	buf, err := im.bytesAt(hdr.Shoff, uint64(hdr.Shnum)*entry)
	if err != nil {
		return fmt.Errorf("section headers: %w", err)
	}
	raw := make([]elf.Section64, hdr.Shnum)
	if _, err := binary.Decode(buf, binary.LittleEndian, raw); err != nil {
		return corrupt("section headers: %v", err)
	}
	names := raw[hdr.Shstrndx]
	if names.Size > maxNameTab {
		return corrupt("section names of %d bytes", names.Size)
	}
	tab, err := im.bytesAt(names.Off, names.Size)
	if err != nil {
		return fmt.Errorf("section names: %w", err)
	}
	for _, s := range raw {
		im.sections = append(im.sections, section{
			name: cString(tab, uint64(s.Name)), typ: elf.SectionType(s.Type), flags: elf.SectionFlag(s.Flags),
			addr: s.Addr, off: s.Off, size: s.Size, entsize: s.Entsize,
		})
	}
	return nil
}

// cString returns the NUL-terminated string at off, "" when there is none.
func cString(tab []byte, off uint64) string {
	if off >= uint64(len(tab)) {
		return ""
	}
	s := tab[off:]
	end := bytes.IndexByte(s, 0)
	if end < 0 || end > 256 {
		return ""
	}
	return string(s[:end])
}

// section returns the named section.
func (im *image) section(name string) (section, bool) {
	for _, s := range im.sections {
		if s.name == name {
			return s, true
		}
	}
	return section{}, false
}

// bytesAt reads n bytes at a file offset; callers bound n.
func (im *image) bytesAt(off, n uint64) ([]byte, error) {
	if off > uint64(im.size) || n > uint64(im.size)-off {
		return nil, corrupt("%d bytes at %#x lie beyond the file's %d", n, off, im.size)
	}
	buf := make([]byte, n)
	if err := im.readAt(buf, off); err != nil {
		return nil, err
	}
	return buf, nil
}

// readAt fills buf from a file offset.
func (im *image) readAt(buf []byte, off uint64) error {
	if off > uint64(im.size) || uint64(len(buf)) > uint64(im.size)-off {
		return corrupt("%d bytes at %#x lie beyond the file's %d", len(buf), off, im.size)
	}
	if im.budget -= int64(len(buf)); im.budget < 0 {
		return corrupt("more than %d times its size was to be read: its tables overlap", readTimes)
	}
	if n, err := im.r.ReadAt(buf, int64(off)); n < len(buf) {
		return fmt.Errorf("read %d bytes at %#x: %w", len(buf), off, err)
	}
	return nil
}

// fileOffset maps a link-time address to a file offset.
func (im *image) fileOffset(vaddr uint64) (uint64, error) {
	for _, s := range im.segs {
		if vaddr >= s.vaddr && vaddr-s.vaddr < s.filesz {
			return s.off + (vaddr - s.vaddr), nil
		}
	}
	return 0, corrupt("address %#x is in no segment", vaddr)
}

// memory reads len(buf) bytes at a link-time address, as the file has them.
func (im *image) memory(buf []byte, vaddr uint64) error {
	for _, s := range im.segs {
		if vaddr >= s.vaddr && vaddr-s.vaddr < s.filesz {
			if uint64(len(buf)) > s.filesz-(vaddr-s.vaddr) {
				return corrupt("%d bytes at address %#x leave the segment", len(buf), vaddr)
			}
			return im.readAt(buf, s.off+(vaddr-s.vaddr))
		}
	}
	return corrupt("address %#x is in no segment", vaddr)
}
