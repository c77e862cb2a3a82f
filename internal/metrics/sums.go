package metrics

import (
	"math/rand/v2"
	"runtime"
	"time"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"
)

// moment is when and in which span a value was measured; the zero one is that of a value
// that is no exemplar.
type moment struct {
	atNs  int64 // wall clock
	trace trace.TraceID
	span  trace.SpanID
}

// cell adds up the values of one series for one destination. It is used under the
// instrument's lock.
type cell interface {
	add(v float64, m moment)
	// used says that there is something to report.
	used() bool
	// reset begins anew, as delta temporality does after every collection.
	reset()
}

// stored is an exemplar, or a place for one.
type stored struct {
	value float64
	moment
}

// exemplars are copies of those that are kept.
func exemplars(all []stored) []metricdata.Exemplar[float64] {
	var out []metricdata.Exemplar[float64]
	for i := range all {
		if s := &all[i]; s.atNs != 0 {
			out = append(out, metricdata.Exemplar[float64]{
				Time: time.Unix(0, s.atNs), Value: s.value,
				SpanID: append([]byte(nil), s.span[:]...), TraceID: append([]byte(nil), s.trace[:]...),
			})
		}
	}
	return out
}

// reservoir keeps a bounded number of exemplars, of all values since the last collection
// with the same chance. Those of before stay until they are replaced.
type reservoir struct {
	kept    []stored
	offered int
}

func (r *reservoir) offer(size int, v float64, m moment) {
	if r.kept == nil {
		r.kept = make([]stored, size)
	}
	n := r.offered
	r.offered++
	if n >= size {
		n = rand.IntN(r.offered)
	}
	if n < size {
		r.kept[n] = stored{v, m}
	}
}

func (r *reservoir) collect() []metricdata.Exemplar[float64] {
	r.offered = 0
	return exemplars(r.kept)
}

func (r *reservoir) reset() {
	r.offered = 0
	clear(r.kept)
}

// number is the sum of what was measured, or the last of it.
type number struct {
	last, any bool
	value     float64
	reservoir
}

func (n *number) add(v float64, m moment) {
	n.any = true
	if n.last {
		n.value = v
	} else {
		n.value += v
	}
	if m.atNs != 0 {
		n.offer(runtime.GOMAXPROCS(0), v, m)
	}
}

func (n *number) used() bool { return n.any }

func (n *number) reset() {
	n.any, n.value = false, 0
	n.reservoir.reset()
}
