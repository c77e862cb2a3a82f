package probe

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/goerror"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
)

// errKey mirrors struct tr_errkey.
type errKey struct {
	ExeID    uint32
	TypeName int32
}

// putErrTypes tells the programs where in an executable's types those are that wrap
// another error, so that they can follow a chain.
func putErrTypes(m *ebpf.Map, exeID uint32, exe *goexe.Exe) error {
	names := make([]string, 0, len(goerror.Wrappers))
	for n := range goerror.Wrappers {
		names = append(names, "*"+n) // how the name is stored, for the type and for its pointer
	}
	slices.Sort(names)
	found, err := exe.TypeNameOffsets(names)
	if err != nil {
		return nil // errors go by their outermost type then
	}
	for name, offs := range found {
		for _, off := range offs {
			if err := m.Put(errKey{exeID, off}, goerror.Wrappers[name[1:]]); err != nil {
				return fmt.Errorf("write error types: %w", err)
			}
		}
	}
	return nil
}

// dropErrTypes takes an executable's error types out: its number will be another's.
func dropErrTypes(m *ebpf.Map, exeID uint32) {
	var (
		key  errKey
		val  uint32
		gone []errKey
	)
	for it := m.Iterate(); it.Next(&key, &val); {
		if key.ExeID == exeID {
			gone = append(gone, key)
		}
	}
	for _, k := range gone {
		_ = m.Delete(k) // gone already is as good
	}
}

// TflagExtraStar is abi.TFlagExtraStar: the stored name has a star too many.
const TflagExtraStar = 1 << 1

// ErrTypeName returns the name of an error's dynamic type, as struct tr_errtype has it.
func (env DecoderEnv) ErrTypeName(exeID uint32, nameOff int32, tflag uint8) string {
	name := env.TypeName(exeID, nameOff)
	if tflag&TflagExtraStar != 0 && name != "" && name[0] == '*' {
		return name[1:]
	}
	return name
}

// ErrsLen is the size of struct tr_errs of bpf/lib/goerr.h in bytes.
const ErrsLen = errLevels*8 + 24

// errLevels is ERR_LEVELS.
const errLevels = 5

// ErrorInfo resolves a struct tr_errs of at least ErrsLen bytes; text are the bytes of
// the innermost error's string, if it was taken along.
func (env DecoderEnv) ErrorInfo(exeID uint32, raw, text []byte) goerror.Info {
	ne := binary.NativeEndian
	raw = raw[:ErrsLen]
	b := raw[errLevels*8:]
	info := goerror.Info{Raw: [2]uint64{ne.Uint64(b), ne.Uint64(b[8:])}, Text: string(text)}
	for i := range min(int(ne.Uint32(b[16:])), errLevels) {
		info.Types = append(info.Types, env.ErrTypeName(exeID, int32(ne.Uint32(raw[i*8:])), raw[i*8+4]))
	}
	return info
}
