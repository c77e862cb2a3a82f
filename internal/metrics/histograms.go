package metrics

import (
	"math"
	"slices"
	"sort"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// span is what histograms of both kinds say of the values besides their buckets.
type span struct {
	count         uint64
	sum, low, top float64
}

func (s *span) add(v float64) {
	if s.count == 0 {
		s.low, s.top = v, v
	}
	s.count++
	s.sum += v
	s.low, s.top = min(s.low, v), max(s.top, v)
}

func (s *span) used() bool { return s.count > 0 }

func (s *span) extrema(without bool) (low, top metricdata.Extrema[float64]) {
	if without || s.count == 0 {
		return low, top
	}
	return metricdata.NewExtrema(s.low), metricdata.NewExtrema(s.top)
}

// explicit is a histogram with given boundaries.
type explicit struct {
	span
	bounds []float64 // ascending; of all series
	counts []uint64  // len(bounds)+1
	// examples are the last one of each bucket; nil until there is one.
	examples []stored
}

func newExplicit(bounds []float64) *explicit {
	return &explicit{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

func (h *explicit) add(v float64, m moment) {
	h.span.add(v)
	at := sort.SearchFloat64s(h.bounds, v)
	h.counts[at]++
	if m.atNs == 0 {
		return
	}
	if h.examples == nil {
		h.examples = make([]stored, len(h.counts))
	}
	h.examples[at] = stored{v, m}
}

func (h *explicit) reset() {
	h.span = span{}
	clear(h.counts)
	clear(h.examples)
}

func (h *explicit) point(p metricdata.HistogramDataPoint[float64], f *form) metricdata.HistogramDataPoint[float64] {
	p.Count, p.Sum, p.Bounds, p.BucketCounts = h.count, h.sum, slices.Clone(h.bounds), slices.Clone(h.counts)
	p.Min, p.Max = h.extrema(f.noMinMax)
	p.Exemplars = exemplars(h.examples)
	return p
}

// The specification's bound: at this scale two buckets hold all numbers.
const minScale = -10

// exponential is a base-2 exponential histogram: bucket i of scale s holds the values in
// (2^(i/2^s), 2^((i+1)/2^s)]. The scale falls when a value does not fit any more.
// https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
type exponential struct {
	span
	maxSize            int
	maxScale, scale    int32
	zero               uint64
	positive, negative buckets
	reservoir
}

func newExponential(maxSize int, maxScale int32) *exponential {
	return &exponential{maxSize: maxSize, maxScale: maxScale, scale: maxScale}
}

func (h *exponential) add(v float64, m moment) {
	if math.IsNaN(v) || math.IsInf(v, 0) || !h.place(v) {
		return
	}
	h.span.add(v)
	if m.atNs != 0 {
		h.offer(min(20, h.maxSize), v, m)
	}
}

// place counts a value in its bucket; false when even the lowest scale has none for it.
func (h *exponential) place(v float64) bool {
	if v == 0 {
		h.zero++
		return true
	}
	b := &h.positive
	if v < 0 {
		b = &h.negative
	}
	at := index(math.Abs(v), h.scale)
	by := b.tooFine(at, h.maxSize)
	if h.scale-by < minScale {
		return false
	}
	if by > 0 {
		h.scale -= by
		h.positive.merge(by)
		h.negative.merge(by)
		at = index(math.Abs(v), h.scale)
	}
	b.count(at)
	return true
}

// index is the bucket of a value above zero.
func index(v float64, scale int32) int32 {
	frac, e := math.Frexp(v) // v = frac * 2^e, frac in [0.5, 1)
	exp := int32(e)
	if scale > 0 {
		return exp<<scale + int32(math.Log(frac)*math.Ldexp(math.Log2E, int(scale))) - 1
	}
	if frac == 0.5 { // a power of two is the upper end of its bucket
		exp--
	}
	return (exp - 1) >> -scale
}

func (h *exponential) used() bool { return h.span.used() }

func (h *exponential) reset() {
	h.span, h.scale, h.zero = span{}, h.maxScale, 0
	h.positive, h.negative = buckets{}, buckets{}
	h.reservoir.reset()
}

func (h *exponential) point(p metricdata.ExponentialHistogramDataPoint[float64], f *form) metricdata.ExponentialHistogramDataPoint[float64] {
	p.Count, p.Sum, p.Scale, p.ZeroCount = h.count, h.sum, h.scale, h.zero
	p.PositiveBucket = metricdata.ExponentialBucket{Offset: h.positive.first, Counts: slices.Clone(h.positive.counts)}
	p.NegativeBucket = metricdata.ExponentialBucket{Offset: h.negative.first, Counts: slices.Clone(h.negative.counts)}
	p.Min, p.Max = h.extrema(f.noMinMax)
	p.Exemplars = h.collect()
	return p
}

// buckets are a row of them without a gap.
type buckets struct {
	first  int32
	counts []uint64
}

// tooFine is by how much the scale must fall for bucket at to fit as well.
func (b *buckets) tooFine(at int32, size int) (by int32) {
	if len(b.counts) == 0 {
		return 0
	}
	low, top := min(at, b.first), max(at, b.first+int32(len(b.counts))-1)
	for int(top)-int(low) >= size && by < 64 {
		low, top, by = low>>1, top>>1, by+1
	}
	return by
}

func (b *buckets) count(at int32) {
	switch n := int32(len(b.counts)); {
	case n == 0:
		b.first, b.counts = at, []uint64{0}
	case at < b.first:
		b.counts = append(make([]uint64, b.first-at, b.first-at+n), b.counts...)
		b.first = at
	case at >= b.first+n:
		b.counts = append(b.counts, make([]uint64, at-b.first-n+1)...)
	}
	b.counts[at-b.first]++
}

// merge makes one bucket of every 2^by.
func (b *buckets) merge(by int32) {
	if len(b.counts) == 0 {
		return
	}
	first, last := b.first>>by, (b.first+int32(len(b.counts))-1)>>by
	for i, n := range b.counts {
		b.counts[i] = 0
		b.counts[(b.first+int32(i))>>by-first] += n
	}
	b.first, b.counts = first, b.counts[:last-first+1]
}
