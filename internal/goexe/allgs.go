package goexe

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/arch/x86/x86asm"
)

// AllGsFunc is the function whose code says where runtime.allgs lies; an Index that
// covers it saves AllGs a pass.
const AllGsFunc = "runtime.allgadd"

// AllGs returns the link-time address of the slice runtime.allgs, of the code that
// appends to it, which a stripped executable has too: of the words that allgadd
// loads and stores at fixed addresses (the slice's three and allgptr), three
// lie next to each other. The error wraps ErrNoFunc, ErrNoOffsets or ErrCorrupt.
func (e *Exe) AllGs() (addr uint64, err error) {
	defer recovered(&err)
	b, err := e.lookup(AllGsFunc)
	if err != nil {
		return 0, err
	}
	words := b.arch.fixedWords(b)
	for w := range words {
		if !words[w+8] || !words[w+16] {
			continue
		}
		if addr != 0 {
			return 0, fmt.Errorf("%w: %s uses more than one slice", ErrNoOffsets, AllGsFunc)
		}
		addr = w
	}
	if addr == 0 || addr%8 != 0 {
		return 0, fmt.Errorf("%w: %s does not show where runtime.allgs is", ErrNoOffsets, AllGsFunc)
	}
	return addr, nil
}

// fixedWords returns the addresses of the 8-byte words that the code loads, stores or
// compares relative to the instruction pointer.
func (a amd64Arch) fixedWords(b *body) map[uint64]bool {
	words := make(map[uint64]bool)
	b.walk(func(in *insn) bool {
		x, err := x86asm.Decode(b.code[in.addr-b.Addr:][:in.size], 64)
		if err != nil || x.MemBytes != 8 || x.Op != x86asm.MOV && x.Op != x86asm.CMP {
			return true
		}
		for _, arg := range x.Args[:2] {
			if m, ok := arg.(x86asm.Mem); ok && m.Base == x86asm.RIP && m.Index == 0 {
				words[in.addr+in.size+uint64(m.Disp)] = true
			}
		}
		return true
	})
	return words
}

// fixedWords follows ADRP, which has the page, and ADD, which may have the rest, to the
// loads and stores behind them.
func (a arm64Arch) fixedWords(b *body) map[uint64]bool {
	words := make(map[uint64]bool)
	var at [32]uint64 // what registers point to, 0 if not known
	b.walk(func(in *insn) bool {
		w := binary.LittleEndian.Uint32(b.code[in.addr-b.Addr:])
		rd, rn := w&31, w>>5&31
		switch {
		case w&0x9f000000 == 0x90000000: // adrp
			page := signed(w, 5, 19)<<2 | int64(w>>29&3)
			at[rd] = in.addr&^0xfff + uint64(page<<12)
			return true
		case w&0xffc00000 == 0x91000000 && at[rn] != 0: // add xd, xn, #imm
			at[rd] = at[rn] + uint64(w>>10&0xfff)
			return true
		case w&0xff800000 == 0xf9000000 && at[rn] != 0: // ldr, str xt, [xn, #imm]
			words[at[rn]+uint64(w>>10&0xfff)<<3] = true
		case w&0xff800000 == 0xa9000000 && at[rn] != 0: // ldp, stp xt, xu, [xn, #imm]
			first := at[rn] + uint64(signed(w, 15, 7)<<3)
			words[first], words[first+8] = true, true
		}
		for r := range at {
			if in.effect.unknown || in.effect.writes>>r&1 == 1 {
				at[r] = 0
			}
		}
		for _, c := range in.effect.copies[:in.effect.ncopies] {
			if !c.to.stack {
				at[c.to.reg&31] = 0
			}
		}
		return true
	})
	return words
}
