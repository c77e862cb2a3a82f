package goexe

import (
	"fmt"
	"slices"
)

// maxPrologue bounds the instructions among which an entry point is sought.
const maxPrologue = 64

// lookup returns a function's body; the error wraps ErrNoFunc or ErrCorrupt.
func (e *Exe) lookup(name string) (*body, error) {
	f, ok := e.Func(name)
	if !ok {
		if e.funcs.err != nil {
			return nil, e.funcs.err
		}
		return nil, fmt.Errorf("%w: %s", ErrNoFunc, name)
	}
	return e.body(f)
}

// EntryPoint returns the cheapest instruction of fn at which all integer
// arguments are still in their ABIInternal registers and g in its own, and
// that runs once per call: behind the stack check, because morestack runs
// everything before again. Of the usual PUSHQ BP, SP is that of the entry. The
// error wraps ErrNoFunc, ErrNoPoint or ErrCorrupt.
func (e *Exe) EntryPoint(fn string) (p Point, err error) {
	return e.EntryPointArgs(fn, -1)
}

// EntryPointArgs is EntryPoint for a program that reads only the first words
// argument words, and not the closure's context: before Go 1.21, which has no
// PUSHQ BP, more functions have a cheap instruction then.
func (e *Exe) EntryPointArgs(fn string, words int) (p Point, err error) {
	defer recovered(&err)
	b, err := e.lookup(fn)
	if err != nil {
		return Point{}, err
	}
	head := b.head()
	if len(head) == 0 {
		return Point{}, fmt.Errorf("%w: cannot disassemble the start of %s", ErrNoPoint, fn)
	}
	best, ok := insn{}, false
	if in, found := b.cheapEntry(head, e.liveAtEntry(b, words)); found {
		best, ok = in, true
	} else if head[0].class != ClassUnknown {
		best, ok = head[0], true
	}
	if !ok || b.jumpsInto(head[0].addr, best.addr) {
		return Point{}, fmt.Errorf("%w: no instruction of %s runs once per call with its arguments in place", ErrNoPoint, fn)
	}
	return e.point(b, best)
}

// head returns the straight line of instructions that begins behind the stack
// check, or at the entry of a function without one.
func (b *body) head() []insn {
	var head []insn
	n, checked := 0, false
	b.walk(func(in *insn) bool {
		n++
		if in.flow == flowCond && in.stackCheck {
			checked = true
			head = head[:0]
			return n < maxPrologue
		}
		// A huge frame's check jumps once more, on underflow, before the compare.
		if head = append(head, *in); in.flow == flowNext {
			return n < maxPrologue
		}
		return !checked && in.flow == flowCond && n <= 8 && b.morestackAhead(in)
	})
	return head
}

// morestackAhead reports whether a stack check follows within a few
// instructions of a conditional jump near the entry.
func (b *body) morestackAhead(jump *insn) bool {
	prev := *jump
	for range 4 {
		in, ok := b.at(prev.addr+prev.size, &prev)
		if !ok || in.flow != flowNext {
			return ok && in.flow == flowCond && in.stackCheck && in.target == jump.target
		}
		prev = in
	}
	return false
}

// liveAtEntry returns the machine registers that matter at the entry point:
// those of the arguments, and of a closure the one of its context. words is how
// many argument words count, negative for all.
func (e *Exe) liveAtEntry(b *body, words int) uint32 {
	var live uint32
	regs := b.arch.argRegs()
	n := e.argWords(b.Func, len(regs))
	if words >= 0 {
		n = min(n, words)
	}
	for _, r := range regs[:n] {
		live |= 1 << r
	}
	if words < 0 && isClosure(b.Name) {
		live |= 1 << b.arch.contextReg()
	}
	return live
}

// cheapEntry returns the first emulated instruction of the straight line that
// the arguments reach untouched.
func (b *body) cheapEntry(head []insn, args uint32) (insn, bool) {
	for _, in := range head {
		if in.class == ClassEmulated {
			if b.jumpsInto(head[0].addr, in.addr) {
				return insn{}, false
			}
			return in, true
		}
		if in.effect.unknown || in.effect.writes&args != 0 || in.flow != flowNext {
			return insn{}, false
		}
		for _, c := range in.effect.copies[:in.effect.ncopies] {
			if !c.to.stack && args>>c.to.reg&1 == 1 {
				return insn{}, false
			}
		}
	}
	return insn{}, false
}

// jumpsInto reports whether a jump of the function leads into [from, to], so
// that what lies there may run more than once per call. morestack's jump back
// to the entry of a function with a stack check does not count: it leads before
// from. What cannot be disassembled counts, unless from is all there is.
func (b *body) jumpsInto(from, to uint64) bool {
	found := false
	complete := b.walk(func(in *insn) bool {
		if (in.flow == flowJump || in.flow == flowCond) && in.target >= from && in.target <= to {
			found = true
		}
		return !found
	})
	return found || !complete && to != from
}

// AfterCall returns an instruction of caller that every return from a call of
// any of callees reaches, at which the first results integer result words can
// still be read: an emulated one if there is one before the first branch, else
// the instruction after the call. Point.Results says where the words are; stack
// offsets are from SP at that instruction. The instruction may also be reached
// without such a call. The error wraps ErrNoFunc, ErrNoPoint or ErrCorrupt.
func (e *Exe) AfterCall(caller string, callees []string, results int) (Point, error) {
	return e.AfterCallN(caller, callees, results, everyCall)
}

// everyCall is the number that stands for all calls.
const everyCall = -1

// AfterCallN is AfterCall for call number n alone, from 0 by address.
func (e *Exe) AfterCallN(caller string, callees []string, results, n int) (p Point, err error) {
	defer recovered(&err)
	b, err := e.lookup(caller)
	if err != nil {
		return Point{}, err
	}
	if results < 0 || results > len(b.arch.argRegs()) {
		return Point{}, fmt.Errorf("%w: %d results", ErrNoPoint, results)
	}
	calls, err := e.calls(b, callees)
	if err != nil {
		return Point{}, err
	}
	if n >= len(calls) {
		return Point{}, fmt.Errorf("%w: %s has %d calls of %v, none is number %d", ErrNoPoint, caller, len(calls), callees, n)
	}
	if n >= 0 {
		calls = calls[n : n+1]
	}
	common := b.afterCall(calls[0], results)
	for _, c := range calls[1:] {
		other := b.afterCall(c, results)
		common = slices.DeleteFunc(common, func(x after) bool {
			return !slices.ContainsFunc(other, func(y after) bool {
				return x.addr == y.addr && slices.Equal(x.results, y.results)
			})
		})
	}
	if len(common) == 0 {
		return Point{}, fmt.Errorf("%w: %d calls in %s whose results meet nowhere", ErrNoPoint, len(calls), caller)
	}
	best := common[0]
	for _, c := range common {
		if c.class == ClassEmulated {
			best = c
			break
		}
	}
	p, err = e.point(b, best.insn)
	p.Results = best.results
	return p, err
}

// CallSite returns the call instruction in caller whose target is one of
// callees; more than one is an error, because none stands for the others. The
// error wraps ErrNoFunc, ErrNoPoint or ErrCorrupt.
func (e *Exe) CallSite(caller string, callees []string) (p Point, err error) {
	defer recovered(&err)
	b, calls, err := e.callsOf(caller, callees)
	if err != nil {
		return Point{}, err
	}
	if len(calls) > 1 {
		return Point{}, fmt.Errorf("%w: %s has %d calls of %v", ErrNoPoint, caller, len(calls), callees)
	}
	return e.point(b, calls[0])
}

// CallSiteN returns call number n, from 0 by address, in caller of one of callees:
// for a program that tells the calls apart itself. The errors are CallSite's.
func (e *Exe) CallSiteN(caller string, callees []string, n int) (p Point, err error) {
	defer recovered(&err)
	b, calls, err := e.callsOf(caller, callees)
	if err != nil {
		return Point{}, err
	}
	if n < 0 || n >= len(calls) {
		return Point{}, fmt.Errorf("%w: %s has %d calls of %v, none is number %d", ErrNoPoint, caller, len(calls), callees, n)
	}
	return e.point(b, calls[n])
}

// callsOf is calls of a function by its name, and the function.
func (e *Exe) callsOf(caller string, callees []string) (*body, []insn, error) {
	b, err := e.lookup(caller)
	if err != nil {
		return nil, nil, err
	}
	calls, err := e.calls(b, callees)
	return b, calls, err
}

// calls returns the direct calls of any of callees in b, at least one.
func (e *Exe) calls(b *body, callees []string) ([]insn, error) {
	targets := make(map[uint64]bool)
	for _, name := range callees {
		if f, ok := e.Func(name); ok {
			targets[f.Addr] = true
		}
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("%w: none of %v", ErrNoFunc, callees)
	}
	var out []insn
	complete := b.walk(func(in *insn) bool {
		if in.flow == flowCall && targets[in.target] {
			out = append(out, *in)
		}
		return true
	})
	if !complete {
		return nil, fmt.Errorf("%w: cannot disassemble %s", ErrNoPoint, b.Name)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s does not call %v", ErrNoPoint, b.Name, callees)
	}
	return out, nil
}

// Closure returns the closure of one of parents, at any depth, that directly
// calls one of callees; the first by address.
func (e *Exe) Closure(parents, callees []string) (f Func, ok bool) {
	var err error
	defer func() {
		if err != nil {
			f, ok = Func{}, false
		}
	}()
	defer recovered(&err)
	if !slices.ContainsFunc(parents, func(p string) bool { return e.covered(p + ".func1") }) {
		if err = e.Index(Names(append(slices.Clone(parents), callees...), parents)); err != nil {
			return Func{}, false
		}
	}
	for _, f := range e.funcs.sorted {
		if !slices.ContainsFunc(parents, func(p string) bool { return isClosureOf(f.Name, p) }) {
			continue
		}
		b, err := e.body(f)
		if err != nil {
			continue
		}
		if _, err := e.calls(b, callees); err == nil {
			return f, true
		}
	}
	return Func{}, false
}
