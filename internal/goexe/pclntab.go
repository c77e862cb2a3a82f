package goexe

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
)

// The magic numbers of pclntab since Go 1.18 and since Go 1.20.
const (
	magic118 = 0xfffffff0
	magic120 = 0xfffffff1
)

// Bounds of a function table.
const (
	pcHeaderBytes = 72
	maxFuncs      = 1 << 23
	maxFuncName   = 4 << 10
	// maxIndexed bounds the functions that all Index calls together keep.
	maxIndexed = 1 << 16
	// maxFuncBytes bounds the code that is disassembled of one function.
	maxFuncBytes = 1 << 20
)

// pclntab is the header of the runtime's function table. Offsets are from its start.
type pclntab struct {
	addr, off uint64 // link-time address, file offset
	size      uint64 // bytes up to the end of its section or segment
	nfunc     uint64
	textStart uint64 // as the file has it; 0 from Go 1.26 on and in PIE
	names     uint64
	namesEnd  uint64
	funcs     uint64 // functab, followed by the _func structs
}

// parsePcHeader reads and checks a header; size is what follows its start.
func parsePcHeader(b []byte, size uint64, quantum byte) (pclntab, bool) {
	if len(b) < pcHeaderBytes {
		return pclntab{}, false
	}
	le := binary.LittleEndian
	magic := le.Uint32(b)
	if magic != magic118 && magic != magic120 || b[4] != 0 || b[5] != 0 || b[6] != quantum || b[7] != 8 {
		return pclntab{}, false
	}
	word := func(i int) uint64 { return le.Uint64(b[8*i:]) }
	t := pclntab{size: size, nfunc: word(1), textStart: word(3), names: word(4), namesEnd: word(5), funcs: word(8)}
	ok := t.nfunc > 0 && t.nfunc <= maxFuncs &&
		t.names >= pcHeaderBytes && t.names < t.namesEnd && t.namesEnd <= word(6) && word(6) <= word(7) &&
		word(7) <= t.funcs && t.funcs < size && t.nfunc*8+4 <= size-t.funcs
	return t, ok
}

func (e *Exe) quantum() byte {
	if e.Arch() == "arm64" {
		return 4
	}
	return 1
}

// findPclntab finds the function table by section name, else by its header.
func (e *Exe) findPclntab() (pclntab, error) {
	for _, name := range []string{".gopclntab", ".data.rel.ro.gopclntab"} {
		s, ok := e.im.section(name)
		if !ok || s.size < pcHeaderBytes {
			continue
		}
		hdr, err := e.im.bytesAt(s.off, pcHeaderBytes)
		if err != nil {
			return pclntab{}, err
		}
		if t, ok := parsePcHeader(hdr, s.size, e.quantum()); ok {
			t.addr, t.off = s.addr, s.off
			return t, nil
		}
	}
	for _, s := range e.im.segs {
		t, ok, err := e.scanPclntab(s)
		if ok || err != nil {
			return t, err
		}
	}
	return pclntab{}, corrupt("no function table (pclntab)")
}

// scanPclntab looks for a header in one segment: external linkers may put the
// table into .data.rel.ro, and section headers may be missing.
func (e *Exe) scanPclntab(s segment) (pclntab, bool, error) {
	w := newWindow(e.im, s.off, s.filesz)
	// What both magics and the fixed bytes behind them have in common.
	needle := []byte{0xff, 0xff, 0xff, 0, 0, e.quantum(), 8}
	for pos := uint64(0); pos+pcHeaderBytes <= s.filesz; {
		b, err := w.rest(pos)
		if err != nil {
			return pclntab{}, false, err
		}
		i := bytes.Index(b, needle)
		if i < 0 {
			pos += uint64(max(len(b)-len(needle), 1)) // the needle may straddle two windows
			continue
		}
		hit := pos + uint64(i)
		pos = hit + 1
		if hit == 0 || hit-1+pcHeaderBytes > s.filesz {
			continue
		}
		hdr, err := w.at(hit-1, pcHeaderBytes)
		if err != nil {
			return pclntab{}, false, err
		}
		if t, ok := parsePcHeader(hdr, s.filesz-(hit-1), e.quantum()); ok {
			t.addr, t.off = s.vaddr+hit-1, s.off+hit-1
			return t, true, nil
		}
	}
	return pclntab{}, false, nil
}

// collectNames makes one pass over the name table and returns the wanted names
// by offset.
func (t *pclntab) collectNames(im *image, keep func([]byte) bool, limit int) (map[uint32]string, error) {
	wanted := make(map[uint32]string)
	w := newWindow(im, t.off+t.names, t.namesEnd-t.names)
	for pos := uint64(0); pos < w.size; {
		b, err := w.rest(pos)
		if err != nil {
			return nil, err
		}
		end := bytes.IndexByte(b, 0)
		if end < 0 && len(b) < windowBytes && pos+uint64(len(b)) < w.size {
			if err := w.fill(pos); err != nil { // the name continues behind the buffer
				return nil, err
			}
			continue
		}
		if end < 0 {
			pos += uint64(len(b)) // no name is that long: skip to the next NUL
			continue
		}
		if end > 0 && end <= maxFuncName && keep(b[:end]) {
			if len(wanted) >= limit {
				return nil, corrupt("more than %d functions asked for", limit)
			}
			wanted[uint32(pos)] = string(b[:end])
		}
		pos += uint64(end) + 1
	}
	return wanted, nil
}

// collectFuncs makes one pass over the function table and calls found for
// every function whose name is wanted, with the offset of its _func struct.
func (t *pclntab) collectFuncs(im *image, text uint64, wanted map[uint32]string, found func(f Func, info uint32)) error {
	tab := newWindow(im, t.off+t.funcs, t.nfunc*8+4)
	infos := newWindow(im, t.off+t.funcs, t.size-t.funcs)
	for i := range t.nfunc {
		row, err := tab.at(i*8, 8)
		if err != nil {
			return err
		}
		entry, info := binary.LittleEndian.Uint32(row), binary.LittleEndian.Uint32(row[4:])
		nameOff, err := infos.uint32(uint64(info) + 4)
		if err != nil {
			return err
		}
		name, ok := wanted[nameOff]
		if !ok {
			continue
		}
		next, err := tab.uint32(i*8 + 8)
		if err != nil {
			return err
		}
		if next <= entry {
			return corrupt("function %.100s has no length", name)
		}
		found(Func{Name: name, Addr: text + uint64(entry), Size: uint64(next - entry)}, info)
	}
	return nil
}

// funcIndex is the functions that were asked for so far.
type funcIndex struct {
	ready  bool
	err    error
	tab    pclntab
	text   uint64
	symtab bool
	byName map[string]Func
	info   map[uint64]uint32 // by address: offset of the _func struct in the table
	sorted []Func            // by address
	asked  []func(name []byte) bool
}

// Index finds, in one pass over the function table, every function whose name
// keep wants; Func, FuncsMatch, Closure and the placement methods then answer
// from memory. A question that no Index covered costs a pass of its own. name is
// only valid during the call, and keep may be called again later. Names helps to
// make a keep. The error wraps ErrCorrupt or is the system's.
func (e *Exe) Index(keep func(name []byte) bool) (err error) {
	defer recovered(&err)
	if err := e.prepareFuncs(); err != nil {
		return err
	}
	limit := maxIndexed - len(e.funcs.byName)
	add := func(f Func) {
		if old, dup := e.funcs.byName[f.Name]; !dup || f.Addr < old.Addr {
			e.funcs.byName[f.Name] = f
		}
	}
	if e.funcs.symtab {
		err = e.im.symtabFuncs(keep, limit, add)
	} else {
		var wanted map[uint32]string
		wanted, err = e.funcs.tab.collectNames(e.im, keep, limit)
		if err == nil && len(wanted) > 0 {
			err = e.funcs.tab.collectFuncs(e.im, e.funcs.text, wanted, func(f Func, info uint32) {
				e.funcs.info[f.Addr] = info
				add(f)
			})
		}
	}
	if err != nil {
		return err
	}
	e.funcs.asked = append(e.funcs.asked, keep)
	e.funcs.sorted = e.funcs.sorted[:0]
	for _, f := range e.funcs.byName {
		e.funcs.sorted = append(e.funcs.sorted, f)
	}
	slices.SortFunc(e.funcs.sorted, func(a, b Func) int {
		if a.Addr != b.Addr {
			return int(min(max(int64(a.Addr-b.Addr), -1), 1))
		}
		return strings.Compare(a.Name, b.Name)
	})
	return nil
}

// Names returns a keep function for Index: the exact names, and everything that
// is a closure of one of closuresOf ("net/http.(*conn).serve" keeps
// "net/http.(*conn).serve.func1", ".func2.1", ".deferwrap1", ".gowrap2").
func Names(exact, closuresOf []string) func(name []byte) bool {
	names, lengths := nameSet(exact)
	parents, parentLengths := nameSet(closuresOf)
	return func(name []byte) bool {
		// A program has hundreds of thousands of names; a length tells most of them apart.
		if len(name) < len(lengths) && lengths[len(name)] {
			if _, ok := names[string(name)]; ok {
				return true
			}
		}
		for n, ok := range parentLengths[:min(len(name), len(parentLengths))] {
			if ok && name[n] == '.' && isClosureSuffix(name[n:]) {
				if _, ok := parents[string(name[:n])]; ok {
					return true
				}
			}
		}
		return false
	}
}

// nameSet returns the names as a set, and which lengths they have.
func nameSet(list []string) (set map[string]struct{}, lengths []bool) {
	set = make(map[string]struct{}, len(list))
	for _, n := range list {
		set[n] = struct{}{}
		if len(n) >= len(lengths) {
			lengths = append(lengths, make([]bool, len(n)+1-len(lengths))...)
		}
		lengths[len(n)] = true
	}
	return set, lengths
}

// isClosureSuffix reports whether s starts like what the compiler appends to
// the name of a function for the functions within.
func isClosureSuffix[S string | []byte](s S) bool {
	for _, p := range []string{".func", ".deferwrap", ".gowrap"} {
		if len(s) > len(p) && string(s[:len(p)]) == p && s[len(p)] >= '0' && s[len(p)] <= '9' {
			return true
		}
	}
	return false
}

// isClosure reports whether name is a closure's.
func isClosure(name string) bool {
	for i := 0; i < len(name); i++ {
		if name[i] == '.' && isClosureSuffix(name[i:]) {
			return true
		}
	}
	return false
}

// isClosureOf reports whether name is a closure of parent, at any depth.
func isClosureOf(name, parent string) bool {
	return len(name) > len(parent) && strings.HasPrefix(name, parent) && isClosureSuffix(name[len(parent):])
}

// prepareFuncs finds the function table and the text address, once.
func (e *Exe) prepareFuncs() error {
	if e.funcs.ready {
		return e.funcs.err
	}
	e.funcs.ready = true
	e.funcs.byName = make(map[string]Func)
	e.funcs.info = make(map[uint64]uint32)
	e.funcs.tab, e.funcs.err = e.findPclntab()
	if e.funcs.err == nil {
		e.funcs.text, e.funcs.err = e.textAddr()
	}
	if e.funcs.err != nil && e.im.hasSymtab() {
		e.funcs.symtab, e.funcs.err = true, nil
	}
	return e.funcs.err
}

// covered reports whether an Index already looked for name.
func (e *Exe) covered(name string) bool {
	for _, keep := range e.funcs.asked {
		if keep([]byte(name)) {
			return true
		}
	}
	return false
}

// Func returns the function of that exact name. A file that cannot be read or
// contradicts itself has no functions: Index tells the error.
func (e *Exe) Func(name string) (Func, bool) {
	if f, ok := e.funcs.byName[name]; ok {
		return f, true
	}
	if e.covered(name) {
		return Func{}, false
	}
	if err := e.Index(Names([]string{name}, nil)); err != nil {
		return Func{}, false
	}
	f, ok := e.funcs.byName[name]
	return f, ok
}

// FuncsMatch returns the functions whose names keep wants, by address; at most
// 65536, and none when the function table cannot be read. It makes a pass.
func (e *Exe) FuncsMatch(keep func(name string) bool) []Func {
	if err := e.Index(func(name []byte) bool { return keep(string(name)) }); err != nil {
		return nil
	}
	var out []Func
	for _, f := range e.funcs.sorted {
		if keep(f.Name) {
			out = append(out, f)
		}
	}
	return out
}

// SymbolSource says where functions come from: "pclntab", which every intact Go
// executable has, or "symtab" for one whose pclntab cannot be read.
func (e *Exe) SymbolSource() string {
	if err := e.prepareFuncs(); err == nil && e.funcs.symtab {
		return "symtab"
	}
	return "pclntab"
}
