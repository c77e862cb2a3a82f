package probe

import (
	"encoding/binary"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
)

// governed is a Manager's part that keeps the price of its probes below the limit.
type governed struct {
	mu     sync.Mutex
	g      *governor
	prices []price
	off    map[string]bool    // probes that are shed now
	unseen map[string]float64 // hits that were not seen, estimated
	gone   map[string]time.Duration
	last   time.Time
}

func newGoverned(limit float64) *governed {
	return &governed{g: newGovernor(limit), off: map[string]bool{}, unseen: map[string]float64{}, gone: map[string]time.Duration{}}
}

func (g *governed) isOff(probe string) bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.off[probe]
}

// prices says what each probe cost in a window, by the kernel's counts of its programs
// and the cost of a trap where they sit; the dearest place counts where they differ.
func (m *Manager) prices(counted []runs, long time.Duration) []price {
	costs := m.traps.Load()
	trap := map[pointKey]time.Duration{}
	for _, a := range m.everything() {
		a.Points(func(spec, point string, at goexe.Point) {
			k := pointKey{spec, point}
			trap[k] = max(trap[k], costs.of(at.Class))
		})
	}
	m.loading.Lock()
	index := maps.Clone(m.runIndex)
	m.loading.Unlock()
	var out []price
	for _, s := range m.opts.Specs {
		traps := map[string]time.Duration{} // by program, of which points may share one
		for _, pt := range s.Points {
			traps[pt.Program] = max(traps[pt.Program], trap[pointKey{s.Name, pt.Name}])
		}
		p := price{probe: s.Name}
		var cost time.Duration
		for name, each := range traps {
			if i, ok := index[s.Name+" "+name]; ok && i < len(counted) {
				n := counted[i]
				p.hits += float64(n.Hits) / long.Seconds()
				cost += time.Duration(n.Hits)*each + n.Time
			}
		}
		p.share = cost.Seconds() / long.Seconds()
		out = append(out, p)
	}
	return out
}

// govern is told what the kernel counted in a window, by the goroutine that counts; it
// may wait for the kernel.
func (m *Manager) govern(counted []runs, long time.Duration) {
	cpus := min(len(m.watchedPIDs()), runtime.NumCPU())
	prices := m.prices(counted, long)
	now := time.Now()
	g := m.governed
	g.mu.Lock()
	if !g.last.IsZero() {
		for name := range g.off {
			g.gone[name] += now.Sub(g.last)
			g.unseen[name] += g.g.shed[name].hits * now.Sub(g.last).Seconds()
		}
	}
	g.last, g.prices = now, prices
	shed, back, total := g.g.judge(now, prices, cpus)
	if shed != "" {
		g.off[shed] = true
	}
	delete(g.off, back)
	g.mu.Unlock()
	percent := func(share float64) string { return fmt.Sprintf("%.1f%%", 100*share) }
	switch {
	case shed != "":
		m.log.Warn("probe shed: the probes cost more than --max-overhead allows", "probe", shed,
			"cost", percent(total), "limit", percent(g.g.limit), "of_cpus", cpus)
		m.shed(shed)
	case back != "":
		m.log.Info("probe back, to see whether the load has fallen", "probe", back, "cost", percent(total))
		m.bringBack(back)
	}
}

// shed takes a probe off everywhere. What was in flight then has no end any more; a new
// epoch makes the kernel forget it, of the other probes, too, whose parents it may be.
func (m *Manager) shed(name string) {
	for _, a := range m.everything() {
		n, err := a.closeLinks(func(k pointKey) bool { return k.spec == name })
		if err != nil {
			m.log.Warn("detaching", "exe", a.Ref.Path, "probe", name, "err", err)
		}
		if n > 0 {
			m.newEpoch(a.ID)
		}
	}
}

// bringBack puts a probe on again wherever it was.
func (m *Manager) bringBack(name string) {
	for _, s := range m.opts.Specs {
		if s.Name != name {
			continue
		}
		for _, a := range m.everything() {
			if err := m.attachAgain(a, s); err != nil {
				m.log.Warn("probe does not come back", "exe", a.Ref.Path, "probe", name, "err", err)
			}
		}
	}
}

// watchedPIDs lists the processes that are watched.
func (m *Manager) watchedPIDs() []uint32 {
	seen := map[uint32]bool{}
	eachKey(m.procs, func(raw []byte) { seen[binary.NativeEndian.Uint32(raw)] = true })
	return slices.Collect(maps.Keys(seen))
}

// newEpoch begins a new epoch for every process of an executable, as an exec does, and
// forgets what is in flight from before.
func (m *Manager) newEpoch(exeID uint32) {
	now, err := KtimeNs()
	if err != nil {
		return
	}
	for pid, v := range m.pidsOf(exeID) {
		v.Epoch = max(uint32(now>>20), v.Epoch+1)
		// Not one that has ended meanwhile: it would stay.
		if m.procs.Update(pid, v, ebpf.UpdateExist) != nil {
			continue
		}
		m.forgetBefore(pid, v.Epoch)
	}
}

// startGovernor is called before the kernel's counts are first looked at.
func (m *Manager) startGovernor() {
	switch {
	case m.opts.MaxOverhead <= 0:
		return
	case m.runs == nil:
		m.log.Warn("--max-overhead is not kept: the kernel does not count what probes cost")
		return
	}
	m.registerTraps()
	m.governed = newGoverned(m.opts.MaxOverhead)
	m.runs.times, m.runs.looked = cadence{governPeriod, governWindow, governPeriod}, m.govern
	g := m.governed
	r := m.opts.Metrics
	show := func(name, help string, kind selfmetrics.Kind, value func(p price) float64) {
		r.Func(name, help, kind, func(emit selfmetrics.Emit) {
			g.mu.Lock()
			defer g.mu.Unlock()
			for _, p := range g.prices {
				emit(value(p), selfmetrics.L("probe", p.probe))
			}
		})
	}
	show("tracer_agent_probe_cpu_ratio", "Share of one CPU that a probe costs all watched programs: hits times the cost of a trap, and run time.",
		selfmetrics.KindGauge, func(p price) float64 { return p.share })
	show("tracer_agent_probe_shed", "Whether a probe is off because of --max-overhead.", selfmetrics.KindGauge, func(p price) float64 {
		if g.off[p.probe] {
			return 1
		}
		return 0
	})
	show("tracer_agent_probe_shed_seconds_total", "How long a probe was off because of --max-overhead.",
		selfmetrics.KindCounter, func(p price) float64 { return g.gone[p.probe].Seconds() })
	show("tracer_agent_probe_unseen_hits_total", "Hits that were not seen meanwhile, estimated by the rate from before.",
		selfmetrics.KindCounter, func(p price) float64 { return g.unseen[p.probe] })
}
