package probe

import (
	"encoding/binary"
	"maps"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
)

// PointStats is what the kernel counted for one program, over all executables.
type PointStats struct {
	Probe, Point, Program string
	Hits                  uint64        // exact for the first half minute, then estimated
	Time                  time.Duration // BPF run time, likewise
	Attached              int           // executables it is on now
}

// Stats returns the statistics of every point.
func (m *Manager) Stats() []PointStats {
	on := map[pointKey]int{}
	for _, a := range m.everything() {
		a.mu.Lock()
		for k := range a.links {
			on[k]++
		}
		a.mu.Unlock()
	}
	m.loading.Lock()
	index := maps.Clone(m.runIndex)
	m.loading.Unlock()
	var counted []runs
	if m.runs != nil {
		counted = m.runs.totals()
	}
	var out []PointStats
	for _, s := range m.opts.Specs {
		for _, pt := range s.Points {
			st := PointStats{Probe: s.Name, Point: pt.Name, Program: pt.Program, Attached: on[pointKey{s.Name, pt.Name}]}
			if i, ok := index[s.Name+" "+pt.Program]; ok && i < len(counted) {
				st.Hits, st.Time = counted[i].Hits, counted[i].Time
			}
			out = append(out, st)
		}
	}
	return out
}

// lostPlaces is enum lost_place of bpf/lib/event.h.
var lostPlaces = []selfmetrics.Place{selfmetrics.RingFull, "map_full", "read_failed", "not_sane", placeUnended}

// placeUnended is where operations are lost whose end was not seen.
const placeUnended selfmetrics.Place = "unended"

// Lost returns how many records a probe lost in the kernel, by place.
func (m *Manager) Lost(s *Spec) map[selfmetrics.Place]uint64 {
	out := map[selfmetrics.Place]uint64{}
	for i, place := range lostPlaces {
		raw, err := m.lost.LookupBytes(uint32(int(s.ID)*len(lostPlaces) + i))
		if err == nil && len(raw) == 8 {
			out[place] = binary.NativeEndian.Uint64(raw)
		}
	}
	out[placeUnended] += m.aged[s.Name].Load()
	return out
}

// counters emits the values of a probe's own counters.
func (m *Manager) counters(spec string, c *Counters, emit selfmetrics.Emit) {
	for i, l := range c.Labels {
		raw, err := m.colls[spec].Maps[c.Map].LookupBytes(uint32(i))
		if err != nil || len(raw) != 8 {
			continue
		}
		emit(float64(binary.NativeEndian.Uint64(raw)), selfmetrics.L("probe", spec),
			selfmetrics.L("mode", l[0]), selfmetrics.L("outcome", l[1]))
	}
}

func (m *Manager) registerMetrics() {
	r := m.opts.Metrics
	stat := func(name, help string, kind selfmetrics.Kind, value func(PointStats) float64) {
		r.Func(name, help, kind, func(emit selfmetrics.Emit) {
			for _, st := range m.Stats() {
				emit(value(st), selfmetrics.L("probe", st.Probe), selfmetrics.L("point", st.Point))
			}
		})
	}
	stat("tracer_agent_probe_hits_total", "Runs of a probe's program, counted by the kernel for a sixteenth of the time after the first half minute.",
		selfmetrics.KindCounter, func(s PointStats) float64 { return float64(s.Hits) })
	stat("tracer_agent_probe_time_seconds_total", "Time spent in a probe's program, counted likewise.",
		selfmetrics.KindCounter, func(s PointStats) float64 { return s.Time.Seconds() })
	stat("tracer_agent_probe_points", "Executables that a probe's point is attached to.",
		selfmetrics.KindGauge, func(s PointStats) float64 { return float64(s.Attached) })
	for _, s := range m.opts.Specs {
		if c := s.Counters; c != nil {
			r.Func(c.Metric, c.Help, selfmetrics.KindCounter, func(emit selfmetrics.Emit) { m.counters(s.Name, c, emit) })
		}
	}
	r.Func(selfmetrics.NameRecordsLost, "", selfmetrics.KindCounter, func(emit selfmetrics.Emit) {
		for _, s := range m.opts.Specs {
			for place, n := range m.Lost(s) {
				emit(float64(n), selfmetrics.L("place", string(place)), selfmetrics.L("probe", s.Name))
			}
		}
	})
}
