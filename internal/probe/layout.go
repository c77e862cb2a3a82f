package probe

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
)

// Std names a field of the standard library.
func Std(typ, name string) goexe.Field { return goexe.Field{Module: "std", Type: typ, Name: name} }

// Need is for Group.Check: an error that names those of the fields whose offsets are not
// known, and what for, "" to leave that out.
func (p *Placed) Need(fields []goexe.Field, what string) error {
	var missing []string
	for _, f := range fields {
		if p.Offset(f) == OffNone {
			missing = append(missing, f.String())
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if what != "" {
		what = " for " + what
	}
	return fmt.Errorf("%w: offsets of %v are not known%s", ErrRefused, missing, what)
}

// OnlyName returns the offset of a type's name if there is exactly one, else 0: of two
// types of one name nobody can say which is meant.
func OnlyName(offs []int32) int32 {
	if len(offs) == 1 {
		return offs[0]
	}
	return 0
}

// PutExe is for Spec.AttachExe: it writes what the programs must know of an executable, a
// struct of fixed size, into a map by its id.
func PutExe(m *ebpf.Map, exeID uint32, v any) error {
	raw, err := binary.Append(nil, binary.NativeEndian, v)
	if err != nil {
		return err
	}
	if err := m.Put(exeID, raw); err != nil {
		return fmt.Errorf("write offsets: %w", err)
	}
	return nil
}
