package goruntime

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// The runtime keeps durations in a timeHistogram: for every power of two of nanoseconds
// some buckets of the same width, then the count of what is below zero and, since 1.20, of
// what is beyond the last. Before 1.20 16 buckets a power, since then 4, of which the
// lowest four hold what is below 256 ns.
// https://github.com/golang/go/blob/go1.20/src/runtime/histogram.go
// https://github.com/golang/go/blob/go1.18/src/runtime/histogram.go
type timeHistogram struct {
	counts  []byte // those of buckets, underflow, overflow
	buckets uint64
	width   uint // log2 of buckets a power of two
	lowest  uint // durations below 2^lowest ns share the first power's buckets
	beyond  bool
}

func timeHistogramOf(l *layout, counts []byte) timeHistogram {
	h := timeHistogram{counts: counts, buckets: l.off["timeHistogram.underflow"] / 8, width: 4, lowest: 4}
	if l.minor >= 20 {
		h.width, h.lowest, h.beyond = 2, 8, true
	}
	return h
}

// timeHistogramBytes is the struct's size.
func timeHistogramBytes(l *layout) uint64 { return l.off["timeHistogram.underflow"] + 16 }

// What is shown has one bucket a power of two from about 1 µs to 8.6 s. The runtime's
// buckets never lie in two of them.
const lowBound, highBound = 10, 33

var timeBounds = func() (b []float64) {
	for i := lowBound; i <= highBound; i++ {
		b = append(b, float64(uint64(1)<<i)/1e9)
	}
	return b
}()

// distribution adds the buckets up. The runtime keeps no sum: that of the middles of its
// buckets is off by at most 1/8 (1/32 before 1.20) of every duration.
func (h timeHistogram) distribution() (telemetry.Distribution, error) {
	d := telemetry.Distribution{Bounds: timeBounds, Counts: make([]uint64, len(timeBounds)+1)}
	count := func(i uint64) uint64 { return binary.LittleEndian.Uint64(h.counts[8*i:]) }
	add := func(n uint64, ns float64) {
		at := min(max(bits.Len64(uint64(ns)), lowBound)-lowBound, len(timeBounds))
		d.Counts[at] += n
		d.Sum += float64(n) * ns / 1e9
	}
	total := uint64(0)
	for i := range h.buckets {
		n := count(i)
		if n > maxCount {
			return d, fmt.Errorf("%w: %d durations in one bucket", errImplausible, n)
		}
		total += n
		low, size := h.bucket(i)
		add(n, float64(low)+float64(size)/2)
	}
	d.Counts[0] += count(h.buckets) // clocks that went backwards
	if h.beyond {
		low, _ := h.bucket(h.buckets)
		add(count(h.buckets+1), float64(low))
	}
	if total > maxCount || count(h.buckets) > maxCount || h.beyond && count(h.buckets+1) > maxCount {
		return d, fmt.Errorf("%w: %d durations", errImplausible, total)
	}
	return d, nil
}

// maxCount is more than any process has counted.
const maxCount = 1 << 52

// bucket is where a bucket begins and how wide it is, in nanoseconds.
func (h timeHistogram) bucket(i uint64) (low, size uint64) {
	power, sub := uint(i>>h.width), i&(1<<h.width-1)
	if power == 0 {
		size = 1 << (h.lowest - h.width)
		return sub * size, size
	}
	low = 1 << (h.lowest + power - 1)
	size = low >> h.width
	return low + sub*size, size
}

// readTimes returns how long goroutines waited to run, and how long collections stopped
// the program.
func (r *reader) readTimes() (waits, pauses telemetry.Distribution, err error) {
	l := r.l
	size := timeHistogramBytes(l)
	if !timeHistogramOf(l, nil).beyond {
		size -= 8
	}
	at := l.mstats + l.off["mstats.gcPauseDist"]
	if off, ok := l.off["schedt.stwTotalTimeGC"]; ok {
		at = l.sched + off
	}
	buf := make([]byte, 2*size)
	if err = r.fetch(piece{buf[:size], l.sched + l.off["schedt.timeToRun"]}, piece{buf[size:], at}); err != nil {
		return waits, pauses, err
	}
	if waits, err = timeHistogramOf(l, buf[:size]).distribution(); err != nil {
		return waits, pauses, err
	}
	pauses, err = timeHistogramOf(l, buf[size:]).distribution()
	return waits, pauses, err
}
