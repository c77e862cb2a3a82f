package probe

import "time"

// The governor looks at one second in five, and acts when two looks in a row are past
// the limit: a burst is no reason.
const (
	governWindow = time.Second
	governPeriod = 5 * time.Second
	governLooks  = 2
	// A probe that was shed is tried again after backoffFirst, and when that was too
	// early after twice the time, and so on.
	backoffFirst = 30 * time.Second
	backoffMost  = 16 * time.Minute
)

// price is what one probe cost all watched programs in a window.
type price struct {
	probe string
	share float64 // of one CPU
	hits  float64 // a second
}

// governor decides which probes to shed and when to bring them back. It sees prices
// and says what to do; it does nothing itself.
type governor struct {
	limit float64 // share of one CPU, for each watched process
	past  int     // looks in a row
	shed  map[string]*shedState
}

type shedState struct {
	since    time.Time // zero: not shed now
	restored time.Time
	backoff  time.Duration
	hits     float64 // a second, when it was shed
}

func newGovernor(limit float64) *governor {
	return &governor{limit: limit, shed: map[string]*shedState{}}
}

// judge takes the prices of a window, and how many CPUs the limit is a share of. At most
// one probe is shed or brought back at a time, so that each step's effect is seen.
func (g *governor) judge(now time.Time, prices []price, cpus int) (shed, back string, total float64) {
	var dearest price
	for _, p := range prices {
		total += p.share
		if s := g.shed[p.probe]; p.share > dearest.share && (s == nil || s.since.IsZero()) {
			dearest = p
		}
	}
	if total > g.limit*float64(max(cpus, 1)) {
		if g.past++; g.past < governLooks || dearest.probe == "" {
			return "", "", total
		}
		g.past = 0
		g.drop(now, dearest)
		return dearest.probe, "", total
	}
	g.past = 0
	for name, s := range g.shed {
		if !s.since.IsZero() && now.Sub(s.since) >= s.backoff && (back == "" || s.since.Before(g.shed[back].since)) {
			back = name
		}
	}
	if back != "" {
		g.shed[back].since, g.shed[back].restored = time.Time{}, now
	}
	return "", back, total
}

func (g *governor) drop(now time.Time, p price) {
	s := g.shed[p.probe]
	if s == nil {
		s = &shedState{}
		g.shed[p.probe] = s
	}
	// Soon after it came back: it came back too early.
	if !s.restored.IsZero() && now.Sub(s.restored) < max(2*s.backoff, time.Minute) {
		s.backoff = min(2*s.backoff, backoffMost)
	} else {
		s.backoff = backoffFirst
	}
	s.since, s.hits = now, p.hits
}
