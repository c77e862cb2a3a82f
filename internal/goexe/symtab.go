package goexe

import (
	"debug/elf"
	"encoding/binary"
)

const symBytes = 24

// hasSymtab reports whether there is a symbol table.
func (im *image) hasSymtab() bool {
	s, ok := im.section(".symtab")
	return ok && s.size >= 2*symBytes
}

// symtabFuncs makes one pass over .symtab and calls found for every function
// whose name is wanted. It is the way for executables whose pclntab was altered.
func (im *image) symtabFuncs(keep func([]byte) bool, limit int, found func(Func)) error {
	syms, _ := im.section(".symtab")
	strs, ok := im.section(".strtab")
	if !ok || syms.size/symBytes > maxFuncs {
		return corrupt("symbol table of %d bytes", syms.size)
	}
	tab := newWindow(im, syms.off, syms.size)
	names := newWindow(im, strs.off, strs.size)
	for off := uint64(0); off+symBytes <= syms.size; off += symBytes {
		b, err := tab.at(off, symBytes)
		if err != nil {
			return err
		}
		size := binary.LittleEndian.Uint64(b[16:])
		addr := binary.LittleEndian.Uint64(b[8:])
		if elf.ST_TYPE(b[4]) != elf.STT_FUNC || size == 0 || addr == 0 {
			continue
		}
		name, err := names.cString(uint64(binary.LittleEndian.Uint32(b)))
		if err != nil {
			return err
		}
		if !keep(name) {
			continue
		}
		if limit--; limit < 0 {
			return corrupt("more than %d functions asked for", maxIndexed)
		}
		found(Func{Name: string(name), Addr: addr, Size: size})
	}
	return nil
}
