package goruntime

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// errImplausible says that what was read cannot be: the layout is another one.
var errImplausible = errors.New("values of the runtime are not plausible")

// stats are the runtime's values at one moment.
type stats struct {
	goroutines, procs     uint64
	gogc                  int32  // -1: off
	limit, goal           uint64 // 0: none, not known
	used, stacks, heap    uint64 // bytes
	allocated, allocCount uint64
	cycles                uint64
	pauseNs               uint64
}

// reader reads one process. It is not safe for concurrent use.
type reader struct {
	l    *layout
	pid  int
	bias uint64

	scratch
}

// scratch is what one reading is put into; readers hand it round, one at a time.
type scratch struct{ mstats, again, controller, sched, procs []byte }

var spare = sync.Pool{New: func() any { return &scratch{} }}

// sized returns n bytes, of b's if it has them.
func sized(b []byte, n uint64) []byte {
	if uint64(cap(b)) < n {
		return make([]byte, n)
	}
	return b[:n]
}

func newReader(l *layout, pid int, bias uint64) *reader {
	return &reader{l: l, pid: pid, bias: bias}
}

// schedBytes is as much of runtime.sched as has the fields.
func schedBytes(l *layout) uint64 { return max(l.off["schedt.gFree"]+48, l.off["schedt.ngsys"]+4) }

// piece is memory of the process and where it goes.
type piece struct {
	to   []byte
	addr uint64
}

// maxPieces is what one system call takes (IOV_MAX).
const maxPieces = 1024

// fetch reads pieces in one system call; all or nothing.
func (r *reader) fetch(pieces ...piece) error {
	local, remote := make([]unix.Iovec, len(pieces)), make([]unix.RemoteIovec, len(pieces))
	want := 0
	for i, p := range pieces {
		if len(p.to) == 0 {
			return fmt.Errorf("%w: nothing to read", errImplausible)
		}
		local[i].Base = &p.to[0]
		local[i].SetLen(len(p.to))
		remote[i] = unix.RemoteIovec{Base: uintptr(p.addr + r.bias), Len: len(p.to)}
		want += len(p.to)
	}
	n, err := unix.ProcessVMReadv(r.pid, local, remote, 0)
	if err != nil {
		return fmt.Errorf("read memory of process %d: %w", r.pid, err)
	}
	if n != want {
		return fmt.Errorf("read memory of process %d: %d of %d bytes", r.pid, n, want)
	}
	return nil
}

// read returns the values of this moment.
func (r *reader) read() (stats, error) {
	mem := spare.Get().(*scratch)
	defer func() {
		*mem, r.scratch = r.scratch, scratch{}
		spare.Put(mem)
	}()
	r.scratch = *mem
	r.mstats, r.again = sized(r.mstats, r.l.off["mstats.(size)"]), sized(r.again, r.l.off["mstats.(size)"])
	r.controller, r.sched = sized(r.controller, r.l.off["gcControllerState.(size)"]), sized(r.sched, schedBytes(r.l))
	var allp [24]byte
	var allglen [8]byte
	var gomaxprocs [4]byte
	l := r.l
	err := r.fetch(piece{r.mstats, l.mstats}, piece{r.controller, l.controller}, piece{r.sched, l.sched},
		piece{allp[:], l.allp}, piece{allglen[:], l.allglen}, piece{gomaxprocs[:], l.gomaxprocs}, piece{r.again, l.mstats})
	if err != nil {
		return stats{}, err
	}
	var s stats
	s.procs = uint64(binary.LittleEndian.Uint32(gomaxprocs[:]))
	if s.procs == 0 || s.procs > maxProcs || binary.LittleEndian.Uint64(allp[8:]) < s.procs {
		return s, fmt.Errorf("%w: GOMAXPROCS %d", errImplausible, s.procs)
	}
	if s.goroutines, err = r.goroutines(binary.LittleEndian.Uint64(allglen[:]), binary.LittleEndian.Uint64(allp[:]), s.procs); err != nil {
		return s, err
	}
	r.heap(&s)
	r.gc(&s)
	return s, s.plausible()
}

// goroutines is runtime.gcount as the release's runtime/metrics has it: all of them but
// the dead ones.
func (r *reader) goroutines(all, allp, procs uint64) (uint64, error) {
	free := r.l.off["schedt.gFree"]
	n := int64(all)
	if r.l.minor >= 25 { // lock, stack gList{head, size}, noStack gList
		n -= i32(r.sched, free+16) + i32(r.sched, free+32)
	} else { // lock, stack, noStack gList, n
		n -= i32(r.sched, free+24)
	}
	if r.l.minor < 26 { // since then the runtime's own are counted, too
		n -= i32(r.sched, r.l.off["schedt.ngsys"])
	}
	r.procs = sized(r.procs, procs*16)
	// Pointers of the process, to which fetch adds the bias.
	pointers := r.procs[:procs*8]
	if err := r.fetch(piece{pointers, allp - r.bias}); err != nil {
		return 0, err
	}
	counts, ids := r.procs[procs*8:procs*12], r.procs[procs*12:procs*16]
	pieces := make([]piece, 2*procs)
	for i := range procs {
		p := binary.LittleEndian.Uint64(pointers[i*8:])
		pieces[2*i] = piece{counts[i*4 : i*4+4], p - r.bias + r.l.off["p.gFree"] + 8}
		pieces[2*i+1] = piece{ids[i*4 : i*4+4], p - r.bias} // p.id is the first field
	}
	for some := range slices.Chunk(pieces, maxPieces) {
		if err := r.fetch(some...); err != nil {
			return 0, err
		}
	}
	for i := range procs {
		if id := i32(ids, i*4); id != int64(i) {
			return 0, fmt.Errorf("%w: processor %d calls itself %d", errImplausible, i, id)
		}
		n -= i32(counts, i*4)
	}
	if all > 1<<31 || n > int64(all) {
		return 0, fmt.Errorf("%w: %d goroutines of %d", errImplausible, n, all)
	}
	return uint64(max(n, 1)), nil
}

// heap reads the allocator's statistics. The runtime keeps them in three parts, which
// it now and then adds up into one; a moment later it clears what it has added, so
// that of two readings the lower one counts.
func (r *reader) heap(s *stats) {
	a, b := r.sumHeap(r.mstats), r.sumHeap(r.again)
	if b.allocated < a.allocated {
		a = b
	}
	s.used, s.stacks = a.used, a.stacks
	if r.l.minor > 18 { // 1.18 counts some of it twice in between, and says so itself too late
		s.heap, s.allocated, s.allocCount = a.heap, a.allocated, a.allocCount
	}
	for _, f := range []string{"stacks_sys", "mspan_sys", "mcache_sys", "buckhash_sys", "gcMiscSys", "other_sys"} {
		s.used += u64(r.mstats, r.l.off["mstats."+f])
	}
}

func (r *reader) sumHeap(mstats []byte) (s stats) {
	l := r.l
	size := l.off["heapStatsDelta.(size)"]
	base := l.off["mstats.heapStats"] + l.off["consistentHeapStats.stats"]
	var freed uint64
	for part := range uint64(3) {
		d := mstats[base+part*size : base+(part+1)*size]
		s.used += u64(d, l.off["heapStatsDelta.committed"])
		s.stacks += u64(d, l.off["heapStatsDelta.inStacks"])
		s.allocated += u64(d, l.off["heapStatsDelta.largeAlloc"])
		s.allocCount += u64(d, l.off["heapStatsDelta.largeAllocCount"])
		freed += u64(d, l.off["heapStatsDelta.largeFree"])
		for c := range uint64(sizeClasses) {
			n := u64(d, l.off["heapStatsDelta.smallAllocCount"]+8*c)
			s.allocCount += n
			s.allocated += n * classSize[c]
			freed += u64(d, l.off["heapStatsDelta.smallFreeCount"]+8*c) * classSize[c]
		}
	}
	s.heap = s.allocated - freed
	return s
}

// gc reads what the garbage collector counts and plans.
func (r *reader) gc(s *stats) {
	off, c := r.l.off, r.controller
	s.cycles = uint64(binary.LittleEndian.Uint32(r.mstats[off["mstats.numgc"]:]))
	s.pauseNs = u64(r.mstats, off["mstats.pause_total_ns"])
	s.gogc = int32(binary.LittleEndian.Uint32(c[off["gcControllerState.gcPercent"]:]))
	limited := false
	if at, ok := off["gcControllerState.memoryLimit"]; ok {
		if v := u64(c, at); v < math.MaxInt64 {
			s.limit, limited = v, true
		}
	}
	if at, ok := off["gcControllerState.heapGoal"]; ok {
		s.goal = u64(c, at)
	} else if !limited { // with a limit the goal depends on much more
		// (*gcControllerState).heapGoalInternal
		const minRunway = 64 << 10
		s.goal = max(u64(c, off["gcControllerState.gcPercentHeapGoal"]), u64(c, off["gcControllerState.sweepDistMinTrigger"]))
		if t := u64(c, off["gcControllerState.triggered"]); t != math.MaxUint64 && s.goal < t+minRunway {
			s.goal = t + minRunway
		}
	}
	if s.goal == math.MaxUint64 {
		s.goal = 0 // GOGC=off
	}
}

// plausible refuses values that no process has: the layout would be another one.
func (s *stats) plausible() error {
	const tera = 1 << 40
	switch {
	case s.gogc < -1 || s.gogc > 100_000:
		return fmt.Errorf("%w: GOGC %d", errImplausible, s.gogc)
	case s.heap > 64*tera || s.stacks > tera || s.used > 64*tera || s.used == 0:
		return fmt.Errorf("%w: %d bytes used, %d in objects, %d in stacks", errImplausible, s.used, s.heap, s.stacks)
	case s.used < s.heap || s.used < s.stacks:
		return fmt.Errorf("%w: %d bytes used, of which %d in objects, %d in stacks", errImplausible, s.used, s.heap, s.stacks)
	case s.pauseNs > 1<<62 || s.cycles == 0 && s.pauseNs > 0:
		return fmt.Errorf("%w: %d ns of pauses in %d cycles", errImplausible, s.pauseNs, s.cycles)
	case s.goal != 0 && (s.goal < 1<<12 || s.goal > 64*tera):
		return fmt.Errorf("%w: heap goal of %d bytes", errImplausible, s.goal)
	}
	return nil
}

func u64(b []byte, off uint64) uint64 { return binary.LittleEndian.Uint64(b[off:]) }

func i32(b []byte, off uint64) int64 { return int64(int32(binary.LittleEndian.Uint32(b[off:]))) }
