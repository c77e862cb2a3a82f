package probe

import (
	"testing"

	"github.com/cilium/ebpf/btf"
)

func TestEpochOffset(t *testing.T) {
	u32 := &btf.Int{Name: "__u32", Size: 4}
	u64 := &btf.Int{Name: "__u64", Size: 8}
	own := &btf.Struct{Name: "op", Size: 16, Members: []btf.Member{
		{Name: "req", Type: u64}, {Name: "epoch", Type: &btf.Typedef{Name: "u32", Type: u32}, Offset: 64},
	}}
	nested := &btf.Struct{Name: "op", Size: 40, Members: []btf.Member{
		{Name: "first", Type: u64}, {Name: "call", Type: own, Offset: 128},
	}}
	loop := &btf.Struct{Name: "loop", Size: 8}
	loop.Members = []btf.Member{{Name: "self", Type: loop}}
	for _, c := range []struct {
		name  string
		value btf.Type
		want  uint32
		found bool
	}{
		{"own member", own, 8, true},
		{"member of a struct in it", nested, 24, true},
		{"no struct", u64, 0, false},
		{"unknown type", nil, 0, false},
		{"another width", &btf.Struct{Members: []btf.Member{{Name: "epoch", Type: u64}}}, 0, false},
		{"a struct in itself", loop, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := epochOffset(c.value, 0)
			if got != c.want && ok || ok != c.found {
				t.Errorf("got %d, %v, want %d, %v", got, ok, c.want, c.found)
			}
		})
	}
}
