package probe

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
)

func rt(typ, name string) goexe.Field { return goexe.Field{Module: "std", Type: typ, Name: name} }

// What bpf/lib/goctx.h reads of the Go runtime.
var (
	fGoid       = rt("runtime.g", "goid")
	fParentGoid = rt("runtime.g", "parentGoid")
	fGM         = rt("runtime.g", "m")
	fMCurg      = rt("runtime.m", "curg")
	fGPanic     = rt("runtime.g", "_panic")
	fGoexit     = rt("runtime._panic", "goexit")
	fMapUsed    = rt("internal/runtime/maps.Map", "used")
	fMapDirPtr  = rt("internal/runtime/maps.Map", "dirPtr")
	fMapDirLen  = rt("internal/runtime/maps.Map", "dirLen")
	fTabGroups  = rt("internal/runtime/maps.table", "groups")
	fGroupsData = rt("internal/runtime/maps.groupsReference", "data")
	fGroupsMask = rt("internal/runtime/maps.groupsReference", "lengthMask")
	fHmB        = rt("runtime.hmap", "B")
	fHmBuckets  = rt("runtime.hmap", "buckets")
	fHmOld      = rt("runtime.hmap", "oldbuckets")
)

// RuntimeFields are the fields of the Go runtime that the shared BPF code wants.
func RuntimeFields() []goexe.Field {
	return []goexe.Field{fGoid, fParentGoid, fGM, fMCurg, fGPanic, fGoexit, fMapUsed, fMapDirPtr,
		fMapDirLen, fTabGroups, fGroupsData, fGroupsMask, fHmB, fHmBuckets, fHmOld}
}

// typeStrOff is the offset of abi.Type.Str, the nameOff of a type's name: the
// same in Go 1.18 (runtime._type.str) to 1.27.
const typeStrOff = 40

// goExe mirrors struct tr_goexe in bpf/lib/goctx.h.
type goExe struct {
	TypesAddr     uint64
	AllGs         uint64
	GGoid         uint16
	GParentGoid   uint16
	GM            uint16
	MCurg         uint16
	GPanic        uint16
	PanicGoexit   uint16
	TypeStr       uint16
	Swiss         uint8
	Sane          uint8
	MapUsed       uint16
	MapDirPtr     uint16
	TabGroupsData uint16
	TabGroupsMask uint16
	HmB           uint16
	HmBuckets     uint16
	HmOldbuckets  uint16
	TimerPtr      uint8
	_             byte
}

// encodeRuntime builds the value of tr_goexes for an executable. noAncestors says why
// goroutines' ancestors further up than their starter are not found; nothing else is lost.
func encodeRuntime(exe *goexe.Exe, offs map[goexe.Field]int64) (data []byte, noAncestors, err error) {
	p := &Placed{Offsets: offs}
	var missing []string
	need := func(f goexe.Field) uint16 {
		off := p.Offset(f)
		if off == OffNone {
			missing = append(missing, f.Type+"."+f.Name)
		}
		return off
	}
	if x := mapExperiment(exe.GoVersion().Raw); x != "" {
		return nil, nil, fmt.Errorf("%w: built with GOEXPERIMENT=%s, whose maps have another layout", ErrRefused, x)
	}
	types, err := exe.TypesAddr()
	if err != nil {
		return nil, nil, err
	}
	g := goExe{
		TypesAddr:   types,
		GGoid:       need(fGoid),
		GParentGoid: p.Offset(fParentGoid),
		GM:          need(fGM),
		MCurg:       need(fMCurg),
		GPanic:      need(fGPanic),
		PanicGoexit: p.Offset(fGoexit),
		TypeStr:     typeStrOff,
	}
	if g.GParentGoid != OffNone {
		g.AllGs, noAncestors = exe.AllGs()
	} else {
		noAncestors = fmt.Errorf("%s does not keep who started a goroutine", exe.GoVersion())
	}
	if exe.GoVersion().Minor == 20 {
		g.TimerPtr = 1
	}
	if exe.GoVersion().Minor >= 24 {
		g.Swiss = 1
		g.MapUsed, g.MapDirPtr = need(fMapUsed), need(fMapDirPtr)
		if need(fMapDirLen) != g.MapDirPtr+8 {
			missing = append(missing, fMapDirLen.Type+" with dirLen behind dirPtr")
		}
		groups := need(fTabGroups)
		g.TabGroupsData, g.TabGroupsMask = groups+need(fGroupsData), groups+need(fGroupsMask)
	} else {
		g.HmB, g.HmBuckets, g.HmOldbuckets = need(fHmB), need(fHmBuckets), need(fHmOld)
	}
	if len(missing) > 0 {
		return nil, nil, fmt.Errorf("%w: offsets of %v are not known for %s", ErrRefused, missing, exe.GoVersion().Raw)
	}
	data, err = binary.Append(nil, binary.NativeEndian, &g)
	return data, noAncestors, err
}

// mapExperiment returns the experiments that change the layout of maps, of a version
// like "go1.24.1 X:noswissmap,jsonv2"; "" when there are none. The build info lists
// only what differs from the release's defaults.
func mapExperiment(version string) string {
	_, list, _ := strings.Cut(version, " X:")
	list, _, _ = strings.Cut(list, " ")
	var found []string
	for x := range strings.SplitSeq(list, ",") {
		if strings.Contains(x, "swissmap") || strings.Contains(x, "mapsplitgroup") {
			found = append(found, x)
		}
	}
	return strings.Join(found, ",")
}
