package goexe

import (
	"golang.org/x/arch/x86/x86asm"
)

// amd64Arch decodes amd64 and knows what the kernel emulates there
// (arch/x86/kernel/uprobes.c: branch_setup_xol_ops, push_setup_xol_ops).
type amd64Arch struct{}

// amd64Args is the integer register sequence of ABIInternal by machine number:
// AX BX CX DI SI R8 R9 R10 R11.
var amd64Args = []uint8{0, 3, 1, 7, 6, 8, 9, 10, 11}

const (
	amd64SP = 4
	amd64G  = x86asm.R14
)

func (amd64Arch) argRegs() []uint8 { return amd64Args }

func (amd64Arch) contextReg() uint8 { return 2 } // DX

func (amd64Arch) abiReg(machine uint8) (uint8, bool) {
	for i, r := range amd64Args {
		if r == machine {
			return uint8(i), true
		}
	}
	return 0, false
}

func (amd64Arch) text(code []byte, pc uint64) string {
	in, err := x86asm.Decode(code, 64)
	if err != nil {
		return "?"
	}
	return x86asm.GoSyntax(in, pc, nil)
}

// classifyAMD64 follows uprobes.c: which instruction the kernel emulates. code
// holds exactly one instruction.
func classifyAMD64(code []byte) Class {
	if len(code) == 5 && string(code) == "\x0f\x1f\x44\x00\x00" {
		return ClassTrampoline
	}
	// push reg, or with exactly the prefix REX.B; any other form is stepped.
	switch {
	case len(code) == 1 && code[0]&^7 == 0x50,
		len(code) == 2 && code[0] == 0x41 && code[1]&^7 == 0x50:
		return ClassEmulated
	}
	i, word := 0, false
	for i < len(code) && isLegacyPrefix(code[i]) {
		word = word || code[i] == 0x66
		i++
	}
	if i < len(code) && code[i]&0xf0 == 0x40 { // REX
		i++
	}
	op := code[i:]
	switch {
	case len(op) == 0:
		return ClassUnknown
	case op[0] == 0x90: // with any prefixes (f3: PAUSE)
		return ClassEmulated
	case op[0] == 0xeb, op[0] == 0xe9, op[0] == 0xe8, op[0]&0xf0 == 0x70,
		len(op) > 1 && op[0] == 0x0f && op[1]&0xf0 == 0x80:
		if word {
			return ClassUnknown // the kernel refuses word-sized branches
		}
		return ClassEmulated
	}
	return ClassStepped
}

func isLegacyPrefix(b byte) bool {
	switch b {
	case 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3:
		return true
	}
	return false
}

func (amd64Arch) decode(code []byte, pc uint64, prev *insn) (insn, bool) {
	if len(code) == 0 {
		return insn{}, false
	}
	if n := vexLen(code); n > 0 {
		return insn{addr: pc, size: uint64(n), class: ClassStepped, effect: effect{unknown: true}}, true
	}
	x, err := x86asm.Decode(code[:min(len(code), 15)], 64)
	if err != nil || x.Len <= 0 || x.Len > len(code) || x.Op == 0 {
		return insn{}, false
	}
	in := insn{addr: pc, size: uint64(x.Len), class: classifyAMD64(code[:x.Len])}
	in.flow = amd64Flow(&x)
	if rel, ok := x.Args[0].(x86asm.Rel); ok {
		in.target = pc + in.size + uint64(int64(rel))
	} else if in.flow == flowJump || in.flow == flowCall {
		// Through a register or memory.
		if in.flow == flowJump {
			in.flow = flowStop
		} else {
			in.flow = flowIndirect
		}
	}
	if in.flow == flowCond && (x.Op == x86asm.JBE || x.Op == x86asm.JB) && prev != nil {
		in.stackCheck = prev.stackCheck
	}
	switch x.Op {
	case x86asm.JE:
		in.taken = takenZero
	case x86asm.JNE:
		in.taken = takenNonZero
	}
	if x.Op == x86asm.CMP {
		// Remembered on the CMP for the jump behind it.
		m, ok := x.Args[1].(x86asm.Mem)
		in.stackCheck = ok && m.Base == amd64G && m.Index == 0 && (m.Disp == 0x10 || m.Disp == 0x18)
	}
	for _, a := range x.Args {
		if m, ok := a.(x86asm.Mem); ok && m.Base == x86asm.RIP && m.Index == 0 {
			in.refs[0] = pc + in.size + uint64(m.Disp)
		}
	}
	in.effect = amd64Effect(&x)
	return in, true
}

func amd64Flow(x *x86asm.Inst) flow {
	switch x.Op {
	case x86asm.JMP:
		return flowJump
	case x86asm.CALL:
		return flowCall
	case x86asm.RET, x86asm.LRET, x86asm.IRET, x86asm.IRETD, x86asm.IRETQ, x86asm.UD1, x86asm.UD2,
		x86asm.INT, x86asm.HLT, x86asm.LJMP, x86asm.LCALL, x86asm.SYSRET:
		return flowStop
	case x86asm.JA, x86asm.JAE, x86asm.JB, x86asm.JBE, x86asm.JCXZ, x86asm.JE, x86asm.JECXZ, x86asm.JG,
		x86asm.JGE, x86asm.JL, x86asm.JLE, x86asm.JNE, x86asm.JNO, x86asm.JNP, x86asm.JNS, x86asm.JO,
		x86asm.JP, x86asm.JRCXZ, x86asm.JS, x86asm.LOOP, x86asm.LOOPE, x86asm.LOOPNE:
		return flowCond
	}
	return flowNext
}

// amd64Effect describes the instructions that the Go compiler puts into
// prologues and after calls; every other one is unknown.
func amd64Effect(x *x86asm.Inst) effect {
	var e effect
	switch x.Op {
	case x86asm.NOP, x86asm.CMP, x86asm.TEST, x86asm.BT, x86asm.UCOMISD, x86asm.UCOMISS,
		x86asm.JMP, x86asm.PREFETCHNTA, x86asm.PREFETCHT0:
		return e
	case x86asm.PUSH, x86asm.POP:
		e.movesSP = true
		if r, _, ok := amd64Reg(x.Args[0]); ok && x.Op == x86asm.POP {
			e.writes |= 1 << r
		}
		return e
	case x86asm.MOV, x86asm.LEA, x86asm.MOVZX, x86asm.MOVSX, x86asm.MOVSXD, x86asm.MOVSD_XMM, x86asm.MOVSS,
		x86asm.MOVUPS, x86asm.MOVAPS, x86asm.MOVDQU, x86asm.MOVDQA, x86asm.MOVQ, x86asm.MOVD, x86asm.MOVUPD, x86asm.MOVAPD,
		x86asm.ADD, x86asm.SUB, x86asm.AND, x86asm.OR, x86asm.XOR, x86asm.ADC, x86asm.SBB,
		x86asm.INC, x86asm.DEC, x86asm.NEG, x86asm.NOT, x86asm.SHL, x86asm.SHR, x86asm.SAR, x86asm.ROL, x86asm.ROR,
		x86asm.XORPS, x86asm.PXOR, x86asm.CVTSI2SD, x86asm.CVTTSD2SI, x86asm.BSF, x86asm.BSR, x86asm.POPCNT, x86asm.BSWAP,
		x86asm.CMOVA, x86asm.CMOVAE, x86asm.CMOVB, x86asm.CMOVBE, x86asm.CMOVE, x86asm.CMOVG, x86asm.CMOVGE, x86asm.CMOVL,
		x86asm.CMOVLE, x86asm.CMOVNE, x86asm.CMOVNS, x86asm.CMOVS,
		x86asm.SETA, x86asm.SETAE, x86asm.SETB, x86asm.SETBE, x86asm.SETE, x86asm.SETG, x86asm.SETGE, x86asm.SETL,
		x86asm.SETLE, x86asm.SETNE, x86asm.SETNO, x86asm.SETNP, x86asm.SETNS, x86asm.SETO, x86asm.SETP, x86asm.SETS:
		return amd64Write(x)
	case x86asm.XCHG, x86asm.XADD, x86asm.CMPXCHG:
		e = amd64Write(x)
		for _, a := range x.Args[:2] {
			if r, _, ok := amd64Reg(a); ok {
				e.writes |= 1 << r
			}
		}
		if x.Op == x86asm.CMPXCHG {
			e.writes |= 1 // AX
		}
		return e
	case x86asm.IMUL:
		if x.Args[1] != nil {
			return amd64Write(x)
		}
	}
	e.unknown = amd64Flow(x) != flowCond
	return e
}

// amd64Write describes an instruction that writes its first operand only.
func amd64Write(x *x86asm.Inst) effect {
	var e effect
	dst, wide, isReg := amd64Reg(x.Args[0])
	src, srcWide, fromReg := amd64Reg(x.Args[1])
	switch to := x.Args[0].(type) {
	case x86asm.Reg:
		switch {
		case !isReg: // SSE or segment register
		case dst == amd64SP:
			e.movesSP = true
		case x.Op == x86asm.MOV && wide && fromReg && srcWide:
			e.copy(place{reg: src}, place{reg: dst})
		case x.Op == x86asm.MOV && wide && isSlot(x.Args[1]):
			m := x.Args[1].(x86asm.Mem)
			e.copy(place{stack: true, off: int32(m.Disp)}, place{reg: dst})
		default:
			e.writes |= 1 << dst
		}
	case x86asm.Mem:
		if to.Base != x86asm.RSP {
			return e // not a spill slot: their address is never taken
		}
		if !isSlot(to) {
			e.unknown = true // indexed: anywhere in the frame
			return e
		}
		e.lo, e.hi = int32(to.Disp), int32(to.Disp)+int32(max(x.MemBytes, 1))
		if x.Op == x86asm.MOV && fromReg && srcWide && x.MemBytes == 8 {
			e.copy(place{reg: src}, place{stack: true, off: int32(to.Disp)})
		}
	default:
		e.unknown = true
	}
	return e
}

// isSlot reports whether an operand is memory at a fixed distance from SP.
func isSlot(a x86asm.Arg) bool {
	m, ok := a.(x86asm.Mem)
	return ok && m.Base == x86asm.RSP && m.Index == 0 && m.Disp > -1<<30 && m.Disp < 1<<30
}

// amd64Reg returns the machine number of a general register and whether the
// operand is all 64 bits of it.
func amd64Reg(a x86asm.Arg) (num uint8, wide, ok bool) {
	r, isReg := a.(x86asm.Reg)
	if !isReg {
		return 0, false, false
	}
	switch {
	case r >= x86asm.RAX && r <= x86asm.R15:
		return uint8(r - x86asm.RAX), true, true
	case r >= x86asm.EAX && r <= x86asm.R15L:
		return uint8(r - x86asm.EAX), false, true
	case r >= x86asm.AX && r <= x86asm.R15W:
		return uint8(r - x86asm.AX), false, true
	case r >= x86asm.SPB && r <= x86asm.R15B:
		return uint8(r-x86asm.SPB) + 4, false, true
	case r >= x86asm.AL && r <= x86asm.BL:
		return uint8(r - x86asm.AL), false, true
	case r >= x86asm.AH && r <= x86asm.BH:
		return uint8(r - x86asm.AH), false, true
	}
	return 0, false, false
}

// vexLen returns the length of an instruction with a VEX or EVEX prefix, which
// GOAMD64=v3 code has and x86asm does not decode; 0 when it has none or is cut off.
func vexLen(code []byte) int {
	if len(code) < 4 {
		return 0
	}
	var opmap byte
	n := 0 // of the prefix
	switch code[0] {
	case 0xc5:
		opmap, n = 1, 2
	case 0xc4:
		opmap, n = code[1]&0x1f, 3
	case 0x62:
		opmap, n = code[1]&7, 4
	default:
		return 0
	}
	if len(code) < n+1 {
		return 0
	}
	op := code[n]
	n++
	if opmap == 1 && op == 0x77 && code[0] != 0x62 { // vzeroupper: no operands
		return n
	}
	imm := opmap == 3 || opmap == 1 && (op >= 0x70 && op <= 0x73 || op == 0xc2 || op >= 0xc4 && op <= 0xc6)
	n += modrmLen(code[n:])
	if imm {
		n++
	}
	if n > len(code) || n > 15 {
		return 0
	}
	return n
}

// modrmLen returns the length of a ModRM byte with what follows from it, or
// more than there is when it is cut off.
func modrmLen(code []byte) int {
	if len(code) == 0 {
		return 1
	}
	mod, rm := code[0]>>6, code[0]&7
	n := 1
	if mod == 3 {
		return n
	}
	base := rm
	if rm == 4 {
		n++
		if len(code) < 2 {
			return n
		}
		base = code[1] & 7
	}
	switch {
	case mod == 1:
		n++
	case mod == 2, mod == 0 && base == 5:
		n += 4
	}
	return n
}
