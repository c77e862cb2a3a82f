package goruntime

import (
	"encoding/binary"
	"math/bits"
	"testing"
)

// record is what the runtime does: (*timeHistogram).record.
func record(h timeHistogram, ns uint64) {
	var at uint64
	if h.beyond {
		power, top := uint64(0), uint64(9)
		if l := uint64(bits.Len64(ns)); l >= 9 {
			top, power = l, l-9+1
		}
		at = power*4 + ns>>(top-1-2)%4
		if power >= 40 {
			at = h.buckets + 1
		}
	} else {
		power, sub := uint64(0), ns
		if ns >= 16 {
			power = uint64(bits.Len64(ns)) - 4
			sub = ns >> (power - 1) % 16
		}
		if at = power*16 + sub; at >= h.buckets {
			at = h.buckets - 1
		}
	}
	binary.LittleEndian.PutUint64(h.counts[8*at:], binary.LittleEndian.Uint64(h.counts[8*at:])+1)
}

func TestTimeHistogram(t *testing.T) {
	for minor, buckets := range map[int]uint64{18: 720, 19: 720, 20: 160, 27: 160} {
		l := &layout{minor: minor, off: map[string]uint64{"timeHistogram.underflow": buckets * 8}}
		for _, ns := range []uint64{0, 1, 15, 16, 255, 256, 511, 512, 1023, 1024, 1025, 5_000, 1 << 20, 1<<33 - 1, 1 << 33, 1 << 50} {
			h := timeHistogramOf(l, make([]byte, timeHistogramBytes(l)))
			record(h, ns)
			d, err := h.distribution()
			if err != nil {
				t.Fatal(err)
			}
			at := -1
			for i, n := range d.Counts {
				if n == 1 && at < 0 {
					at = i
				} else if n != 0 {
					t.Fatalf("1.%d: %d ns is counted in %v", minor, ns, d.Counts)
				}
			}
			s := float64(ns) / 1e9
			if at < 0 || at > 0 && s < d.Bounds[at-1] || at < len(d.Bounds) && s >= d.Bounds[at] {
				t.Errorf("1.%d: %d ns is counted in bucket %d of %v", minor, ns, at, d.Bounds)
			}
			if ns >= 256 && ns < 1<<47 && (d.Sum < s*0.87 || d.Sum > s*1.13) {
				t.Errorf("1.%d: the sum of %d ns is %v s", minor, ns, d.Sum)
			}
		}
	}
	l := &layout{minor: 20, off: map[string]uint64{"timeHistogram.underflow": 1280}}
	h := timeHistogramOf(l, make([]byte, timeHistogramBytes(l)))
	for i := range h.counts {
		h.counts[i] = 0xff
	}
	if d, err := h.distribution(); err == nil {
		t.Errorf("read %v", d)
	}
}
