package probe

import (
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/testkernel"
)

// What traps cost here: a stepped one is the dearer, whichever machine it is.
func TestMeasureTraps(t *testing.T) {
	testkernel.Require(t, testkernel.Root, testkernel.Uprobe)
	costs, err := measureTraps(haveUprobeMulti())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", costs)
	if !costs.measured || costs.emulated < trapLeast || costs.stepped <= costs.emulated || costs.trampoline >= costs.emulated {
		t.Errorf("costs %+v", costs)
	}
	if costs.of(goexe.ClassUnknown) != costs.stepped || costs.of(goexe.ClassEmulated) != costs.emulated {
		t.Error("an unknown class is not the dearest")
	}
	if n := trapped(1); n != 3 {
		t.Errorf("trapped(1) is %d", n)
	}
}
