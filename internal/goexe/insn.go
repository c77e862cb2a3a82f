package goexe

// flow says where control goes after an instruction.
type flow uint8

const (
	flowNext     flow = iota // the next instruction
	flowJump                 // unconditional, to target
	flowCond                 // to target or the next
	flowCall                 // direct, to target, then the next
	flowIndirect             // call through a register or memory, then the next
	flowStop                 // return, indirect jump, trap
)

// taken says when a conditional jump is taken, where that is a matter of zero or not.
type taken uint8

const (
	takenOther   taken = iota
	takenZero          // JEQ, CBZ
	takenNonZero       // JNE, CBNZ
)

// place is where a word is: machine register reg, or memory at SP+off.
type place struct {
	stack bool
	reg   uint8 // machine number, not the ABI's
	off   int32
}

// effect is what an instruction does to registers and to stack slots, as far as
// the little dataflow of AfterCall and EntryPoint needs it.
type effect struct {
	copies  [2]copyOf // 8-byte moves
	ncopies uint8
	writes  uint32 // machine registers that get another value; copies' destinations not included
	// The stack bytes [lo, hi) relative to SP that are overwritten.
	lo, hi  int32
	movesSP bool // SP changes
	unknown bool // anything may change
}

// copyOf is one 8-byte move.
type copyOf struct{ from, to place }

func (e *effect) copy(from, to place) {
	e.copies[e.ncopies] = copyOf{from, to}
	e.ncopies++
}

// insn is one decoded instruction.
type insn struct {
	addr   uint64
	size   uint64
	flow   flow
	target uint64    // of flowJump, flowCond, flowCall
	refs   [2]uint64 // addresses of words that operands name, 0: none
	class  Class
	taken  taken
	// stackCheck: a conditional jump that compares SP with the goroutine's limit.
	stackCheck bool
	effect     effect
	page       uint64 // arm64: the address that is in register pageReg behind an ADRP or ADD
	pageReg    uint8
}

// arch decodes one architecture's instructions.
type arch interface {
	// decode decodes the instruction at the start of code, whose address is pc;
	// prev is the one before, for what spans two. false: not decodable.
	decode(code []byte, pc uint64, prev *insn) (insn, bool)
	// text disassembles it.
	text(code []byte, pc uint64) string
	// abiReg returns the number of a machine register in the sequence of
	// integer argument and result registers.
	abiReg(machine uint8) (uint8, bool)
	// argRegs returns machine register numbers in that order.
	argRegs() []uint8
	// contextReg returns the machine register of a closure's context.
	contextReg() uint8
	// fixedWords returns the addresses of the 8-byte variables that a function's code
	// loads and stores.
	fixedWords(b *body) map[uint64]bool
}

func (e *Exe) arch() arch {
	if e.Arch() == "arm64" {
		return arm64Arch{}
	}
	return amd64Arch{}
}

// body is a function's code.
type body struct {
	Func
	code []byte
	arch arch
}

// body reads a function's code, at most maxFuncBytes of it.
func (e *Exe) body(f Func) (*body, error) {
	if f.Size == 0 || f.Size > maxFuncBytes {
		return nil, corrupt("function %.100s has %d bytes", f.Name, f.Size)
	}
	code := make([]byte, f.Size)
	if err := e.im.memory(code, f.Addr); err != nil {
		return nil, err
	}
	return &body{Func: f, code: code, arch: e.arch()}, nil
}

// at decodes the instruction at an address within the body.
func (b *body) at(pc uint64, prev *insn) (insn, bool) {
	if pc < b.Addr || pc-b.Addr >= b.Size {
		return insn{}, false
	}
	return b.arch.decode(b.code[pc-b.Addr:], pc, prev)
}

// walk decodes linearly from the function's start, so that every address it
// visits is an instruction boundary; visit returns false to stop. It reports
// whether it got to the end or was stopped, rather than met something undecodable.
func (b *body) walk(visit func(*insn) bool) bool {
	var prev insn
	for pc := b.Addr; pc < b.Addr+b.Size; {
		in, ok := b.at(pc, &prev)
		if !ok {
			return false
		}
		if !visit(&in) {
			return true
		}
		pc += in.size
		prev = in
	}
	return true
}

// point makes an attach point of an instruction.
func (e *Exe) point(b *body, in insn) (Point, error) {
	off, err := e.im.fileOffset(in.addr)
	if err != nil {
		return Point{}, err
	}
	return Point{
		Func: b.Name, Addr: in.addr, Offset: off, Class: in.class,
		Instr: b.arch.text(b.code[in.addr-b.Addr:], in.addr),
	}, nil
}
