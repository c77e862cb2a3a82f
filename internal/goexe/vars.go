package goexe

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
)

// Vars returns the link-time addresses of package variables by name, such as
// "runtime.sched". It needs the symbol table: the error wraps ErrNoOffsets when it was
// stripped, or lacks one of them.
func (e *Exe) Vars(names ...string) (addrs map[string]uint64, err error) {
	defer recovered(&err)
	if !e.im.hasSymtab() {
		return nil, fmt.Errorf("%w: the executable has no symbol table", ErrNoOffsets)
	}
	syms, _ := e.im.section(".symtab")
	strs, ok := e.im.section(".strtab")
	if !ok || syms.size/symBytes > maxFuncs {
		return nil, corrupt("symbol table of %d bytes", syms.size)
	}
	tab, text := newWindow(e.im, syms.off, syms.size), newWindow(e.im, strs.off, strs.size)
	addrs = make(map[string]uint64, len(names))
	for off := uint64(0); off+symBytes <= syms.size && len(addrs) < len(names); off += symBytes {
		b, err := tab.at(off, symBytes)
		if err != nil {
			return nil, err
		}
		addr := binary.LittleEndian.Uint64(b[8:])
		if elf.ST_TYPE(b[4]) != elf.STT_OBJECT || addr == 0 {
			continue
		}
		name, err := text.cString(uint64(binary.LittleEndian.Uint32(b)))
		if err != nil {
			return nil, err
		}
		if slices.Contains(names, string(name)) {
			addrs[string(name)] = addr
		}
	}
	for _, name := range names {
		if addrs[name] == 0 {
			return nil, fmt.Errorf("%w: no symbol %s", ErrNoOffsets, name)
		}
	}
	return addrs, nil
}
