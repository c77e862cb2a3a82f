package goexe

import (
	"debug/elf"
	"encoding/binary"
	"fmt"

	"github.com/tracer-agent/tracer-agent/internal/offsets"
)

// moduleBytes is how much of runtime.firstmoduledata we look at; every field
// that we use lies within in all supported versions.
const moduleBytes = 512

// The moduledata fields up to the text addresses have the same place in every
// version since Go 1.18; they identify the struct.
const (
	mdPcHeader          = 0
	mdNames             = 8
	mdFtab              = 128
	mdMinpc             = 160
	mdMaxpc             = 168
	mdText              = 176
	mdEtext             = 184
	maxModuleCandidates = 8
	maxRelaBytes        = 256 << 20
	maxTypesSize        = 1 << 30
	maxTypeName         = 512
)

// moduleData is what we keep of runtime.firstmoduledata.
type moduleData struct {
	found         bool
	raw           [moduleBytes]byte // with relocations applied
	types, etypes uint64
}

// textAddr returns the address that entry offsets are relative to.
func (e *Exe) textAddr() (uint64, error) {
	if err := e.findModuleData(); err != nil {
		if e.funcs.tab.textStart != 0 && !e.PIE() {
			return e.funcs.tab.textStart, nil
		}
		return 0, err
	}
	return binary.LittleEndian.Uint64(e.mod.raw[mdText:]), nil
}

// findModuleData finds runtime.firstmoduledata by its pointer to pclntab: in
// the data sections as the file has them, then, because the pointers of a
// position-independent executable may be zero in the file, in the relocations.
func (e *Exe) findModuleData() error {
	if e.mod.found {
		return nil
	}
	for _, s := range e.dataRanges() {
		if err := e.scanForModuleData(s); err != nil || e.mod.found {
			return err
		}
	}
	var candidates []uint64
	err := e.im.relocations(func(at, value uint64) {
		if value == e.funcs.tab.addr && len(candidates) < maxModuleCandidates {
			candidates = append(candidates, at)
		}
	})
	if err != nil {
		return err
	}
	for _, at := range candidates {
		if err := e.tryModuleData(at); err != nil || e.mod.found {
			return err
		}
	}
	return corrupt("no module data (runtime.firstmoduledata)")
}

// dataRanges returns where firstmoduledata can be, the likely places first.
func (e *Exe) dataRanges() []segment {
	var out, rest []segment
	for _, s := range e.im.sections {
		if s.typ != elf.SHT_PROGBITS || s.flags&(elf.SHF_ALLOC|elf.SHF_WRITE) != elf.SHF_ALLOC|elf.SHF_WRITE {
			continue
		}
		r := segment{vaddr: s.addr, off: s.off, filesz: s.size}
		if s.name == ".go.module" || s.name == ".noptrdata" {
			out = append(out, r)
		} else {
			rest = append(rest, r)
		}
	}
	if out = append(out, rest...); len(out) > 0 {
		return out
	}
	return e.im.segs
}

func (e *Exe) scanForModuleData(s segment) error {
	w := newWindow(e.im, s.off, s.filesz)
	tries := 0
	for pos := uint64(0); pos+8 <= s.filesz; {
		b, err := w.rest(pos)
		if err != nil {
			return err
		}
		if len(b) < 8 {
			return nil
		}
		for ; len(b) >= 8; b, pos = b[8:], pos+8 {
			if binary.LittleEndian.Uint64(b) != e.funcs.tab.addr || tries >= maxModuleCandidates {
				continue
			}
			tries++
			if err := e.tryModuleData(s.vaddr + pos); err != nil || e.mod.found {
				return err
			}
		}
	}
	return nil
}

// tryModuleData accepts addr as firstmoduledata if its fields agree with pclntab.
func (e *Exe) tryModuleData(addr uint64) error {
	raw := &e.mod.raw
	if err := e.im.memory(raw[:], addr); err != nil {
		return nil // too close to the end of a segment: not it
	}
	if e.PIE() {
		err := e.im.relocations(func(at, value uint64) {
			if i := at - addr; i <= moduleBytes-8 {
				binary.LittleEndian.PutUint64(raw[i:], value)
			}
		})
		if err != nil {
			return err
		}
	}
	word := func(off int) uint64 { return binary.LittleEndian.Uint64(raw[off:]) }
	t := &e.funcs.tab
	e.mod.found = word(mdPcHeader) == t.addr && word(mdNames) == t.addr+t.names &&
		word(mdFtab) == t.addr+t.funcs && word(mdFtab+8) == t.nfunc+1 &&
		word(mdText) != 0 && word(mdText) < word(mdEtext) &&
		word(mdMinpc) >= word(mdText) && word(mdMinpc) < word(mdMaxpc)
	return nil
}

// relocations calls visit for every relative relocation: the address of a
// pointer and the link-time value that it will have.
func (im *image) relocations(visit func(at, value uint64)) error {
	const entry = 24
	want := uint32(elf.R_X86_64_RELATIVE)
	if im.machine == elf.EM_AARCH64 {
		want = uint32(elf.R_AARCH64_RELATIVE)
	}
	for _, s := range im.sections {
		if s.typ != elf.SHT_RELA || s.flags&elf.SHF_ALLOC == 0 {
			continue
		}
		if s.size > maxRelaBytes {
			return corrupt("%d bytes of relocations", s.size)
		}
		w := newWindow(im, s.off, s.size)
		for pos := uint64(0); pos+entry <= s.size; pos += entry {
			b, err := w.at(pos, entry)
			if err != nil {
				return err
			}
			if uint32(binary.LittleEndian.Uint64(b[8:])) == want {
				visit(binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[16:]))
			}
		}
	}
	return nil
}

// TypesAddr returns runtime.firstmoduledata.types: the link-time address that
// type and name offsets are relative to. The error wraps ErrCorrupt or ErrNoOffsets.
func (e *Exe) TypesAddr() (addr uint64, err error) {
	defer recovered(&err)
	if e.mod.types != 0 {
		return e.mod.types, nil
	}
	if err := e.prepareFuncs(); err != nil {
		return 0, err
	}
	if err := e.findModuleData(); err != nil {
		return 0, err
	}
	types := offsets.Field{Module: "std", Type: "runtime.moduledata", Name: "types"}
	etypes := offsets.Field{Module: "std", Type: "runtime.moduledata", Name: "etypes"}
	off, _, err := e.Offsets([]Field{types, etypes}, e.runtime)
	if err != nil {
		return 0, err
	}
	word := func(f Field) uint64 {
		i, ok := off[f]
		if !ok || i < 0 || i > moduleBytes-8 {
			return 0
		}
		return binary.LittleEndian.Uint64(e.mod.raw[i:])
	}
	lo, hi := word(types), word(etypes)
	if lo == 0 || hi <= lo || hi-lo > maxTypesSize {
		return 0, corrupt("types at %#x..%#x", lo, hi)
	}
	e.mod.types, e.mod.etypes = lo, hi
	return lo, nil
}

// TypeName returns the type name at nameOff from TypesAddr, as abi.Type.Str
// refers to it: a flag byte, a varint length, the bytes. The name has a star in
// front when the type has TFlagExtraStar or is a pointer; which, only the type
// tells. Names are cut at 512 bytes. The error wraps ErrCorrupt. Once TypesAddr
// has succeeded it is safe for concurrent use.
func (e *Exe) TypeName(nameOff int32) (name string, err error) {
	defer recovered(&err)
	e.im.budget = readBudget(e.im.size) // a name at a time, for as long as it runs
	types, err := e.TypesAddr()
	if err != nil {
		return "", err
	}
	if nameOff <= 0 || uint64(nameOff) >= e.mod.etypes-types {
		return "", corrupt("name offset %d outside %d bytes of types", nameOff, e.mod.etypes-types)
	}
	at := types + uint64(nameOff)
	buf := make([]byte, min(1+binary.MaxVarintLen16+maxTypeName, e.mod.etypes-at))
	if err := e.im.memory(buf, at); err != nil {
		return "", err
	}
	n, used := binary.Uvarint(buf[1:])
	if used <= 0 || used > binary.MaxVarintLen16 || n == 0 {
		return "", corrupt("type name at %#x", at)
	}
	buf = buf[1+used:]
	if n > uint64(len(buf)) && n <= maxTypeName {
		return "", corrupt("type name of %d bytes at %#x", n, at)
	}
	s := string(buf[:min(n, uint64(len(buf)), maxTypeName)])
	if s == "" {
		return "", fmt.Errorf("%w: empty type name at %#x", ErrCorrupt, at)
	}
	return s, nil
}
