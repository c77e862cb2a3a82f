package mongodriver

import (
	"slices"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// TestMadeFromTheStart: what an entry has of a connection may be used from when the program is
// there that sees connections being made, and not without it.
func TestMadeFromTheStart(t *testing.T) {
	p := &probe.Placed{Points: map[string]goexe.Point{drivers[1].connect(): {}}}
	v := Config{}.encodeExe(p, 42)
	if v.V[0].MadeNs != 0 || v.V[1].MadeNs != 42 {
		t.Errorf("made_ns %d and %d, want 0 without the point and 42 with it", v.V[0].MadeNs, v.V[1].MadeNs)
	}
	// The manager attaches from the last point to the first.
	points := New(Config{}).Points
	for _, d := range drivers {
		at := func(name string) int {
			return slices.IndexFunc(points, func(pt probe.Point) bool { return pt.Name == name })
		}
		connect := at(d.connect())
		if connect < 0 || connect < at(d.group+"_write") || !points[connect].Needed {
			t.Errorf("%s is not put on before, and taken off after, what counts on it", d.connect())
		}
	}
}
