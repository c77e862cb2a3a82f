package probe

import (
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// ID is the number that marks a probe's records in the shared ring buffer.
type ID uint16

// MaxID bounds the ids: MAX_PROBES in bpf/lib/event.h.
const MaxID ID = 31

// SiteKind is the way a site is found.
type SiteKind uint8

const (
	// Entry is the cheapest instruction at which all arguments are still in
	// their ABIInternal registers and which runs once per call.
	Entry SiteKind = iota
	// CallSite is the call instruction itself: the callee's arguments are in their
	// registers.
	CallSite
	// AfterCall is an emulated instruction after a call in Funcs to one of
	// Callees at which the call's results can still be read.
	AfterCall
	// AfterNthCall is AfterCall for call number Nth alone.
	AfterNthCall
	// OnError is where Funcs goes only when its call of one of Callees has returned an
	// error, which is the last two of the Results words.
	OnError
	// Guard is the conditional jump in the last of Funcs that decides whether it calls one
	// of Callees; where there is none, the Entry of the first of Funcs.
	Guard
)

// Site says where in a function a program sits; the address is computed from
// the real binary by goexe.
type Site struct {
	Kind SiteKind
	// Funcs are candidate function names; the first that exists is used.
	Funcs []string
	// Callees: for AfterCall the candidate callees. For Entry, if set, the site
	// is not in Funcs itself but in its closure that calls one of Callees.
	Callees []string
	// Closure: an AfterCall site, too, is in the closure of Funcs that calls one of Callees.
	Closure bool
	// Nth is which of the calls, by address (CallSite, AfterNthCall); the program must be
	// able to tell them apart.
	Nth int
	// Args is how many argument words the program reads (Entry); 0: all of them.
	// Before Go 1.21, fewer may allow a cheaper instruction.
	Args int
	// Results is how many integer result words must be readable (AfterCall, OnError).
	Results int
}

// Point is one attach point of a probe.
type Point struct {
	// Name is the point's short, stable name, used in metrics and by check.
	Name string
	// Program is the BPF program's name in the collection.
	Program string
	Site    Site
	// Group names points that are attached together or not at all. A probe
	// attaches when at least one of its groups can.
	Group string
	// Lazy points are placed at once but attached only on the decoder's request
	// (DecoderEnv.SetPoint).
	Lazy bool
	// Writes: the program changes the target's memory. Such points only exist in
	// memory mode, on kernels that allow it.
	Writes bool
	// Optional: the group attaches without it; Lost says what is not seen then.
	Optional bool
	Lost     string
	// Needed: what other programs of the group do, once it is found in an executable, holds
	// only while this one is there. The group does not attach without it; it is taken off
	// after the others, and put on before those that are listed before it.
	Needed bool
	// MinGo and MaxGo bound the Go minor versions (18 = Go 1.18) it is for; 0 = open.
	MinGo, MaxGo int
}

// Spec declares a probe.
type Spec struct {
	ID   ID
	Name string
	Doc  string
	// Points, in groups; see Point.Group.
	Points []Point
	Groups []Group
	// Fields are all struct offsets the probe can make use of; which of them a
	// group cannot do without is said by Group.Check.
	Fields []goexe.Field
	// Optional are modules of Fields that the probe can do without when their versions are
	// not known: groups that need them refuse themselves by their Check.
	Optional []string
	// Functions are further names that Check asks Placed.Exe for: they are looked for in the
	// same pass as those of Points.
	Functions []string
	// Table is the probe's embedded table of known offsets.
	Table func() (*offsets.Table, error)
	// Load returns the probe's collection spec.
	Load func() (*ebpf.CollectionSpec, error)
	// InFlight are the maps that hold operations in flight.
	InFlight []InFlight
	// Counters name a map of counters and what each of its values counts.
	Counters *Counters
	// Prepare sets what is known at load time, before the programs are loaded.
	Prepare func(*ebpf.CollectionSpec) error
	// AttachExe writes what the programs must know of an executable into the
	// probe's maps, before the first process of it is let in.
	AttachExe func(*ebpf.Collection, *Placed) error
	// DetachExe takes what AttachExe wrote out of maps that are keyed by executable;
	// nil if overwriting is enough.
	DetachExe func(*ebpf.Collection, uint32)
	// Propagation says how traces of an executable's calls are handed on; nil if the
	// probe hands none on.
	Propagation func(*Placed) *Propagation
	// NewDecoder returns a decoder whose state belongs to the caller.
	NewDecoder func(DecoderEnv) Decoder
}

// Propagation is what a probe does in an executable to hand traces on.
type Propagation struct {
	// Written names the kinds of requests that get a header in the program's memory;
	// Refused are those that do not, with the reason.
	Written []string
	Refused []error
	// Joined: both ends of a connection on this host are joined.
	Joined bool
}

// with adds what another probe does in the executable; p may be nil.
func (p *Propagation) with(other *Propagation) *Propagation {
	if p == nil {
		return other
	}
	return &Propagation{
		Written: slices.Concat(p.Written, other.Written), Refused: slices.Concat(p.Refused, other.Refused),
		Joined: p.Joined || other.Joined,
	}
}

// Counters is an array map of counters that become one metric.
type Counters struct {
	Map, Metric, Help string
	// Labels are mode and outcome of each value, by index.
	Labels [][2]string
}

// InFlight is a map of operations in flight, keyed by struct tr_gokey. Its size is
// a setting, and the entries of processes that ended are deleted.
type InFlight struct {
	Map string
	// Active is the up-down counter that says how many of its entries a process has, as
	// far as they are open; nil if nobody wants to know. An entry is open unless its
	// value has a member "open" of two bytes that is 0.
	Active *telemetry.Instrument
	// Forgotten names the variable that counts the entries deleted by user space,
	// "" if the programs do not ask.
	Forgotten string
	// MaxAge: an entry that is older is deleted and counted as lost, because its end will
	// not come or has not been seen. 0: the ends of all are seen, and only what is kept for
	// a next operation is taken away, when the room is needed.
	MaxAge time.Duration
	// Note: the entries are notes for programs that write into their process, and no
	// operations: none is lost with one, and none is taken away before its MaxAge from a
	// program that may be writing by it.
	Note bool
	// Ended makes what is still to be said of an entry that user space deletes: a process
	// has ended, or is no longer watched. nil: nothing.
	Ended func(value []byte) *telemetry.Operation
}

// CallMaxAge is the MaxAge of calls: what a program waits for so long is not missed.
const CallMaxAge = time.Hour

// NoteMaxAge is the MaxAge of notes: twice WRITE_WITHIN_NS of bpf/lib/inject.h, so that
// nobody writes by one that is deleted.
const NoteMaxAge = time.Minute

// Group is a set of points that only make sense together.
type Group struct {
	Name string
	// What says in words what the group sees.
	What string
	// Check returns an error when an offset is missing that the group needs. It may set
	// Placed.Lazy.
	Check func(*Placed) error
}

// Placed is what analysis found in one executable for one probe.
type Placed struct {
	ExeID   uint32
	Exe     *goexe.Exe
	Points  map[string]goexe.Point // by Point.Name; what could not be placed is absent
	Offsets map[goexe.Field]int64
	Source  goexe.OffsetSource
	// Groups holds the groups that attach; Refused why the others do not.
	Groups map[string]bool
	// Absent are the groups whose functions the program does not have.
	Absent  map[string]bool
	Refused map[string]error
	// Lazy are points that are attached on the decoder's request only, in this executable.
	Lazy map[string]bool
}

// IsLazy says that a point is attached on the decoder's request only.
func (p *Placed) IsLazy(pt Point) bool { return pt.Lazy || p.Lazy[pt.Name] }

// Offset returns a field's offset, or OffNone when the executable has no such field.
func (p *Placed) Offset(f goexe.Field) uint16 {
	if off, ok := p.Offsets[f]; ok && off >= 0 && off < OffNone {
		return uint16(off)
	}
	return OffNone
}

// OffNone marks an absent field: OFF_NONE in bpf/lib/goctx.h.
const OffNone = 0xffff

// DecoderEnv is what a decoder may ask of the world around it.
type DecoderEnv struct {
	// TypeName returns the name of a type of an executable, "" when unknown.
	TypeName func(exeID uint32, nameOff int32) string
	// Refuse takes the probe off an executable: what its offsets lead to is not sane.
	Refuse func(exeID uint32, reason string)
	// SetPoint attaches lazy points of an executable, or detaches any and attaches these
	// again, in this order; after one that cannot be the others are left.
	SetPoint func(exeID uint32, on bool, points ...string)
}

// Decoder turns records into operations. It is used by one goroutine.
type Decoder interface {
	// Decode calls emit for each finished operation in the record. The record's
	// bytes are only valid during the call.
	Decode(rec event.Record, emit func(*telemetry.Operation)) error
}
