package goexe

import "fmt"

// Guard returns the conditional jump of caller that decides whether the call of one of
// callees is made: what lies between is reached through it alone. It runs once where
// caller comes to the decision, not where it returns before. The error wraps ErrNoFunc,
// ErrNoPoint or ErrCorrupt.
func (e *Exe) Guard(caller string, callees []string) (p Point, err error) {
	defer recovered(&err)
	b, calls, err := e.callsOf(caller, callees)
	if err != nil {
		return Point{}, err
	}
	none := fmt.Errorf("%w: no jump of %s decides about its call of %v", ErrNoPoint, caller, callees)
	if len(calls) != 1 {
		return Point{}, none
	}
	call := calls[0]
	var last insn
	b.walk(func(in *insn) bool {
		if in.addr >= call.addr {
			return false
		}
		if in.flow != flowNext {
			last = *in
		}
		return true
	})
	if last.flow != flowCond || last.stackCheck || last.target <= call.addr || last.class != ClassEmulated || b.jumpsInto(last.addr, call.addr) {
		return Point{}, none
	}
	return e.point(b, last)
}
