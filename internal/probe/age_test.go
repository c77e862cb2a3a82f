package probe

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/testkernel"
)

// TestDropOld: what is too old is deleted and counted; in a crowded map sooner.
func TestDropOld(t *testing.T) {
	testkernel.Require(t, testkernel.Root)
	const startAt, openAt, room = 8, 4, 16
	for _, c := range []struct {
		name    string
		ages    []time.Duration
		closed  bool
		limit   time.Duration
		left    int
		dropped uint64
	}{
		{"young", []time.Duration{0, time.Minute, 59 * time.Minute}, false, time.Hour, 3, 0},
		{"old", []time.Duration{time.Minute, 61 * time.Minute, 5 * time.Hour}, false, time.Hour, 1, 2},
		{"crowded", []time.Duration{0, 0, 0, 0, time.Minute, time.Minute, 6 * time.Minute, 6 * time.Minute, 61 * time.Minute}, false, time.Hour, 6, 3},
		{"without a limit", []time.Duration{100 * time.Hour}, false, 0, 1, 0},
		{"closed", []time.Duration{0, 2 * time.Minute, 2 * time.Hour}, true, time.Hour, 3, 0},
		{"closed, filling", []time.Duration{0, 0, 0, 0, 0, 2 * time.Minute, 2 * time.Hour}, true, time.Hour, 5, 0},
		{"closed, filling, without a limit", []time.Duration{0, 0, 0, 0, 0, 2 * time.Minute, 2 * time.Hour}, true, 0, 5, 0},
		{"crowded, without a limit", []time.Duration{0, 0, 0, 0, 0, 0, 0, 2 * time.Minute, 2 * time.Hour}, false, 0, 9, 0},
		{"closed, crowded", []time.Duration{0, 0, 0, 0, 0, 0, 0, 2 * time.Minute, 2 * time.Hour}, true, time.Hour, 7, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			mp, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 16, ValueSize: 16, MaxEntries: room})
			if err != nil {
				t.Fatal(err)
			}
			defer mp.Close()
			s := &Spec{Name: "calls", InFlight: []InFlight{{Map: "ops", MaxAge: c.limit}}}
			m := &Manager{opts: ManagerOptions{Specs: []*Spec{s}, MaxInFlight: room},
				colls:  map[string]*ebpf.Collection{"calls": {Maps: map[string]*ebpf.Map{"ops": mp}}},
				starts: map[string]uint32{"ops": startAt}, opens: map[string]uint32{"ops": openAt}, aged: map[string]*atomic.Uint64{"calls": new(atomic.Uint64)}}
			now := 1000 * time.Hour
			for i, age := range c.ages {
				value := make([]byte, 16)
				binary.NativeEndian.PutUint64(value[startAt:], uint64(now-age))
				if !c.closed {
					value[openAt] = 1
				}
				if err := mp.Put(goKey{1, uint64(i)}, value); err != nil {
					t.Fatal(err)
				}
			}
			m.dropOld(uint64(now))
			left := 0
			eachKey(mp, func([]byte) { left++ })
			if got := m.aged["calls"].Load(); left != c.left || got != c.dropped {
				t.Errorf("%d left, %d counted, want %d and %d", left, got, c.left, c.dropped)
			}
		})
	}
}
