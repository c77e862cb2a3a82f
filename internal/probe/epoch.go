package probe

import "github.com/cilium/ebpf/btf"

// maxNesting bounds the structs in structs in which an epoch is looked for.
const maxNesting = 4

// epochOffset finds, in the value of a map of operations in flight, the epoch of the
// program that began the operation (tr_proc.epoch): the first member of that name, the
// value's own or one of a struct in it.
func epochOffset(value btf.Type, nesting int) (uint32, bool) {
	return memberOffset(value, "epoch", 4, nesting)
}

// OpenOffset returns where a map's values say, in two bytes, whether their operation is in
// flight; those of 0 are kept for a next one.
func OpenOffset(value btf.Type) (uint32, bool) { return memberOffset(value, "open", 2, 0) }

// memberOffset finds the first member of a name, which must be of a size.
func memberOffset(value btf.Type, name string, size, nesting int) (uint32, bool) {
	if value == nil || nesting > maxNesting {
		return 0, false
	}
	s, ok := btf.UnderlyingType(value).(*btf.Struct)
	if !ok {
		return 0, false
	}
	for _, m := range s.Members {
		if m.Name == name {
			n, err := btf.Sizeof(m.Type)
			return m.Offset.Bytes(), err == nil && n == size
		}
		if at, ok := memberOffset(m.Type, name, size, nesting+1); ok {
			return m.Offset.Bytes() + at, true
		}
	}
	return 0, false
}
