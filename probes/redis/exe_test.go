package redis

import (
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// TestPeerOffsets: how a connection leads to its addresses is known of every Go release that
// is supported, and of none that is not.
func TestPeerOffsets(t *testing.T) {
	table, err := offsets.Parse(offsetsJSON)
	if err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]bool{"1.18": true, "1.22.3": true, "1.27.4": true, "1.28.0": false} {
		p := &probe.Placed{Offsets: map[goexe.Field]int64{}}
		for _, f := range peerFields() {
			if off, match := table.Lookup(f.Module, version, f.Type, f.Name); match != offsets.None {
				p.Offsets[f] = off
			}
		}
		var v bpfRdExe
		if ok := setPeer(&v, p); ok != want {
			t.Errorf("Go %s: known %v, want %v", version, ok, want)
		}
		rg := &v.Lib[bpfRdLibLIB_REDIGO]
		if want && (rg.FdLaddr != 104 || rg.FdRaddr != 120 || rg.AddrPort != 24) {
			t.Errorf("Go %s: %d, %d, %d", version, rg.FdLaddr, rg.FdRaddr, rg.AddrPort)
		}
	}
}
