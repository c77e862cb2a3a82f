package goexe

import "encoding/binary"

// FUNCDATA_ArgInfo: what a traceback prints of a function's arguments.
const funcdataArgInfo = 5

// Its bytes are pairs (offset, size) and these marks.
const (
	argEnd       = 0xff
	argEndAgg    = 0xfd
	argStartAgg  = 0xfe
	argMore      = 0xfc // more follows than is described
	argTooFar    = 0xfb // one argument whose offset does not fit
	maxArgInfo   = 64
	funcInfo118  = 40 // bytes of runtime._func
	funcInfo120  = 44
	maxFuncdatas = 64
)

// argWords returns an upper bound of the words that f gets in registers, or
// all if that is not known. The compiler's description of the arguments counts
// floats and arguments on the stack too, which makes it a bound.
func (e *Exe) argWords(f Func, all int) int {
	info, ok := e.funcs.info[f.Addr]
	gofunc := Field{Module: "std", Type: "runtime.moduledata", Name: "gofunc"}
	if !ok || !e.mod.found {
		return all
	}
	off, _, err := e.Offsets([]Field{gofunc}, e.runtime)
	if err != nil {
		return all
	}
	i, ok := off[gofunc]
	if !ok || i < 0 || i > moduleBytes-8 {
		return all
	}
	base := binary.LittleEndian.Uint64(e.mod.raw[i:])

	t := &e.funcs.tab
	header := uint64(funcInfo120)
	if !e.version.AtLeast(1, 20) {
		header = funcInfo118
	}
	at := t.addr + t.funcs + uint64(info)
	buf := make([]byte, header)
	if e.im.memory(buf, at) != nil {
		return all
	}
	npcdata, nfuncdata := binary.LittleEndian.Uint32(buf[28:]), buf[header-1]
	if npcdata > maxFuncdatas || nfuncdata <= funcdataArgInfo {
		return all
	}
	var rel [4]byte
	if e.im.memory(rel[:], at+header+uint64(npcdata)*4+funcdataArgInfo*4) != nil {
		return all
	}
	delta := binary.LittleEndian.Uint32(rel[:])
	var desc [maxArgInfo]byte
	if delta == ^uint32(0) || e.im.memory(desc[:], base+uint64(delta)) != nil {
		return all
	}
	return countArgs(desc[:], all)
}

func countArgs(desc []byte, all int) int {
	n := 0
	for i := 0; i < len(desc); i++ {
		switch desc[i] {
		case argEnd:
			return min(n, all)
		case argMore, argTooFar:
			return all
		case argStartAgg, argEndAgg:
		default:
			i++ // the size
			n++
		}
	}
	return all
}
