package metrics

import (
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// maxScored bounds the routes of one metric of one process that have a score of their
// own; the others are in the process's.
const maxScored = 500

// DefaultApdex is the time that satisfies; four times as much is still tolerated.
const DefaultApdex = 500 * time.Millisecond

// Scores derives an Apdex score and the ratio of errors from the durations of served
// operations, for each process and each of its routes, since the collection before.
type Scores struct {
	threshold float64 // seconds

	mu        sync.Mutex
	processes map[telemetry.ProcessKey]map[scored]*tally
	derived   map[*telemetry.Instrument]*derivation
}

// scored is what has a score: a route, or all of them together (the zero Set).
type scored struct {
	inst  *telemetry.Instrument
	route attribute.Distinct
}

type tally struct {
	route attribute.Set
	counts
}

type counts struct{ all, satisfied, tolerated, failed uint64 }

// derivation are the metrics that are made of one.
type derivation struct {
	apdex, errors *telemetry.Instrument
	routes        map[attribute.Distinct]attribute.Set // by the attributes of a measurement
}

var _ Source = (*Scores)(nil)

// NewScores makes the source; threshold is Apdex's T.
func NewScores(threshold time.Duration) *Scores {
	return &Scores{
		threshold: threshold.Seconds(), processes: map[telemetry.ProcessKey]map[scored]*tally{},
		derived: map[*telemetry.Instrument]*derivation{},
	}
}

// score is where the values of one series are counted.
type score struct {
	failed     bool
	all, route *tally // route is nil where it is not known
}

// of finds or makes the tallies of a measurement's attributes; nil when there are too many
// processes.
func (s *Scores) of(key telemetry.ProcessKey, m *telemetry.Measurement) *score {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.processes[key]
	if p == nil {
		if len(s.processes) >= maxEntities {
			return nil
		}
		p = map[scored]*tally{}
		s.processes[key] = p
	}
	sc := &score{all: s.tally(p, m.Instrument, attribute.Set{})}
	_, sc.failed = m.Attributes.Value(semconv.ErrorTypeKey)
	if route, ok := m.Attributes.Value(m.Instrument.Scored); ok {
		sc.route = s.tally(p, m.Instrument, s.route(m, route))
	}
	return sc
}

// add counts one value.
func (s *Scores) add(sc *score, seconds float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sc.all.add(seconds, sc.failed, s.threshold)
	if sc.route != nil {
		sc.route.add(seconds, sc.failed, s.threshold)
	}
}

// route finds or makes the set of attributes that names a route.
func (s *Scores) route(m *telemetry.Measurement, route attribute.Value) attribute.Set {
	d := s.derivation(m.Instrument)
	id := m.Attributes.Equivalent()
	set, ok := d.routes[id]
	if !ok {
		if len(d.routes) >= 16*maxScored {
			clear(d.routes)
		}
		set = attribute.NewSet(attribute.KeyValue{Key: m.Instrument.Scored, Value: route})
		d.routes[id] = set
	}
	return set
}

// derivation names what is made of http.server.request.duration
// http.server.request.apdex and http.server.request.error.ratio.
func (s *Scores) derivation(i *telemetry.Instrument) *derivation {
	d := s.derived[i]
	if d == nil {
		base := strings.TrimSuffix(i.Name, ".duration")
		d = &derivation{
			apdex: &telemetry.Instrument{Name: base + ".apdex", Unit: "{score}", Kind: telemetry.Gauge,
				Description: "Apdex score since the collection before, 0 to 1."},
			errors: &telemetry.Instrument{Name: base + ".error.ratio", Unit: "1", Kind: telemetry.Gauge,
				Description: "Share that failed since the collection before."},
			routes: map[attribute.Distinct]attribute.Set{},
		}
		s.derived[i] = d
	}
	return d
}

func (s *Scores) tally(p map[scored]*tally, i *telemetry.Instrument, route attribute.Set) *tally {
	key := scored{i, route.Equivalent()}
	t := p[key]
	if t == nil {
		if len(p) >= maxScored {
			return &tally{} // counted for nobody
		}
		t = &tally{route: route}
		p[key] = t
	}
	return t
}

// add counts one: what failed satisfies nobody.
func (t *tally) add(seconds float64, failed bool, threshold float64) {
	t.all++
	switch {
	case failed:
		t.failed++
	case seconds <= threshold:
		t.satisfied++
	case seconds <= 4*threshold:
		t.tolerated++
	}
}

// Open implements Source. Each destination has its own time between two collections.
func (s *Scores) Open(key telemetry.ProcessKey) (Reading, time.Time) {
	if key == Agent {
		return nil, time.Time{}
	}
	last := map[scored]counts{}
	return func(observe telemetry.Observe) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for k, t := range s.processes[key] {
			n := t.counts
			if all := float64(n.all - last[k].all); all > 0 {
				good := float64(n.satisfied-last[k].satisfied) + float64(n.tolerated-last[k].tolerated)/2
				d := s.derivation(k.inst)
				observe(d.apdex, good/all, t.route)
				observe(d.errors, float64(n.failed-last[k].failed)/all, t.route)
			}
			last[k] = n
		}
	}, time.Now()
}

// Remove forgets a process.
func (s *Scores) Remove(key telemetry.ProcessKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.processes, key)
}
