package probe

import "time"

// AskAgainNs is how long an answer is waited for: a request may be dropped, and the number of an executable is used again.
const AskAgainNs = uint64(time.Second)

// Asking is when a decoder asked for lazy points of an executable because of a record that
// wants them; many more come before they are there. It is bounded by the number of executables.
type Asking map[uint32]uint64

// Due says whether to ask again, at a time of CLOCK_MONOTONIC, and notes it.
func (a Asking) Due(exeID uint32, nowNs uint64) bool {
	if at, ok := a[exeID]; ok && nowNs-at <= AskAgainNs {
		return false
	}
	a[exeID] = nowNs
	return true
}
