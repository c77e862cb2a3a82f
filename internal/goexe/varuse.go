package goexe

import (
	"fmt"
	"slices"
)

// Use is one thing known of a variable: a function refers to its bytes at Offsets.
type Use struct {
	Func    string
	Offsets []uint64
	// First: the function refers to it before it refers to any other variable.
	First bool
}

// maxRefs bounds the references that are kept of one function.
const maxRefs = 1024

// FindVars returns the link-time addresses of variables of an executable whose symbols
// were stripped: each has the one address at which all that is known of its uses holds.
// The error wraps ErrNoOffsets, ErrNoFunc or ErrCorrupt and names the variable.
func (e *Exe) FindVars(uses map[string][]Use) (addrs map[string]uint64, err error) {
	defer recovered(&err)
	var funcs []string
	for _, us := range uses {
		for _, u := range us {
			funcs = append(funcs, u.Func)
		}
	}
	if err := e.Index(Names(funcs, nil)); err != nil {
		return nil, err
	}
	refs := make(map[string][]uint64, len(funcs))
	for _, fn := range funcs {
		if _, ok := refs[fn]; ok {
			continue
		}
		if refs[fn], err = e.dataRefs(fn); err != nil {
			return nil, err
		}
	}
	addrs = make(map[string]uint64, len(uses))
	for name, us := range uses {
		if addrs[name], err = varAt(us, refs); err != nil {
			return nil, fmt.Errorf("find %s: %w", name, err)
		}
	}
	return addrs, nil
}

// varAt returns the address that agrees with all uses.
func varAt(uses []Use, refs map[string][]uint64) (uint64, error) {
	var at []uint64
	for i, u := range uses {
		of := refs[u.Func]
		if u.First {
			of = of[:min(len(of), 1)]
		}
		for j, off := range u.Offsets {
			if i == 0 && j == 0 {
				for _, r := range of {
					if base := r - off; base <= r && !slices.Contains(at, base) {
						at = append(at, base)
					}
				}
				continue
			}
			at = slices.DeleteFunc(at, func(base uint64) bool { return !slices.Contains(of, base+off) })
		}
	}
	if len(at) != 1 {
		return 0, fmt.Errorf("%w: %d addresses agree with what its functions refer to", ErrNoOffsets, len(at))
	}
	return at[0], nil
}

// dataRefs returns the addresses of variables that a function refers to, in the order of
// its code.
func (e *Exe) dataRefs(fn string) ([]uint64, error) {
	b, err := e.lookup(fn)
	if err != nil {
		return nil, err
	}
	var refs []uint64
	whole := b.walk(func(in *insn) bool {
		for _, r := range in.refs {
			if r != 0 && e.im.writable(r) {
				refs = append(refs, r)
			}
		}
		return len(refs) < maxRefs
	})
	if !whole {
		return nil, fmt.Errorf("%w: cannot disassemble %s", ErrNoOffsets, fn)
	}
	return refs, nil
}

// writable reports whether an address is in a segment of variables.
func (im *image) writable(addr uint64) bool {
	for _, s := range im.segs {
		if s.write && addr >= s.vaddr && addr-s.vaddr < s.memsz {
			return true
		}
	}
	return false
}
