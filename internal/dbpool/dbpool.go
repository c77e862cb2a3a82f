package dbpool

import (
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const (
	maxProcesses = 8192
	// maxPools bounds the pools of one process; the least recently used one gives way.
	maxPools = 64
	// idleFor is how long a pool is kept that no call has used: nothing says that it was
	// closed, and its memory may be another's by then.
	idleFor = 10 * time.Minute
	// maxConns: more are not sane.
	maxConns = 1 << 20
)

// What stands for a number that a library does not keep.
const (
	Unknown = -1
	Told    = -2 // as Stats.Waits: calls tell, see Registry.Waited
)

// Stats are the numbers of a pool at one moment.
type Stats struct {
	Open, Idle int64 // connections; those that are not idle are in use
	Max        int64 // 0: no limit
	Pending    int64 // callers that wait for a connection
	// Totals since the pool was made; Unknown or 0 where the library does not count.
	Waits, Timeouts int64
	WaitTime        time.Duration
	Closed          bool
}

func (s *Stats) sane() bool {
	ok := func(n int64) bool { return n >= Unknown && n <= maxConns }
	// Idle and Open are not read in one moment, nor changed in one.
	return ok(s.Open) && ok(s.Idle) && s.Max >= 0 && ok(s.Pending) && s.Waits >= Told && s.Timeouts >= Unknown &&
		s.WaitTime >= Unknown
}

// Layout reads the pool at an address.
type Layout func(m Memory, at uint64) (Stats, error)

// Lib is one library in one executable.
type Lib struct {
	Exe  uint32
	Name string
}

var (
	count = &telemetry.Instrument{Name: "db.client.connection.count", Unit: "{connection}", Kind: telemetry.UpDownCounter,
		Description: "Connections of a pool, by state: idle or used."}
	limit = &telemetry.Instrument{Name: "db.client.connection.max", Unit: "{connection}", Kind: telemetry.UpDownCounter,
		Description: "Most connections that a pool may have open; absent without a limit."}
	pending = &telemetry.Instrument{Name: "db.client.connection.pending_requests", Unit: "{request}", Kind: telemetry.UpDownCounter,
		Description: "Callers that wait for a connection."}
	timeouts = &telemetry.Instrument{Name: "db.client.connection.timeouts", Unit: "{timeout}", Kind: telemetry.Counter,
		Description: "Callers that gave up waiting for a connection."}
	waits = &telemetry.Instrument{Name: "db.client.connection.waits", Unit: "{wait}", Kind: telemetry.Counter,
		Description: "Callers that had to wait for a connection."}
	waitTime = &telemetry.Instrument{Name: "db.client.connection.wait_duration", Unit: "s", Kind: telemetry.Counter,
		Description: "Time that callers waited for a connection, all together."}
)

// Registry knows the pools of all watched processes. It implements metrics.Source. A nil
// Registry knows none.
type Registry struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	layouts map[Lib]Layout
	procs   map[telemetry.ProcessKey]map[poolKey]*pool
	// What calls told of waiting, by the names of pools, of which several may have one. A
	// counter does not fall, so that this stays until the process ends.
	waited map[telemetry.ProcessKey]map[attribute.Distinct]waited
}

// waited is how often and how long callers have waited.
type waited struct {
	name  attribute.Set
	times int64
	d     time.Duration
}

type poolKey struct {
	lib Lib
	at  uint64
}

type pool struct {
	layout     Layout
	idle, used attribute.Set
	name       attribute.Set
	lastUsed   time.Time
	sticky     bool
	bad        int // readings in a row that were not sane
	ignored    bool
}

var _ metrics.Source = (*Registry)(nil)

// New returns an empty registry.
func New(log *slog.Logger) *Registry {
	return &Registry{
		log: log, now: time.Now, layouts: map[Lib]Layout{}, procs: map[telemetry.ProcessKey]map[poolKey]*pool{},
		waited: map[telemetry.ProcessKey]map[attribute.Distinct]waited{},
	}
}

// Learn says how a library's pools are read in an executable; with a nil layout, why
// they cannot be. The number of an executable is used again, so that it is told each time.
func (r *Registry) Learn(lib Lib, l Layout, exe string, why error) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if l == nil {
		delete(r.layouts, lib)
		r.log.Info("connection pools are not read", "exe", exe, "library", lib.Name, "reason", why)
		return
	}
	r.layouts[lib] = l
}

// Known says that a call was made with a pool. False: describe it with Add.
func (r *Registry) Known(key telemetry.ProcessKey, lib Lib, at uint64) bool {
	if r == nil || at == 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.procs[key][poolKey{lib, at}]
	if p == nil {
		return r.layouts[lib] == nil
	}
	p.lastUsed = r.now()
	return true
}

// Pool describes one to Add.
type Pool struct {
	// Name is unlike that of the program's other pools.
	Name string
	// Sticky pools stay until they are closed: no call says that they are in use.
	Sticky bool
	// Ignore: it is no pool; it is only remembered that this was found out.
	Ignore bool
}

// Add makes a pool known.
func (r *Registry) Add(key telemetry.ProcessKey, lib Lib, at uint64, d Pool) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	layout := r.layouts[lib]
	if layout == nil {
		return
	}
	of := r.procs[key]
	if of == nil {
		if len(r.procs) >= maxProcesses {
			clear(r.procs) // what is in use comes again
			clear(r.waited)
		}
		of = map[poolKey]*pool{}
		r.procs[key] = of
	}
	if len(of) >= maxPools {
		forgetOldest(of)
	}
	name := semconv.DBClientConnectionPoolName(d.Name)
	of[poolKey{lib, at}] = &pool{
		layout: layout, lastUsed: r.now(), sticky: d.Sticky, ignored: d.Ignore,
		name: attribute.NewSet(name), idle: attribute.NewSet(name, semconv.DBClientConnectionStateIdle),
		used: attribute.NewSet(name, semconv.DBClientConnectionStateUsed),
	}
}

// Waited adds to what callers have waited for connections of a pool that is known and whose
// library does not count that.
func (r *Registry) Waited(key telemetry.ProcessKey, lib Lib, at uint64, times int64, d time.Duration) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.procs[key][poolKey{lib, at}]; p != nil {
		r.wait(key, p, times, d)
	}
}

// wait adds to what callers have waited for a pool; the waits of the first maxPools names of
// a process are counted.
func (r *Registry) wait(key telemetry.ProcessKey, p *pool, times int64, d time.Duration) {
	if r.procs[key] == nil {
		return // has ended
	}
	of := r.waited[key]
	if of == nil {
		of = map[attribute.Distinct]waited{}
		r.waited[key] = of
	}
	id := p.name.Equivalent()
	if was, ok := of[id]; ok || len(of) < maxPools {
		of[id] = waited{p.name, was.times + times, was.d + d}
	}
}

// Count is how many pools of a library a process has.
func (r *Registry) Count(key telemetry.ProcessKey, lib Lib) int {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for k, p := range r.procs[key] {
		if k.lib == lib && !p.ignored {
			n++
		}
	}
	return n
}

func forgetOldest(of map[poolKey]*pool) {
	var oldest poolKey
	for k, p := range of {
		if o := of[oldest]; o == nil || p.lastUsed.Before(o.lastUsed) {
			oldest = k
		}
	}
	delete(of, oldest)
}

// Remove forgets a process that has ended.
func (r *Registry) Remove(key telemetry.ProcessKey) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.procs, key)
	delete(r.waited, key)
}

// Open implements metrics.Source.
func (r *Registry) Open(key telemetry.ProcessKey) (metrics.Reading, time.Time) {
	if r == nil || key == metrics.Agent {
		return nil, time.Time{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w := waitReader{before: maps.Clone(r.waited[key]), shown: map[attribute.Distinct]bool{}}
	return func(observe telemetry.Observe) {
		r.read(key, observe)
		r.observeWaited(key, &w, observe)
	}, startOf(key)
}

// startOf is when a process began: its counters count since.
func startOf(key telemetry.ProcessKey) time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Now()
	}
	return time.Now().Add(time.Duration(int64(key.StartNs) - ts.Nano()))
}

type reading struct {
	key   poolKey
	p     *pool
	stats Stats
	err   error
}

// read reads all pools of a process. Decoders do not wait for it.
func (r *Registry) read(key telemetry.ProcessKey, observe telemetry.Observe) {
	var all []reading
	r.mu.Lock()
	for k, p := range r.procs[key] {
		switch {
		case !p.sticky && r.now().Sub(p.lastUsed) > idleFor:
			delete(r.procs[key], k)
		case !p.ignored:
			all = append(all, reading{key: k, p: p})
		}
	}
	r.mu.Unlock()
	if len(all) == 0 {
		return
	}
	m := Of(key.PID)
	for i := range all {
		s, err := all[i].p.layout(m, all[i].key.at)
		if err == nil && !s.sane() {
			err = fmt.Errorf("no sane numbers: %+v", s)
		}
		all[i].stats, all[i].err = s, err
	}
	if !sameProcess(key) {
		return // what was read may be another's
	}
	for i := range all {
		if x := &all[i]; x.err == nil && !x.stats.Closed {
			x.observe(observe)
		}
	}
	r.judge(key, all)
}

// judge forgets pools that are closed, and those that were twice not sane.
func (r *Registry) judge(key telemetry.ProcessKey, all []reading) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range all {
		if x.err == nil {
			x.p.bad = 0
			if x.stats.Waits == Told {
				r.wait(key, x.p, 0, 0)
			}
		} else {
			x.p.bad++
		}
		if x.p.bad >= 2 || x.stats.Closed {
			delete(r.procs[key], x.key)
			r.log.Debug("pool forgotten", "pid", key.PID, "library", x.key.lib.Name, "error", x.err)
		}
	}
}

func (x *reading) observe(observe telemetry.Observe) {
	s, p := &x.stats, x.p
	observe(count, float64(s.Idle), p.idle)
	observe(count, float64(max(s.Open-s.Idle, 0)), p.used)
	if s.Max > 0 {
		observe(limit, float64(s.Max), p.name)
	}
	for _, v := range []struct {
		i *telemetry.Instrument
		n int64
	}{{pending, s.Pending}, {waits, s.Waits}, {timeouts, s.Timeouts}} {
		if v.n >= 0 {
			observe(v.i, float64(v.n), p.name)
		}
	}
	if s.WaitTime != Unknown {
		observe(waitTime, s.WaitTime.Seconds(), p.name)
	}
}

// waitReader is one reader of a process's waits. A series that is shown to it for the first
// time shows what there was when the reader came, so that what was added since is seen to be
// added.
type waitReader struct {
	before map[attribute.Distinct]waited
	shown  map[attribute.Distinct]bool
}

func (r *Registry) observeWaited(key telemetry.ProcessKey, from *waitReader, observe telemetry.Observe) {
	r.mu.Lock()
	all := maps.Clone(r.waited[key])
	r.mu.Unlock()
	for id, w := range all {
		name := w.name
		if !from.shown[id] {
			from.shown[id], w = true, from.before[id]
		}
		observe(waits, float64(w.times), name)
		observe(waitTime, w.d.Seconds(), name)
	}
}

// sameProcess says that the pid is still the process's.
func sameProcess(key telemetry.ProcessKey) bool {
	start, err := startTicks(key.PID)
	return err == nil && start == key.StartNs/nsPerTick
}
