package probe

import (
	"context"
	"encoding/binary"
	"math"
	"time"
)

const (
	// ageEvery is how often the maps of operations in flight are looked through.
	ageEvery = 30 * time.Second
	// crowdedAge is the MaxAge of a map that is more than half full: what is left behind
	// must not keep new operations out.
	crowdedAge = 5 * time.Minute
	// crowdedNoteAge is that of notes: not much more than WRITE_WITHIN_NS of bpf/lib/inject.h.
	crowdedNoteAge = 40 * time.Second
	// keptAge is how long a closed entry waits for its goroutine's next operation.
	keptAge = time.Minute
)

// age deletes operations in flight that are too old to end.
func (m *Manager) age(ctx context.Context) {
	t := time.NewTicker(ageEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if now, err := KtimeNs(); err == nil {
			m.dropOld(now)
		}
	}
}

// dropOld deletes and counts what is older than its MaxAge at a time of CLOCK_MONOTONIC;
// what is closed and kept for a next operation is no loss.
func (m *Manager) dropOld(nowNs uint64) {
	for _, s := range m.opts.Specs {
		for _, f := range s.InFlight {
			if _, kept := m.opens[f.Map]; kept || f.MaxAge != 0 {
				m.dropOldOf(s, f, nowNs)
			}
		}
	}
}

func (m *Manager) dropOldOf(s *Spec, f InFlight, nowNs uint64) {
	coll := m.colls[s.Name]
	mp := coll.Maps[f.Map]
	keys := map[goKey]bool{} // one may come twice
	eachKey(mp, func(raw []byte) {
		keys[goKey{binary.NativeEndian.Uint64(raw), binary.NativeEndian.Uint64(raw[8:])}] = true
	})
	limit, crowded := f.MaxAge, len(keys) > m.opts.MaxInFlight/2
	// Programs keep closed ones up to half of the room: those that nobody comes back to make
	// room for others' before that.
	filling := len(keys) > m.opts.MaxInFlight*3/8
	switch {
	case limit == 0 && !filling:
		return
	case limit == 0:
		limit = math.MaxInt64
	case crowded:
		limit = min(limit, crowdedAge)
		if f.Note {
			limit = min(limit, crowdedNoteAge)
		}
	}
	at, open := m.starts[f.Map], m.opens[f.Map]
	forgotten := uint64(0)
	for k := range keys {
		value, err := mp.LookupBytes(k)
		if err != nil || value == nil {
			continue
		}
		start := binary.NativeEndian.Uint64(value[at:])
		if start == 0 || nowNs <= start {
			continue
		}
		age := time.Duration(nowNs - start)
		closed := open != 0 && binary.NativeEndian.Uint16(value[open:]) == 0
		// A goroutine may begin its next operation in a closed one at any time: one is
		// only taken away when the room is needed.
		if closed && (!filling || age <= keptAge) || !closed && age <= limit || mp.Delete(k) != nil {
			continue
		}
		forgotten++
		if !closed && !f.Note {
			m.aged[s.Name].Add(1)
		}
	}
	if f.Forgotten != "" && forgotten > 0 {
		m.addForgotten(coll.Variables[f.Forgotten], forgotten)
	}
}
