package goexe

import (
	"errors"
	"fmt"

	"github.com/tracer-agent/tracer-agent/internal/offsets"
)

// Offsets returns the byte offsets of fields in this executable's structs: from
// table (then the runtime's own) if every version is exactly known, else from
// the executable's debug information in one pass, else from the nearest known
// release of the same minor. A field that its version is known not to have, or
// whose module is not in the build, is missing from the map. The source is the
// least sure one that was used. The error wraps ErrNoOffsets or ErrCorrupt.
func (e *Exe) Offsets(fields []Field, table *offsets.Table) (map[Field]int64, OffsetSource, error) {
	out := make(map[Field]int64, len(fields))
	var open []Field // not exactly known
	near := make(map[Field]int64)
	for _, f := range fields {
		version, exact, ok := e.moduleVersion(f.Module)
		if !ok {
			continue
		}
		off, match := table.Lookup(f.Module, version, f.Type, f.Name)
		if match == offsets.None {
			off, match = e.runtime.Lookup(f.Module, version, f.Type, f.Name)
		}
		switch {
		case match == offsets.Exact && exact:
			put(out, f, off)
		default:
			open = append(open, f)
			if match != offsets.None {
				near[f] = off
			}
		}
	}
	if len(open) == 0 {
		return out, OffsetsTable, nil
	}
	found, dwarfErr := e.DWARFOffsets(open)
	if dwarfErr == nil && len(found) > 0 {
		for f, off := range found {
			out[f] = off
		}
		return out, OffsetsDWARF, nil
	}
	if dwarfErr != nil && !errors.Is(dwarfErr, ErrNoOffsets) && len(near) < len(open) {
		return nil, OffsetsNone, dwarfErr
	}
	var unknown []Field
	for _, f := range open {
		off, ok := near[f]
		if !ok {
			unknown = append(unknown, f)
			continue
		}
		put(out, f, off)
	}
	if len(unknown) > 0 {
		version, _, _ := e.moduleVersion(unknown[0].Module)
		return nil, OffsetsNone, fmt.Errorf("%w: %s %s has no debug information and is not a known release; %d fields missing: %s",
			ErrNoOffsets, unknown[0].Module, version, len(unknown), describe(unknown))
	}
	return out, OffsetsNearest, nil
}

func put(m map[Field]int64, f Field, off int64) {
	if off != offsets.Absent {
		m[f] = off
	}
}

// moduleVersion returns the version that decides the offsets of a module's
// structs, and whether it is what it says: not a fork, a development version or
// a toolchain with experiments.
func (e *Exe) moduleVersion(module string) (version string, exact, ok bool) {
	if module == "std" {
		v := e.version
		return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch), v.Pre == "" && !v.experiment(), true
	}
	for _, d := range e.info.Deps {
		if d.Path != module {
			continue
		}
		if d.Replace != nil {
			return d.Replace.Version, d.Replace.Path == module, true
		}
		return d.Version, true, true
	}
	version, ok = e.Module(module)
	return version, false, ok
}
