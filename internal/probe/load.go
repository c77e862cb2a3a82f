package probe

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"

	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// haveUprobeMulti asks the kernel for BPF_TRACE_UPROBE_MULTI (6.6).
func haveUprobeMulti() bool {
	return features.HaveBPFLinkUprobeMulti() == nil
}

// load makes every map. Programs are loaded when they are attached first: the kernel
// needs seconds to verify all of them, and most executables need few.
func (m *Manager) load() error {
	procs, auto, err := discover.MapSpecs()
	if err != nil {
		return err
	}
	if m.procs, err = ebpf.NewMap(procs); err != nil {
		return fmt.Errorf("create map %s: %w", procs.Name, err)
	}
	if m.exeAuto, err = ebpf.NewMap(auto); err != nil {
		return fmt.Errorf("create map %s: %w", auto.Name, err)
	}
	m.colls = map[string]*ebpf.Collection{}
	m.parsed = map[string]*ebpf.CollectionSpec{}
	m.runIndex, m.loadErrs = map[string]int{}, map[string]error{}
	m.epochs, m.opens, m.starts = map[string]uint32{}, map[string]uint32{}, map[string]uint32{}
	shared := map[string]*ebpf.Map{"tr_procs": m.procs, "tr_exe_auto": m.exeAuto}
	err = m.loadSpecs(shared)
	m.releaseParsed()
	m.events, m.lost, m.goexes = shared["tr_events"], shared["tr_lost"], shared["tr_goexes"]
	m.conns, m.errTypes = shared["tr_conns"], shared["tr_errtypes"]
	if err != nil {
		return err
	}
	if m.events == nil || m.lost == nil || m.goexes == nil {
		return errors.New("load probes: no probe uses the shared maps")
	}
	if m.runs, err = newRunStats(cmp.Or(m.opts.ExactFor, firstStats())); err != nil {
		m.log.Info("hits and run time of probes are not counted", "err", err)
		m.runs = nil
	}
	return nil
}

// loadSpecs makes the maps of every probe; one whose maps cannot be made is left out,
// which is an error only when no other is left.
func (m *Manager) loadSpecs(shared map[string]*ebpf.Map) error {
	var kept []*Spec
	var errs []error
	for _, s := range m.opts.Specs {
		coll, err := m.loadSpec(s, shared)
		if err != nil {
			errs = append(errs, fmt.Errorf("load probe %s: %w", s.Name, err))
			continue
		}
		m.colls[s.Name] = coll
		kept = append(kept, s)
	}
	if len(kept) == 0 {
		return errors.Join(errs...)
	}
	for _, err := range errs {
		m.log.Error("a probe is left out", "err", err)
	}
	m.opts.Specs = kept
	return nil
}

// parse returns a probe's collection spec, configured. It is kept until releaseParsed:
// several programs are loaded from it one after the other, and then none for long. The
// caller holds m.loading.
func (m *Manager) parse(s *Spec) (*ebpf.CollectionSpec, error) {
	if spec := m.parsed[s.Name]; spec != nil {
		return spec, nil
	}
	spec, err := s.Load()
	if err != nil {
		return nil, err
	}
	if err := m.configure(s, spec); err != nil {
		return nil, err
	}
	m.parsed[s.Name] = spec
	return spec, nil
}

// releaseParsed gives back the memory of what was parsed, some megabytes.
func (m *Manager) releaseParsed() {
	m.loading.Lock()
	had := len(m.parsed) > 0
	clear(m.parsed)
	m.loading.Unlock()
	if had {
		debug.FreeOSMemory()
	}
}

// loadSpec makes the maps of one probe; those named tr_* are taken from shared, or added to it.
func (m *Manager) loadSpec(s *Spec, shared map[string]*ebpf.Map) (*ebpf.Collection, error) {
	m.loading.Lock()
	spec, err := m.parse(s)
	m.loading.Unlock()
	if err != nil {
		return nil, err
	}
	for _, f := range s.InFlight {
		if at, ok := epochOffset(spec.Maps[f.Map].Value, 0); ok {
			m.epochs[f.Map] = at
		}
		if at, ok := memberOffset(spec.Maps[f.Map].Value, "start_ns", 8, 0); ok {
			m.starts[f.Map] = at
		} else if f.MaxAge != 0 {
			return nil, fmt.Errorf("%s: no member start_ns to tell an entry's age by", f.Map)
		}
		if at, ok := OpenOffset(spec.Maps[f.Map].Value); ok {
			m.opens[f.Map] = at
		}
	}
	replace := map[string]*ebpf.Map{}
	for name := range spec.Maps {
		if sm := shared[name]; sm != nil {
			replace[name] = sm
		}
	}
	maps := *spec
	maps.Programs = nil
	coll, err := ebpf.NewCollectionWithOptions(&maps, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return nil, err
	}
	coll.Programs = map[string]*ebpf.Program{}
	for name, mp := range coll.Maps {
		if strings.HasPrefix(name, "tr_") && shared[name] == nil {
			if shared[name], err = mp.Clone(); err != nil {
				coll.Close()
				return nil, err
			}
		}
	}
	return coll, nil
}

// program returns a program of a probe, and has the kernel verify it if nobody asked for
// it before.
func (m *Manager) program(s *Spec, name string) (*ebpf.Program, error) {
	m.loading.Lock()
	defer m.loading.Unlock()
	coll := m.colls[s.Name]
	if p := coll.Programs[name]; p != nil {
		return p, nil
	}
	if err := m.loadErrs[s.Name+" "+name]; err != nil {
		return nil, err
	}
	spec, err := m.parse(s)
	if err != nil {
		return nil, err
	}
	one := *spec
	one.Variables = nil // those of coll are of the same maps
	one.Programs = map[string]*ebpf.ProgramSpec{name: spec.Programs[name]}
	if one.Programs[name] == nil {
		return nil, fmt.Errorf("load %s: no such program", name)
	}
	loaded, err := ebpf.NewCollectionWithOptions(&one, ebpf.CollectionOptions{MapReplacements: coll.Maps})
	if err != nil {
		err = fmt.Errorf("load %s: %w", name, err)
		m.loadErrs[s.Name+" "+name] = err
		return nil, err
	}
	defer loaded.Close()
	p := loaded.DetachProgram(name)
	coll.Programs[name] = p
	if m.runs != nil {
		m.runIndex[s.Name+" "+name] = m.runs.add(p)
	}
	return p, nil
}

// preloadAfter gives the executables that run already the first turn.
const preloadAfter = 3 * time.Second

// Preload loads, in the background, what is not loaded by then, so that an executable
// that is started later and needs it does not wait.
func (m *Manager) Preload() {
	m.wg.Go(func() {
		defer m.releaseParsed()
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(preloadAfter):
		}
		for _, s := range m.opts.Specs {
			for _, pt := range s.Points {
				select {
				case <-m.ctx.Done():
					return
				default:
				}
				if _, err := m.program(s, pt.Program); err != nil {
					m.log.Error("a program is not loaded", "probe", s.Name, "err", err)
				}
			}
		}
	})
}

// configure sets sizes and constants before loading.
func (m *Manager) configure(s *Spec, spec *ebpf.CollectionSpec) error {
	if s.ID > MaxID {
		return fmt.Errorf("id %d, at most %d", s.ID, MaxID)
	}
	vars := map[string]any{
		"probe_id":         uint16(s.ID),
		"cfg_id_secret":    m.secret,
		"cfg_sampler_root": uint8(m.opts.Sampling.Root),
		"cfg_parent_based": boolByte(!m.opts.Sampling.IgnoreParent),
		"cfg_ratio_bound":  m.opts.Sampling.bound(),
		"cfg_count_all":    boolByte(m.opts.CountAll),
		"cfg_count_full":   boolByte(m.opts.CountFull),
		"cfg_wake_bytes":   uint64(event.WakeBytes(m.opts.RingBytes)),
	}
	for name, v := range vars {
		if spec.Variables[name] == nil {
			continue
		}
		if err := spec.Variables[name].Set(v); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if ring := spec.Maps["tr_events"]; ring != nil {
		ring.MaxEntries = uint32(m.opts.RingBytes)
	}
	for _, f := range s.InFlight {
		spec.Maps[f.Map].MaxEntries = uint32(m.opts.MaxInFlight)
	}
	used := map[string]bool{}
	for _, pt := range s.Points {
		used[pt.Program] = true
	}
	for name, p := range spec.Programs {
		if !used[name] {
			delete(spec.Programs, name)
		} else if m.multi {
			p.AttachType = ebpf.AttachTraceUprobeMulti
		}
	}
	if s.Prepare != nil {
		return s.Prepare(spec)
	}
	return nil
}

func boolByte(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// install writes what the programs must know of the executable, then attaches.
func (m *Manager) install(ctx context.Context, a *Attached) error {
	target, err := link.OpenExecutable(a.Ref.Path)
	if err != nil {
		return err
	}
	a.target = target
	a.links, a.changed, a.needed = map[pointKey]link.Link{}, map[pointKey]bool{}, map[pointKey]bool{}
	if err := m.goexes.Put(a.ID, a.runtime); err != nil {
		return fmt.Errorf("write runtime offsets: %w", err)
	}
	if m.errTypes != nil {
		if err := putErrTypes(m.errTypes, a.ID, a.Exe); err != nil {
			return err
		}
	}
	attached := 0
	for _, s := range m.opts.Specs {
		p := a.Placed[s.Name]
		p.ExeID = a.ID
		if a.Ref.Off != nil && a.Ref.Off(s.Name) {
			a.setMuted(s.Name, true)
		}
		if len(p.Groups) == 0 {
			continue
		}
		if err := s.AttachExe(m.colls[s.Name], p); err != nil {
			p.refuseAll(s, err)
			continue
		}
		for _, g := range s.Groups {
			if !p.Groups[g.Name] {
				continue
			}
			if m.attachOrRefuse(ctx, a, s, g) {
				attached++
			}
		}
	}
	m.describeHands(a)
	if attached == 0 {
		return fmt.Errorf("%w: %w", ErrRefused, errors.Join(refusals(a)...))
	}
	return nil
}

func refusals(a *Attached) []error {
	var errs []error
	for _, p := range a.Placed {
		for g, err := range p.Refused {
			errs = append(errs, fmt.Errorf("%s: %w", g, err))
		}
	}
	slices.SortFunc(errs, func(x, y error) int { return strings.Compare(x.Error(), y.Error()) })
	return errs
}

// attachGroup attaches a group's points, all or none, ends before starts so that no
// operation begins whose end is not seen.
func (m *Manager) attachGroup(ctx context.Context, a *Attached, s *Spec, g Group) error {
	var done []Point
	for _, pt := range slices.Backward(s.Points) {
		if pt.Group != g.Name || a.lazy(s, pt) || !pt.forGo(a.Exe.GoVersion().Minor) {
			continue
		}
		err := ctx.Err()
		if err == nil {
			err = m.attachPoint(a, s, pt)
		}
		if err != nil && pt.Optional && !pt.Needed && ctx.Err() == nil {
			m.log.Warn("attaching an optional point", "point", pt.Name, "lost", pt.Lost, "err", err)
			continue
		}
		if err != nil {
			for _, d := range slices.Backward(done) {
				err = errors.Join(err, a.detachPoint(s.Name, d.Name))
			}
			return err
		}
		done = append(done, pt)
	}
	return nil
}

func (m *Manager) attachPoint(a *Attached, s *Spec, pt Point) error {
	if !a.wants(s, pt) || m.governed.isOff(s.Name) { // what is shed comes with its probe
		return nil
	}
	prog, err := m.program(s, pt.Program)
	if err != nil {
		return err
	}
	return a.attachPoint(s, pt, prog, m.multi)
}

// procValue mirrors struct tr_proc.
type procValue struct {
	StartNs uint64
	Bias    uint64
	ExeID   uint32
	Epoch   uint32 // CLOCK_MONOTONIC >> 20
	Hand    Hand
	_       uint32
	Search  uint64 // the programs' own
}

// bias returns the load bias of a process whose mm->start_code is startCode.
func bias(exe *goexe.Exe, startCode uint64) uint64 {
	if !exe.PIE() || startCode < exe.LoadVaddr() {
		return 0
	}
	return startCode - exe.LoadVaddr()
}

// AddProcess lets a process of an attached executable in, whose traces are handed on
// as hand says.
func (m *Manager) AddProcess(key telemetry.ProcessKey, startCode uint64, a *Attached, hand Hand) error {
	if hand&HandMemory != 0 {
		m.attachWrites(context.Background(), a)
	}
	v := procValue{StartNs: key.StartNs, Bias: bias(a.Exe, startCode), ExeID: a.ID, Hand: hand}
	var old procValue
	if err := m.procs.Lookup(uint32(key.PID), &old); err == nil && old.StartNs == v.StartNs && old.ExeID == v.ExeID {
		v.Epoch = old.Epoch // the kernel let it in at exec; it may have begun requests
	} else {
		now, err := KtimeNs()
		if err != nil {
			return fmt.Errorf("watch process %d: read the clock: %w", key.PID, err)
		}
		v.Epoch = uint32(now >> 20)
	}
	if err := m.procs.Put(uint32(key.PID), v); err != nil {
		return fmt.Errorf("watch process %d: %w", key.PID, err)
	}
	return nil
}

// RemoveProcess stops watching a process, and forgets its operations in flight.
func (m *Manager) RemoveProcess(key telemetry.ProcessKey) {
	var v procValue
	if err := m.procs.Lookup(uint32(key.PID), &v); err == nil {
		if v.StartNs != key.StartNs {
			return // the number is somebody else's now
		}
		_ = m.procs.Delete(uint32(key.PID)) // gone already is as good
	}
	m.forget(uint32(key.PID))
}

// Replaced forgets the operations in flight of the program that a process ran before
// the one that is watched now.
func (m *Manager) Replaced(key telemetry.ProcessKey) {
	var v procValue
	if err := m.procs.Lookup(uint32(key.PID), &v); err != nil || v.StartNs != key.StartNs {
		return // it has ended; its end is reported
	}
	m.forgetBefore(uint32(key.PID), v.Epoch)
}

// AutoSelect makes the kernel let in every new process of the executable at exec, to be
// treated as hand says until AddProcess says otherwise.
func (m *Manager) AutoSelect(a *Attached, on bool, hand Hand) error {
	key := struct {
		Ino      uint64
		Dev, Pad uint32
	}{Ino: a.Ref.Ino, Dev: a.Ref.Dev}
	if !on {
		if err := m.exeAuto.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		return nil
	}
	return m.exeAuto.Put(key, struct {
		ExeID     uint32
		Hand      Hand
		LoadVaddr uint64
	}{ExeID: a.ID, Hand: hand, LoadVaddr: a.Exe.LoadVaddr()})
}

// pidsOf lists the watched processes of an executable.
func (m *Manager) pidsOf(exeID uint32) map[uint32]procValue {
	pids := map[uint32]procValue{}
	eachKey(m.procs, func(raw []byte) {
		var v procValue
		if err := m.procs.Lookup(raw, &v); err == nil && v.ExeID == exeID {
			pids[binary.NativeEndian.Uint32(raw)] = v
		}
	})
	return pids
}

// dropProcesses takes every process of an executable out.
func (m *Manager) dropProcesses(exeID uint32) {
	for pid := range m.pidsOf(exeID) {
		_ = m.procs.Delete(pid)
		m.forget(pid)
	}
}

// goKey mirrors struct tr_gokey.
type goKey struct{ TGID, ID uint64 }

// forget deletes the operations in flight of a process.
func (m *Manager) forget(pid uint32) {
	m.forgetIf(pid, nil)
}

// forgetBefore deletes those of other epochs than the process's own.
func (m *Manager) forgetBefore(pid, epoch uint32) {
	m.forgetIf(pid, func(f InFlight, value []byte) bool {
		at, ok := m.epochs[f.Map]
		return ok && binary.NativeEndian.Uint32(value[at:]) != epoch
	})
}

// forgetIf deletes those that f wants; nil: all.
func (m *Manager) forgetIf(pid uint32, gone func(f InFlight, value []byte) bool) {
	for _, s := range m.opts.Specs {
		for _, f := range s.InFlight {
			if f.Note {
				continue
			}
			mp := m.colls[s.Name].Maps[f.Map]
			deleted := 0
			for _, k := range keysOf(mp, uint64(pid)) {
				var value []byte
				if gone != nil || f.Ended != nil {
					var err error
					if value, err = mp.LookupBytes(k); err != nil || value == nil || gone != nil && !gone(f, value) {
						continue
					}
				}
				if mp.Delete(k) != nil { // it ended meanwhile
					continue
				}
				deleted++
				if f.Ended != nil {
					if op := f.Ended(value); op != nil {
						m.emit(op)
					}
				}
			}
			if f.Forgotten != "" && deleted > 0 {
				m.addForgotten(m.colls[s.Name].Variables[f.Forgotten], uint64(deleted))
			}
		}
	}
}

// addForgotten adds n to a counter that only the manager writes.
func (m *Manager) addForgotten(v *ebpf.Variable, n uint64) {
	m.forgetting.Lock()
	defer m.forgetting.Unlock()
	var have uint64
	err := v.Get(&have)
	if err == nil {
		err = v.Set(have + n)
	}
	if err != nil {
		m.log.Warn("counting operations in flight", "err", err)
	}
}

// keysOf returns the keys of a process's entries; one that is there throughout is in it.
func keysOf(mp *ebpf.Map, tgid uint64) []goKey {
	var keys []goKey
	eachKey(mp, func(raw []byte) {
		k := goKey{binary.NativeEndian.Uint64(raw), binary.NativeEndian.Uint64(raw[8:])}
		if k.TGID == tgid {
			keys = append(keys, k)
		}
	})
	return keys
}

// eachKey calls f for every key of a map that programs change meanwhile: for some
// more than once, because the kernel begins from the first one again when the key
// that was given last is deleted.
func eachKey(mp *ebpf.Map, f func(raw []byte)) {
	var prev any
	for range 8 * mp.MaxEntries() {
		raw, err := mp.NextKeyBytes(prev)
		if err != nil || raw == nil {
			return
		}
		f(raw)
		prev = raw
	}
}

func (m *Manager) closeMaps() {
	if m.runs != nil {
		m.runs.close(time.Now())
	}
	for _, c := range m.colls {
		c.Close()
	}
	for _, mp := range []*ebpf.Map{m.procs, m.exeAuto, m.events, m.lost, m.goexes, m.conns, m.errTypes} {
		if mp != nil {
			mp.Close()
		}
	}
}
