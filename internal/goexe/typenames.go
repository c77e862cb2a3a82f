package goexe

import "bytes"

const (
	maxTypesBytes  = 256 << 20 // of type data searched
	typesChunk     = 1 << 20
	maxNameOffsets = 8 // occurrences kept per name
)

// TypeNameOffsets searches the type data for names as abi.Type.Str stores them
// ("*net.OpError" stands for the type and for its pointer) and returns their
// nameOffs, which are relative to TypesAddr. A name that the program does not have
// is missing from the result. Names are at most 127 bytes.
func (e *Exe) TypeNameOffsets(names []string) (found map[string][]int32, err error) {
	defer recovered(&err)
	start, err := e.TypesAddr()
	if err != nil {
		return nil, err
	}
	size := e.mod.etypes - start
	if e.mod.etypes < start || size > maxTypesBytes {
		return nil, corrupt("type data from 0x%x to 0x%x", start, e.mod.etypes)
	}
	want := map[string]bool{}
	longest := 0
	for _, n := range names {
		if len(n) > 1 && len(n) < 128 {
			want[n] = true
			longest = max(longest, len(n))
		}
	}
	found = map[string][]int32{}
	buf := make([]byte, typesChunk)
	for at := uint64(0); at < size; {
		n := min(uint64(len(buf)), size-at)
		if err := e.im.memory(buf[:n], start+at); err != nil {
			return nil, err
		}
		searchNames(buf[:n], int64(at), want, found)
		if n < uint64(len(buf)) {
			break
		}
		at += n - uint64(longest+2) // a name may straddle two chunks
	}
	return found, nil
}

// searchNames adds the wanted names in buf, whose first byte is at base. A name is a
// flag byte, a length of one byte, and the bytes; all wanted ones begin with '*'.
func searchNames(buf []byte, base int64, want map[string]bool, found map[string][]int32) {
	for i := 0; i < len(buf); i++ {
		j := bytes.IndexByte(buf[i:], '*')
		if j < 0 {
			return
		}
		i += j
		if i < 2 {
			continue
		}
		n := int(buf[i-1])
		if n > len(buf)-i || n > 127 || !want[string(buf[i:i+n])] {
			continue
		}
		name, off := string(buf[i:i+n]), int32(base+int64(i)-2)
		have := found[name]
		if len(have) > 0 && have[len(have)-1] == off || len(have) >= maxNameOffsets {
			continue
		}
		found[name] = append(have, off)
	}
}
