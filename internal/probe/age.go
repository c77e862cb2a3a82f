package probe

import (
	"context"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ageEvery is how often the maps of operations in flight are looked through.
	ageEvery = 30 * time.Second
	// crowdedAge is the MaxAge of a map that is more than half full: what is left behind
	// must not keep new operations out.
	crowdedAge = 5 * time.Minute
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
		var now unix.Timespec
		if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil {
			m.dropOld(uint64(now.Nano()))
		}
	}
}

// dropOld deletes and counts what is older than its MaxAge at a time of CLOCK_MONOTONIC.
func (m *Manager) dropOld(nowNs uint64) {
	for _, s := range m.opts.Specs {
		for _, f := range s.InFlight {
			if f.MaxAge == 0 {
				continue
			}
			mp, at := m.colls[s.Name].Maps[f.Map], m.starts[f.Map]
			old := map[goKey]bool{} // a key may come twice
			n := 0
			eachKey(mp, func([]byte) { n++ })
			limit := f.MaxAge
			if n > m.opts.MaxInFlight/2 {
				limit = min(limit, crowdedAge)
			}
			if n == 0 {
				continue
			}
			eachKey(mp, func(raw []byte) {
				k := goKey{binary.NativeEndian.Uint64(raw), binary.NativeEndian.Uint64(raw[8:])}
				value, err := mp.LookupBytes(k)
				if err != nil || value == nil {
					return
				}
				start := binary.NativeEndian.Uint64(value[at:])
				if start != 0 && nowNs > start && time.Duration(nowNs-start) > limit {
					old[k] = true
				}
			})
			for k := range old {
				if mp.Delete(k) == nil {
					m.aged[s.Name].Add(1)
				}
			}
		}
	}
}
