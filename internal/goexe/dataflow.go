package goexe

import "slices"

// Bounds of the walk after a call.
const (
	maxAfterCall = 96 // instructions
	maxPlaces    = 6  // places remembered per result word
)

// after is an instruction behind a call with the places of the results.
type after struct {
	insn
	results []Loc
}

// afterCall follows the one path that leads away from a call, up to the first
// branch, and returns the instructions at which all results can be read.
func (b *body) afterCall(call insn, results int) []after {
	words := make([][]place, results)
	for i := range words {
		words[i] = []place{{reg: b.arch.argRegs()[i]}}
	}
	var out []after
	seen := make(map[uint64]bool)
	pc, prev := call.addr+call.size, call
	for range maxAfterCall {
		in, ok := b.at(pc, &prev)
		if !ok || seen[pc] {
			return out
		}
		seen[pc] = true
		if locs, ok := b.locate(words); ok && in.class != ClassUnknown {
			out = append(out, after{in, locs})
		}
		switch in.flow {
		case flowNext:
			pc += in.size
		case flowJump:
			pc = in.target
		default:
			return out
		}
		if in.effect.unknown || in.effect.movesSP {
			return out
		}
		track(words, &in.effect)
		prev = in
	}
	return out
}

// locate returns one place per result word, registers preferred.
func (b *body) locate(words [][]place) ([]Loc, bool) {
	locs := make([]Loc, len(words))
	for i, places := range words {
		found := false
		for _, p := range places {
			if r, isABI := b.arch.abiReg(p.reg); !p.stack && isABI {
				locs[i], found = Loc{Reg: r}, true
				break
			}
			if p.stack && !found {
				locs[i], found = Loc{Stack: true, Off: p.off}, true
			}
		}
		if !found {
			return nil, false
		}
	}
	return locs, true
}

// track updates the places of the words by one instruction.
func track(words [][]place, e *effect) {
	for i, places := range words {
		var gained []place
		for _, c := range e.copies[:e.ncopies] {
			if slices.Contains(places, c.from) {
				gained = append(gained, c.to)
			}
		}
		places = slices.DeleteFunc(places, func(p place) bool { return e.overwrites(p) })
		for _, p := range gained {
			if len(places) < maxPlaces && !slices.Contains(places, p) {
				places = append(places, p)
			}
		}
		words[i] = places
	}
}

// overwrites reports whether the instruction puts something else into p.
func (e *effect) overwrites(p place) bool {
	if p.stack {
		return p.off < e.hi && p.off+8 > e.lo
	}
	if e.writes>>p.reg&1 == 1 {
		return true
	}
	for _, c := range e.copies[:e.ncopies] {
		if c.to == p {
			return true
		}
	}
	return false
}
