package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// maxExes bounds the executables attached at one time: MAX_EXES in bpf/lib/procs.h.
const maxExes = 1024

// ManagerOptions configure a Manager.
type ManagerOptions struct {
	Logger *slog.Logger
	Specs  []*Spec
	// Emit takes finished operations; it must not block. Called by one goroutine at a time.
	Emit     func(*telemetry.Operation)
	Sampling Sampling
	// CountAll: operations that are not sampled make records, too, for metrics.
	CountAll bool
	// CountFull: those records are as full as the ones of spans.
	CountFull bool
	// MaxOverhead is the share of one CPU that probes may cost each watched process, on
	// average; what is dearest is shed beyond it. 0: no limit.
	MaxOverhead float64
	// WriteMemory loads the points that change a target's memory; they are attached to
	// executables of processes with HandMemory.
	WriteMemory bool
	// MaxInFlight bounds the operations in flight per kind on the machine; 0 = 4096.
	MaxInFlight int
	// ExactFor is how long every run of a program is counted before the counts are
	// estimates; 0 = half a minute.
	ExactFor time.Duration
	// RingBytes is the ring buffer's size, a power of two; 0 = 8 MiB.
	RingBytes int
	Metrics   *selfmetrics.Registry
	// OnRefuse is told when a running executable is taken out, from another goroutine.
	OnRefuse func(*Attached, error)
}

// Manager loads the probes' programs, each once, and attaches them to executables.
// Its methods may be called by several goroutines.
type Manager struct {
	opts  ManagerOptions
	log   *slog.Logger
	multi bool
	ring  *event.Reader
	runs  *runStats // nil: the kernel does not count

	governed *governed // nil: no limit
	traps    atomic.Pointer[trapCosts]

	secret uint64 // what ids are made with

	detaching *detacher

	procs, exeAuto, events, lost, goexes *ebpf.Map
	conns                                *ebpf.Map // nil: no probe announces connections
	errTypes                             *ebpf.Map // nil: no probe looks into errors
	colls                                map[string]*ebpf.Collection
	opens                                map[string]uint32 // likewise: where it says whether an entry is open
	active                               activeCounts
	starts                               map[string]uint32               // by map of operations in flight: where the start's time is
	aged                                 map[string]*atomic.Uint64       // by probe: operations that were aged out
	emitting                             sync.Mutex                      // guards opts.Emit
	epochs                               map[string]uint32               // by map of operations in flight: where the epoch is
	loading                              sync.Mutex                      // guards what follows, and the programs of colls
	parsed                               map[string]*ebpf.CollectionSpec // by probe, while programs are loaded from them
	loadErrs                             map[string]error                // by probe and program: the verifier is not asked twice
	runIndex                             map[string]int                  // by probe and program: in runs.totals()

	attaching  sync.Mutex // one analysis at a time: it bounds memory
	forgetting sync.Mutex
	mu         sync.Mutex
	byRef      map[refKey]*Attached
	byID       map[uint32]*Attached
	ids        []uint32 // free executable ids, least recently freed first

	jobs   chan func()
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

type refKey struct {
	dev uint32
	ino uint64
}

// NewManager makes the probes' maps and starts reading their records.
func NewManager(opts ManagerOptions) (*Manager, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.MaxInFlight == 0 {
		opts.MaxInFlight = 4096
	}
	if opts.RingBytes == 0 {
		opts.RingBytes = 8 << 20
	}
	if opts.Metrics == nil {
		opts.Metrics = selfmetrics.New()
	}
	if !opts.WriteMemory {
		opts.Specs = WithoutWrites(opts.Specs)
	}
	m := &Manager{
		opts:  opts,
		log:   opts.Logger,
		multi: haveUprobeMulti(),
		byRef: map[refKey]*Attached{},
		byID:  map[uint32]*Attached{},
		jobs:  make(chan func(), 256),

		detaching: newDetacher(),
		secret:    rand.Uint64(),
	}
	for i := range uint32(maxExes) {
		m.ids = append(m.ids, i)
	}
	if err := m.load(); err != nil {
		m.closeMaps()
		return nil, err
	}
	var err error
	if m.ring, err = event.NewReader(m.events); err != nil {
		m.closeMaps()
		return nil, err
	}
	m.aged = map[string]*atomic.Uint64{}
	for _, s := range opts.Specs {
		m.aged[s.Name] = new(atomic.Uint64)
	}
	m.registerMetrics()
	m.startGovernor()
	ctx, cancel := context.WithCancel(context.Background())
	m.ctx, m.cancel = ctx, cancel
	m.wg.Go(func() { m.read(ctx) })
	m.wg.Go(func() { m.work(ctx) })
	m.wg.Go(func() { m.age(ctx) })
	if m.runs != nil {
		m.wg.Go(func() { m.runs.run(ctx) })
	}
	if m.governed != nil {
		m.wg.Go(m.calibrate)
	}
	return m, nil
}

// WithoutWrites returns the specs without the points that write.
func WithoutWrites(specs []*Spec) []*Spec {
	out := make([]*Spec, len(specs))
	for i, s := range specs {
		c := *s
		writes := s.writeGroups()
		c.Points = slices.DeleteFunc(slices.Clone(s.Points), func(pt Point) bool { return writes[pt.Group] })
		c.Groups = slices.DeleteFunc(slices.Clone(s.Groups), func(g Group) bool { return writes[g.Name] })
		out[i] = &c
	}
	return out
}

// Maps returns the maps that process discovery fills.
func (m *Manager) Maps() (procs, exeAuto *ebpf.Map) { return m.procs, m.exeAuto }

// Conns returns the map in which clients announce their requests by connection.
func (m *Manager) Conns() *ebpf.Map { return m.conns }

// read decodes records until ctx is done and the ring is empty.
func (m *Manager) read(ctx context.Context) {
	defer m.ring.Close()
	decoders := map[uint16]Decoder{}
	records := map[uint16]*selfmetrics.Counter{}
	broken := map[uint16]*selfmetrics.Counter{}
	for _, s := range m.opts.Specs {
		env := DecoderEnv{TypeName: m.typeName, SetPoint: m.setPoint,
			Refuse: func(exeID uint32, reason string) { m.refuse(s, exeID, reason) }}
		decoders[uint16(s.ID)] = s.NewDecoder(env)
		records[uint16(s.ID)] = m.opts.Metrics.Records(s.Name)
		broken[uint16(s.ID)] = m.opts.Metrics.Lost(selfmetrics.DecodeError, s.Name)
	}
	unknown := m.opts.Metrics.Lost(selfmetrics.DecodeError, "unknown")
	handle := func(rec event.Record) {
		d, ok := decoders[rec.ProbeID]
		if !ok {
			unknown.Inc()
			return
		}
		records[rec.ProbeID].Inc()
		if err := d.Decode(rec, m.emit); err != nil {
			broken[rec.ProbeID].Inc()
		}
	}
	if err := m.ring.Run(ctx, handle, func(error) { unknown.Inc() }); err != nil {
		m.log.Error("reading records stopped; no further spans", "err", err)
	}
}

// work runs the slow requests of decoders, which must not wait for the kernel.
func (m *Manager) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case job := <-m.jobs:
			job()
		}
	}
}

// emit hands an operation on, for decoders and for what is forgotten without a record.
func (m *Manager) emit(op *telemetry.Operation) {
	m.emitting.Lock()
	defer m.emitting.Unlock()
	m.opts.Emit(op)
}

func (m *Manager) later(job func()) {
	select {
	case m.jobs <- job:
	default: // asked again by the next record
	}
}

func (m *Manager) attached(id uint32) *Attached {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byID[id]
}

func (m *Manager) typeName(id uint32, nameOff int32) string {
	a := m.attached(id)
	if a == nil {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.forgotten {
		return ""
	}
	name, err := a.Exe.TypeName(nameOff)
	if err != nil {
		return ""
	}
	return name
}

// refuse takes a probe off an executable and, when it was the last one there, the
// executable out.
func (m *Manager) refuse(s *Spec, id uint32, reason string) {
	a := m.attached(id)
	if a == nil {
		return
	}
	m.later(func() {
		if m.attached(id) != a {
			return
		}
		left, err := a.detachSpec(s)
		if err != nil {
			m.log.Warn("detaching", "exe", a.Ref.Path, "probe", s.Name, "err", err)
		}
		m.forgetSpec(s, a.ID)
		if left > 0 {
			m.log.Warn("probe taken off", "probe", s.Name, "exe", a.Ref.Path, "reason", reason)
			return
		}
		why := fmt.Errorf("%w: %s", ErrRefused, reason)
		m.Detach(a)
		if m.opts.OnRefuse != nil {
			m.opts.OnRefuse(a, why)
		}
	})
}

func (m *Manager) setPoint(id uint32, on bool, points ...string) {
	a := m.attached(id)
	if a == nil {
		return
	}
	m.later(func() {
		defer m.releaseParsed()
		for _, point := range points {
			if err := m.changePoint(a, point, on); err != nil {
				m.log.Warn("changing a probe point", "point", point, "attach", on, "err", err)
				return
			}
		}
	})
}

// changePoint takes a point off, or puts on one that is lazy or was taken off.
func (m *Manager) changePoint(a *Attached, point string, on bool) error {
	for _, s := range m.opts.Specs {
		for _, pt := range s.Points {
			if pt.Name != point || a.Placed[s.Name] == nil || !a.change(s, pt, on) {
				continue
			}
			if on {
				return m.attachPoint(a, s, pt)
			}
			return a.detachPoint(s.Name, point)
		}
	}
	return nil
}

// Attach analyses the executable and puts the probes on it, or returns the
// Attached it already is. Errors wrap ErrRefused, ErrNothingToDo, or goexe's, or are
// ref.Vet's.
func (m *Manager) Attach(ctx context.Context, ref ExeRef) (*Attached, error) {
	key := refKey{ref.Dev, ref.Ino}
	m.attaching.Lock()
	defer m.attaching.Unlock()
	m.mu.Lock()
	a, free := m.byRef[key], len(m.ids) > 0
	m.mu.Unlock()
	if a != nil {
		if err := ref.vet(a.Exe); err != nil {
			return nil, err
		}
		return a, nil
	}
	if !free {
		return nil, fmt.Errorf("%w: %d executables are instrumented already, the limit", ErrRefused, maxExes)
	}
	a, err := analyse(ref, m.opts.Specs)
	if err != nil {
		return nil, err
	}
	a.detaching = m.detaching
	m.holdWrites(a)
	m.mu.Lock()
	a.ID, m.ids = m.ids[0], m.ids[1:]
	m.byRef[key], m.byID[a.ID] = a, a
	m.mu.Unlock()
	err = m.install(ctx, a)
	m.releaseParsed()
	if err != nil {
		m.Detach(a)
		return nil, err
	}
	return a, nil
}

// Analyse places the probes in an executable without attaching anything.
func Analyse(path string, specs []*Spec) (*Attached, error) {
	return analyse(ExeRef{Path: path}, specs)
}

func analyse(ref ExeRef, specs []*Spec) (*Attached, error) {
	exe, err := goexe.Open(ref.Path)
	if err != nil {
		return nil, err
	}
	a := &Attached{Ref: ref, Exe: exe, Placed: map[string]*Placed{}}
	err = ref.vet(exe)
	if err == nil {
		err = analyseInto(a, specs)
	}
	if err != nil {
		return nil, errors.Join(err, exe.Close())
	}
	return a, nil
}

func analyseInto(a *Attached, specs []*Spec) error {
	if err := indexFuncs(a.Exe, specs); err != nil {
		return err
	}
	placeAll(a, specs)
	if !slices.ContainsFunc(slices.Collect(maps.Values(a.Placed)), func(p *Placed) bool {
		return len(p.Groups) > 0 || len(p.Refused) > 0
	}) {
		return ErrNothingToDo
	}
	offs, _, err := a.Exe.Offsets(RuntimeFields(), nil)
	if err != nil {
		return err
	}
	a.runtime, a.NoAncestors, err = encodeRuntime(a.Exe, offs)
	return err
}

// Detach takes the probes off an executable, waits until what they have said is decoded,
// which takes the executable, and forgets it.
func (m *Manager) Detach(a *Attached) {
	m.mu.Lock()
	if m.byRef[refKey{a.Ref.Dev, a.Ref.Ino}] != a {
		m.mu.Unlock()
		return
	}
	delete(m.byRef, refKey{a.Ref.Dev, a.Ref.Ino})
	m.mu.Unlock()
	_ = m.AutoSelect(a, false, 0) // gone already is as good
	m.dropProcesses(a.ID)
	if err := a.detachAll(); err != nil && !m.detaching.left.Load() {
		m.log.Warn("detaching", "exe", a.Ref.Path, "err", err)
	}
	m.ring.Drained()
	m.mu.Lock()
	delete(m.byID, a.ID)
	m.mu.Unlock()
	a.mu.Lock()
	a.forgotten = true
	a.Exe.Close()
	a.mu.Unlock()
	if m.errTypes != nil {
		dropErrTypes(m.errTypes, a.ID)
	}
	for _, s := range m.opts.Specs {
		if s.DetachExe != nil {
			s.DetachExe(m.colls[s.Name], a.ID)
		}
	}
	m.mu.Lock()
	m.ids = append(m.ids, a.ID)
	m.mu.Unlock()
}

// everything lists the executables that are instrumented.
func (m *Manager) everything() []*Attached {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.byID))
}

// Close detaches everything, decodes what is still in the ring, and frees the programs.
func (m *Manager) Close() error {
	var wg sync.WaitGroup
	for _, a := range m.everything() {
		wg.Go(func() { m.Detach(a) })
	}
	wg.Wait()
	m.cancel()
	m.wg.Wait()
	m.closeMaps()
	return nil
}
