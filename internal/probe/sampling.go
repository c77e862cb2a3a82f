package probe

import "math"

// Root is the sampler of traces that start here.
type Root uint8

const (
	AlwaysOn Root = iota
	AlwaysOff
	Ratio
)

// Sampling is OTEL_TRACES_SAMPLER; the decision falls in the kernel.
type Sampling struct {
	Root Root
	// Ratio is the share of traces kept, 0 to 1, for Root == Ratio.
	Ratio float64
	// IgnoreParent: the root sampler decides even where there is a parent.
	IgnoreParent bool
}

// bound is the ratio as the SDK's TraceIDRatioBased uses it: a trace is kept when
// the low 8 bytes of its id, shifted right by one, are below it.
func (s Sampling) bound() uint64 {
	switch {
	case s.Ratio >= 1:
		return math.MaxUint64
	case s.Ratio > 0:
		return uint64(s.Ratio * (1 << 63))
	}
	return 0
}
