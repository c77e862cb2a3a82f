package goruntime

import (
	_ "embed"
	"errors"
	"fmt"
	"sync"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
)

//go:embed offsets.json
var tableJSON []byte

var table = sync.OnceValues(func() (*offsets.Table, error) { return offsets.Parse(tableJSON) })

// sizeClasses is the number of size classes; what they are has not changed since 1.16
// (runtime/sizeclasses.go, later internal/runtime/gc/sizeclasses.go).
const sizeClasses = 68

var classSize = [sizeClasses]uint64{
	0, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 320, 352, 384, 416, 448, 480,
	512, 576, 640, 704, 768, 896, 1024, 1152, 1280, 1408, 1536, 1792, 2048, 2304, 2688, 3072, 3200, 3456, 4096, 4864, 5376,
	6144, 6528, 6784, 6912, 8192, 9472, 9728, 10240, 10880, 12288, 13568, 14336, 16384, 18432, 19072, 20480, 21760, 24576,
	27264, 28672, 32768,
}

// layout is where everything is in one executable: addresses are those of the link.
type layout struct {
	loadVaddr uint64
	pie       bool
	minor     int

	mstats, controller, sched, allp, allglen, gomaxprocs uint64
	off                                                  map[string]uint64 // "type.field" without "runtime."
}

var variables = []string{
	"runtime.memstats", "runtime.gcController", "runtime.sched", "runtime.allp", "runtime.allglen", "runtime.gomaxprocs",
}

// uses are what tells the variables of a stripped executable: functions of the runtime
// that every program has, and the fields that all supported versions of them refer to.
func uses(off map[string]uint64) map[string][]goexe.Use {
	at := func(fields ...string) (offs []uint64) {
		for _, f := range fields {
			offs = append(offs, off[f])
		}
		return offs
	}
	use := func(fn string, offs ...uint64) goexe.Use { return goexe.Use{Func: "runtime." + fn, Offsets: offs} }
	const pointer, length = 0, 8 // of a slice
	return map[string][]goexe.Use{
		"runtime.memstats": {
			use("(*mheap).init", at("mstats.mspan_sys", "mstats.mcache_sys", "mstats.gcMiscSys", "mstats.other_sys")...),
			use("gcMarkTermination", at("mstats.numgc", "mstats.pause_total_ns")...),
			use("(*mcache).refill", at("mstats.heapStats")...),
		},
		"runtime.gcController": {
			use("gcinit", at("gcControllerState.gcPercent")...),
			use("(*mcache).refill", 0), use("gcStart", 0), use("gcMark", 0), use("gcMarkDone", 0),
		},
		"runtime.sched": {
			use("gfget", at("schedt.gFree")...), use("gfput", at("schedt.gFree")...), use("gfpurge", at("schedt.gFree")...),
			use("newproc1", at("schedt.ngsys")...),
		},
		"runtime.allp": {
			use("procresize", pointer, length), use("stealWork", pointer, length),
			use("stopTheWorldWithSema", pointer, length), use("retake", pointer, length), use("gcMark", pointer, length),
		},
		// The length of all goroutines is read before the pointer to them.
		"runtime.allglen": {{Func: "runtime.forEachGRace", Offsets: []uint64{0}, First: true}, use("allgadd", 0)},
		"runtime.gomaxprocs": {
			use("gcBgMarkStartWorkers", 0), use("procresize", 0),
			use("stopTheWorldWithSema", 0), use("startTheWorldWithSema", 0), use("handoffp", 0),
		},
	}
}

// wanted are the fields; of those in optional, a version may have none.
var wanted = []string{
	"schedt.gFree", "schedt.ngsys", "p.gFree",
	"schedt.timeToRun", "schedt.stwTotalTimeGC", "mstats.gcPauseDist", "timeHistogram.underflow",
	"mstats.heapStats", "mstats.stacks_sys", "mstats.mspan_sys", "mstats.mcache_sys", "mstats.buckhash_sys",
	"mstats.gcMiscSys", "mstats.other_sys", "mstats.numgc", "mstats.pause_total_ns", "mstats.(size)",
	"consistentHeapStats.stats",
	"heapStatsDelta.committed", "heapStatsDelta.released", "heapStatsDelta.inStacks", "heapStatsDelta.largeAlloc",
	"heapStatsDelta.largeAllocCount", "heapStatsDelta.smallAllocCount", "heapStatsDelta.largeFree",
	"heapStatsDelta.largeFreeCount", "heapStatsDelta.smallFreeCount", "heapStatsDelta.(size)",
	"gcControllerState.gcPercent", "gcControllerState.(size)",
	"gcControllerState.memoryLimit", "gcControllerState.heapGoal", "gcControllerState.gcPercentHeapGoal",
	"gcControllerState.sweepDistMinTrigger", "gcControllerState.triggered",
}

var optional = map[string]bool{
	"gcControllerState.memoryLimit": true, "gcControllerState.heapGoal": true, "gcControllerState.gcPercentHeapGoal": true,
	"gcControllerState.sweepDistMinTrigger": true, "gcControllerState.triggered": true,
	"schedt.stwTotalTimeGC": true, "mstats.gcPauseDist": true,
}

// Bounds of what is read at once, and of struct sizes that are believed.
const (
	maxStruct = 64 << 10
	maxProcs  = 4096
)

// layoutOf finds everything, or says what is not known.
func layoutOf(exe *goexe.Exe) (*layout, error) {
	t, err := table()
	if err != nil {
		return nil, err
	}
	fields := make([]goexe.Field, 0, len(wanted))
	for _, name := range wanted {
		fields = append(fields, field(name))
	}
	found, source, err := exe.Offsets(fields, t)
	if err != nil {
		return nil, err
	}
	// The nearest release's may be others.
	if source == goexe.OffsetsNearest {
		return nil, fmt.Errorf("%w: %s is not a measured release", goexe.ErrNoOffsets, exe.GoVersion().Raw)
	}
	l := &layout{
		loadVaddr: exe.LoadVaddr(), pie: exe.PIE(), minor: exe.GoVersion().Minor,
		off: make(map[string]uint64, len(wanted)),
	}
	for _, name := range wanted {
		off, ok := found[field(name)]
		if !ok && !optional[name] {
			return nil, fmt.Errorf("%w: no field runtime.%s", goexe.ErrNoOffsets, name)
		}
		if ok {
			if off < 0 || off > maxStruct {
				return nil, fmt.Errorf("%w: runtime.%s at %d", goexe.ErrNoOffsets, name, off)
			}
			l.off[name] = uint64(off)
		}
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	addrs, err := exe.Vars(variables...)
	if errors.Is(err, goexe.ErrNoOffsets) {
		addrs, err = exe.FindVars(uses(l.off))
	}
	if err != nil {
		return nil, err
	}
	l.mstats, l.controller, l.sched = addrs["runtime.memstats"], addrs["runtime.gcController"], addrs["runtime.sched"]
	l.allp, l.allglen, l.gomaxprocs = addrs["runtime.allp"], addrs["runtime.allglen"], addrs["runtime.gomaxprocs"]
	return l, nil
}

// check makes sure that every field lies within what is read of its struct.
func (l *layout) check() error {
	delta := l.off["heapStatsDelta.(size)"]
	for _, c := range []struct {
		what     string
		end, max uint64
	}{
		{"mstats.heapStats", l.off["mstats.heapStats"] + l.off["consistentHeapStats.stats"] + 3*delta, l.off["mstats.(size)"]},
		{"mstats.pause_total_ns", l.off["mstats.pause_total_ns"] + 8, l.off["mstats.(size)"]},
		{"mstats.numgc", l.off["mstats.numgc"] + 4, l.off["mstats.(size)"]},
		{"mstats.other_sys", l.off["mstats.other_sys"] + 8, l.off["mstats.(size)"]},
		{"heapStatsDelta.smallAllocCount", l.off["heapStatsDelta.smallAllocCount"] + 8*sizeClasses, delta},
		{"heapStatsDelta.smallFreeCount", l.off["heapStatsDelta.smallFreeCount"] + 8*sizeClasses, delta},
		{"gcControllerState.triggered", l.off["gcControllerState.triggered"] + 8, l.off["gcControllerState.(size)"]},
	} {
		if c.end > c.max {
			return fmt.Errorf("%w: runtime.%s ends at %d of %d", goexe.ErrNoOffsets, c.what, c.end, c.max)
		}
	}
	_, ofSched := l.off["schedt.stwTotalTimeGC"]
	_, ofStats := l.off["mstats.gcPauseDist"]
	buckets := uint64(160) // runtime.timeHistogram
	if l.minor < 20 {
		buckets = 720
	}
	if got := l.off["timeHistogram.underflow"] / 8; ofSched == ofStats || got != buckets {
		return fmt.Errorf("%w: runtime.timeHistogram has %d buckets, want %d", goexe.ErrNoOffsets, got, buckets)
	}
	return nil
}

func field(name string) goexe.Field {
	for i := range name {
		if name[i] == '.' {
			return goexe.Field{Module: "std", Type: "runtime." + name[:i], Name: name[i+1:]}
		}
	}
	return goexe.Field{}
}
