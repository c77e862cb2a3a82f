package probe

import "github.com/cilium/ebpf/btf"

// maxNesting bounds the structs in structs in which an epoch is looked for.
const maxNesting = 4

// epochOffset finds, in the value of a map of operations in flight, the epoch of the
// program that began the operation (tr_proc.epoch): the first member of that name, the
// value's own or one of a struct in it.
func epochOffset(value btf.Type, nesting int) (uint32, bool) {
	if value == nil || nesting > maxNesting {
		return 0, false
	}
	s, ok := btf.UnderlyingType(value).(*btf.Struct)
	if !ok {
		return 0, false
	}
	for _, m := range s.Members {
		if m.Name == "epoch" {
			size, err := btf.Sizeof(m.Type)
			return m.Offset.Bytes(), err == nil && size == 4
		}
		if at, ok := epochOffset(m.Type, nesting+1); ok {
			return m.Offset.Bytes() + at, true
		}
	}
	return 0, false
}
