package goexe

import (
	"encoding/binary"

	"golang.org/x/arch/arm64/arm64asm"
)

// arm64Arch decodes arm64 by encoding class and knows what the kernel
// simulates there (arch/arm64/kernel/probes/decode-insn.c).
type arm64Arch struct{}

// arm64Args is the integer register sequence of ABIInternal: R0..R15.
var arm64Args = []uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

const (
	arm64Tmp = 16 // R16: the stack limit in a stack check
	arm64G   = 28
	arm64SP  = 31 // as a base register
)

func (arm64Arch) argRegs() []uint8 { return arm64Args }

func (arm64Arch) contextReg() uint8 { return 26 }

func (arm64Arch) abiReg(machine uint8) (uint8, bool) { return machine, machine <= 15 }

func (arm64Arch) text(code []byte, pc uint64) string {
	in, err := arm64asm.Decode(code)
	if err != nil {
		return "?"
	}
	return arm64asm.GoSyntax(in, pc, nil, nil)
}

func (arm64Arch) decode(code []byte, pc uint64, prev *insn) (insn, bool) {
	if len(code) < 4 {
		return insn{}, false
	}
	w := binary.LittleEndian.Uint32(code)
	in := insn{addr: pc, size: 4, class: ClassStepped}
	branch := func(f flow, words int64) {
		in.flow, in.class, in.target = f, ClassEmulated, pc+uint64(words*4)
	}
	switch {
	case w&0xfc000000 == 0x14000000: // b
		branch(flowJump, signed(w, 0, 26))
	case w&0xfc000000 == 0x94000000: // bl
		branch(flowCall, signed(w, 0, 26))
		in.effect.unknown = true
	case w&0xff000010 == 0x54000000: // b.cond
		branch(flowCond, signed(w, 5, 19))
		cond := w & 15
		in.stackCheck = prev != nil && prev.stackCheck && (cond == 9 || cond == 3) // ls, lo
	case w&0x7e000000 == 0x34000000: // cbz, cbnz
		branch(flowCond, signed(w, 5, 19))
		in.taken = takenZero
		if w&0x01000000 != 0 {
			in.taken = takenNonZero
		}
	case w&0x7e000000 == 0x36000000: // tbz, tbnz
		branch(flowCond, signed(w, 5, 14))
	case w&0xfffffc1f == 0xd65f0000, w&0xfffffc1f == 0xd61f0000: // ret, br
		in.flow, in.class = flowStop, ClassEmulated
	case w&0xfffffc1f == 0xd63f0000: // blr
		in.flow, in.class = flowIndirect, ClassEmulated
		in.effect.unknown = true
	case w == 0xd503201f: // nop: simulated since Linux 6.13, else stepped
		in.class = ClassStepped
	case w&0xfffff01f == 0xd503201f: // other hints
	case w&0x1f000000 == 0x10000000: // adr, adrp
		in.class = ClassEmulated
		in.effect.writes = 1 << (w & 31)
		if imm := signed(w, 5, 19)<<2 | int64(w>>29&3); w>>31 == 1 {
			in.page, in.pageReg = pc&^0xfff+uint64(imm<<12), uint8(w&31)
		} else {
			in.refs[0] = pc + uint64(imm)
		}
	case w&0x3b000000 == 0x18000000: // ldr literal: refused since Linux 6.12
		in.class = ClassUnknown
		in.effect.writes = 1 << (w & 31)
	case w&0xfc000000 == 0xd4000000, w>>16 == 0: // exceptions, udf
		in.flow, in.class = flowStop, ClassUnknown
	case w&0x3f000000 == 0x08000000: // exclusive: cannot be stepped
		in.class = ClassUnknown
		in.effect.unknown = true
	default:
		in.effect = arm64Effect(w)
		// cmp sp, x16 (stack check): subs xzr, sp, x16 extended; or subs xzr, xN, x16.
		in.stackCheck = w&0xffe0001f == 0xeb20001f && w>>16&31 == arm64Tmp ||
			w&0xffe0fc1f == 0xeb00001f && w>>16&31 == arm64Tmp
	}
	if prev != nil && prev.page != 0 && in.page == 0 && in.flow == flowNext {
		keep := !in.effect.unknown && !in.effect.overwrites(place{reg: prev.pageReg})
		if prev.pageReg == uint8(w>>5&31) {
			arm64Refs(w, prev.page, &in)
		}
		if keep && in.page == 0 {
			in.page, in.pageReg = prev.page, prev.pageReg
		}
	}
	return in, true
}

// arm64Refs finds what the instruction names whose register has an address: the linker puts
// the lower part of an ADRP's into an ADD, a load or a store, which may be a pair's.
func arm64Refs(w uint32, addr uint64, in *insn) {
	imm := uint64(w >> 10 & 0xfff)
	switch {
	case w&0xffc00000 == 0x91000000: // add xd, xn, #imm
		in.refs[0] = addr + imm
		in.page, in.pageReg = in.refs[0], uint8(w&31)
	case w&0x3b000000 == 0x39000000: // ldr, str: scaled
		scale := w >> 30
		if w>>26&1 == 1 {
			scale |= w >> 23 & 1 << 2
		}
		in.refs[0] = addr + imm<<scale
	case w&0xff800000 == 0xa9000000: // ldp, stp of two words
		in.refs[0] = addr + uint64(signed(w, 15, 7)<<3)
		in.refs[1] = in.refs[0] + 8
	}
}

// signed returns the signed field of n bits at bit lo.
func signed(w uint32, lo, n uint) int64 {
	return int64(int32(w<<(32-lo-n))) >> (32 - n)
}

// arm64Effect describes everything that is not a branch: data processing
// writes Rd; loads write Rt; stores to SP are spills.
func arm64Effect(w uint32) effect {
	var e effect
	rd, rn := uint8(w&31), uint8(w>>5&31)
	write := func(r uint8) {
		if r != 31 { // XZR; writes of SP are handled apart
			e.writes |= 1 << r
		}
	}
	switch {
	case w&0xffe0ffe0 == 0xaa0003e0: // mov xd, xm
		if rd != 31 && w>>16&31 != 31 {
			e.copy(place{reg: uint8(w >> 16 & 31)}, place{reg: rd})
		} else {
			write(rd)
		}
	case w&0x1c000000 == 0x10000000, w&0x0e000000 == 0x0a000000: // data processing: immediate, register
		isAddSub := w&0x1f000000 == 0x11000000 || w&0x1fe00000 == 0x0b200000
		if rd == arm64SP && isAddSub && w>>29&1 == 0 {
			e.movesSP = true
		} else {
			write(rd)
		}
	case w&0x0a000000 == 0x08000000: // loads and stores
		arm64Memory(w, rd, rn, &e, write)
	case w&0x0e000000 == 0x0e000000: // SIMD and floating point may write a general register
		if w&0x5f20fc00 == 0x1e200000 { // fcvt*, fmov to general
			write(rd)
		}
	default:
		e.unknown = true
	}
	return e
}

// arm64Memory describes the loads and stores that the Go compiler emits.
func arm64Memory(w uint32, rt, rn uint8, e *effect, write func(uint8)) {
	fp := w>>26&1 == 1
	var off int64
	var size int32
	load, writeback, pair := false, false, false
	switch {
	case w&0x3a000000 == 0x28000000: // pairs
		load, pair = w>>22&1 == 1, true
		writeback = w>>23&1 == 1 && w>>24&1 == 1 || w>>23&3 == 1
		scale := uint(2 + w>>31)
		if fp {
			scale = uint(2 + w>>30)
		}
		off, size = signed(w, 15, 7)<<scale, 2<<scale
	case w&0x3b000000 == 0x39000000: // unsigned offset
		scale := w >> 30
		load = w>>22&3 != 0
		if fp {
			load = w>>22&1 == 1
			scale |= w >> 23 & 1 << 2
		}
		off, size = int64(w>>10&0xfff)<<scale, 1<<scale
	case w&0x3b200000 == 0x38000000: // unscaled, pre- and post-indexed
		load = w>>22&3 != 0
		if fp {
			load = w>>22&1 == 1
		}
		writeback = w>>10&1 == 1
		off, size = signed(w, 12, 9), 1<<(w>>30)
	case w&0x3b200c00 == 0x38200800: // register offset
		if load = w>>22&3 != 0; !load && rn == arm64SP {
			e.unknown = true
		}
	default:
		e.unknown = true // atomics and the like
		return
	}
	if writeback {
		if rn == arm64SP {
			e.movesSP = true
			return
		}
		write(rn)
	}
	word := w>>30 == 3 && !fp && size == 8 || pair && w>>30 == 2 && !fp
	switch {
	case load && fp:
	case load && !pair && word && rn == arm64SP && rt != 31:
		e.copy(place{stack: true, off: int32(off)}, place{reg: rt})
	case load:
		write(rt)
		if pair {
			write(uint8(w >> 10 & 31))
		}
	case rn == arm64SP:
		e.lo, e.hi = int32(off), int32(off)+size
		if word && rt != 31 {
			e.copy(place{reg: rt}, place{stack: true, off: int32(off)})
		}
		if rt2 := uint8(w >> 10 & 31); word && pair && rt2 != 31 {
			e.copy(place{reg: rt2}, place{stack: true, off: int32(off) + 8})
		}
	}
}
