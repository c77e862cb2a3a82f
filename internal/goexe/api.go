package goexe

import (
	"errors"

	"github.com/tracer-agent/tracer-agent/internal/offsets"
)

// This file is the package's contract; the rest of the package implements it.

// Class is what a uprobe hit costs at an instruction (see docs: probe cost).
type Class uint8

const (
	ClassUnknown Class = iota
	// ClassEmulated: the kernel emulates the instruction in the breakpoint trap.
	ClassEmulated
	// ClassTrampoline: a 5-byte NOP on kernels that optimise it.
	ClassTrampoline
	// ClassStepped: copied out and single-stepped: a second exception, the last resort.
	ClassStepped
)

// Field names one struct field.
type Field = offsets.Field

// OffsetSource says where offsets came from.
type OffsetSource uint8

const (
	OffsetsNone OffsetSource = iota
	// OffsetsTable: the exact version is in the embedded table.
	OffsetsTable
	// OffsetsDWARF: read from the executable's own debug information.
	OffsetsDWARF
	// OffsetsNearest: the nearest known release of the same minor version.
	OffsetsNearest
)

// Func is one function of the executable. Addr is a link-time virtual address.
type Func struct {
	Name       string
	Addr, Size uint64
}

// Loc says where a value is when a probed instruction is reached.
type Loc struct {
	// Stack: the value is in memory at SP+Off; else in integer register number
	// Reg of the Go ABIInternal sequence (amd64: AX BX CX DI SI R8 R9 R10 R11 = 0..8;
	// arm64: R0..R15).
	Stack bool
	Reg   uint8
	Off   int32
}

// Point is a computed attach point.
type Point struct {
	Func   string
	Addr   uint64 // link-time virtual address of the instruction
	Offset uint64 // file offset of the instruction, what the kernel wants
	Instr  string // disassembly, for check --pid
	Class  Class
	// Results are where the call's result words are (AfterCall only).
	Results []Loc
}

// What Open and the other methods refuse; every error wraps one of these and is one line.
var (
	// ErrNotELF: the file is no 64-bit little-endian ELF executable.
	ErrNotELF = errors.New("not an ELF executable")
	// ErrNotGo: no Go build information in the file.
	ErrNotGo = errors.New("not a Go executable")
	// ErrUnsupportedArch: neither amd64 nor arm64.
	ErrUnsupportedArch = errors.New("unsupported architecture")
	// ErrUnsupportedGo: built by a Go version that is not supported.
	ErrUnsupportedGo = errors.New("unsupported Go version")
	// ErrCorrupt: a structure of the file contradicts itself or the file is cut off.
	ErrCorrupt = errors.New("corrupt executable")
	// ErrNoFunc: the executable does not have the function.
	ErrNoFunc = errors.New("function not found")
	// ErrNoPoint: the function has no instruction that qualifies.
	ErrNoPoint = errors.New("no attach point")
	// ErrNoOffsets: neither a table nor debug information has the offsets.
	ErrNoOffsets = errors.New("struct offsets unknown")
)
