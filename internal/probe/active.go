package probe

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// activeFresh is how long a count of the operations in flight holds: every watched
// process asks in one collection.
const activeFresh = 500 * time.Millisecond

// activeCounts are the operations in flight of all processes, counted a moment ago.
type activeCounts struct {
	mu sync.Mutex
	at time.Time
	n  map[uint32]map[*telemetry.Instrument]int
}

// Active shows how many operations of each kind a process has in flight; of a kind that
// it has had none of yet, nothing. seen belongs to the caller.
func (m *Manager) Active(pid int32, seen map[*telemetry.Instrument]bool, show func(i *telemetry.Instrument, n int)) {
	m.active.mu.Lock()
	defer m.active.mu.Unlock()
	if now := time.Now(); now.Sub(m.active.at) > activeFresh {
		m.active.at, m.active.n = now, m.countActive()
	}
	for i := range m.active.n[uint32(pid)] {
		seen[i] = true
	}
	for i := range seen {
		show(i, m.active.n[uint32(pid)][i])
	}
}

// countActive looks at the maps that programs change meanwhile: a key may come twice.
func (m *Manager) countActive() map[uint32]map[*telemetry.Instrument]int {
	out := map[uint32]map[*telemetry.Instrument]int{}
	for _, s := range m.opts.Specs {
		for _, f := range s.InFlight {
			if f.Active == nil || m.colls[s.Name] == nil || m.colls[s.Name].Maps[f.Map] == nil {
				continue
			}
			mp, seen := m.colls[s.Name].Maps[f.Map], map[goKey]bool{}
			eachKey(mp, func(raw []byte) {
				k := goKey{binary.NativeEndian.Uint64(raw), binary.NativeEndian.Uint64(raw[8:])}
				if seen[k] {
					return
				}
				seen[k] = true
				value, err := mp.LookupBytes(k)
				if err != nil || value == nil || !m.isActive(f, uint32(k.TGID), value) {
					return
				}
				if out[uint32(k.TGID)] == nil {
					out[uint32(k.TGID)] = map[*telemetry.Instrument]int{}
				}
				out[uint32(k.TGID)][f.Active]++
			})
		}
	}
	return out
}

// isActive says whether an entry is an open one of the program that runs now.
func (m *Manager) isActive(f InFlight, pid uint32, value []byte) bool {
	if at, ok := m.opens[f.Map]; ok && binary.NativeEndian.Uint16(value[at:]) == 0 {
		return false
	}
	var v procValue
	if err := m.procs.Lookup(pid, &v); err != nil {
		return false
	}
	at, ok := m.epochs[f.Map]
	return !ok || binary.NativeEndian.Uint32(value[at:]) == v.Epoch
}
