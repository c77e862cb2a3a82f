package goexe

import "fmt"

// OnError returns the first instruction of the branch that caller takes when the call
// of one of callees has returned an error: nothing is probed while all goes well, so
// its class does not matter. The error is the last two of the call's results integer
// result words; Point.Results says where all of them are. Exactly one call, and one
// way into the branch, or else there is no such point. The error wraps ErrNoFunc,
// ErrNoPoint or ErrCorrupt.
func (e *Exe) OnError(caller string, callees []string, results int) (p Point, err error) {
	defer recovered(&err)
	b, err := e.lookup(caller)
	if err != nil {
		return Point{}, err
	}
	if results < 2 || results > len(b.arch.argRegs()) {
		return Point{}, fmt.Errorf("%w: %d results", ErrNoPoint, results)
	}
	calls, err := e.calls(b, callees)
	if err != nil {
		return Point{}, err
	}
	if len(calls) != 1 {
		return Point{}, fmt.Errorf("%w: %s has %d calls of %v", ErrNoPoint, caller, len(calls), callees)
	}
	at, ok := b.onError(calls[0], results)
	if !ok {
		return Point{}, fmt.Errorf("%w: no branch of %s is taken only when %v fails", ErrNoPoint, caller, callees)
	}
	p, err = e.point(b, at.insn)
	p.Results = at.results
	return p, err
}

// onError follows the one path that leads away from a call to the first branch, and
// that branch's way for what is not zero.
func (b *body) onError(call insn, results int) (after, bool) {
	words := make([][]place, results)
	for i := range words {
		words[i] = []place{{reg: b.arch.argRegs()[i]}}
	}
	pc, prev := call.addr+call.size, call
	for range maxAfterCall {
		in, ok := b.at(pc, &prev)
		if !ok {
			return after{}, false
		}
		next := in.addr + in.size
		switch in.flow {
		case flowNext:
			pc = next
		case flowJump:
			pc = in.target
		case flowCond:
			to := next
			switch in.taken {
			case takenNonZero:
				to = in.target
			case takenZero:
			default:
				return after{}, false
			}
			locs, found := b.locate(words)
			first, ok := b.at(to, &in)
			return after{first, locs}, found && ok && first.class != ClassUnknown && b.onlyFrom(to, in.addr)
		default:
			return after{}, false
		}
		if in.effect.unknown || in.effect.movesSP {
			return after{}, false
		}
		track(words, &in.effect)
		prev = in
	}
	return after{}, false
}

// onlyFrom reports whether the instruction at to is reached from the conditional jump
// at from and from nowhere else, as far as jumps of the function say.
func (b *body) onlyFrom(to, from uint64) bool {
	only := true
	complete := b.walk(func(in *insn) bool {
		if in.addr == from {
			return true
		}
		jumps := in.flow == flowJump || in.flow == flowCond
		falls := in.flow != flowJump && in.flow != flowStop
		if jumps && in.target == to || falls && in.addr+in.size == to {
			only = false
		}
		return only
	})
	return only && complete
}
