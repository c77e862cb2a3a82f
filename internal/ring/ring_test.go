package ring

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/tracer-agent/tracer-agent/internal/testkernel"
)

const (
	noWakeup    = 1 // BPF_RB_NO_WAKEUP
	forceWakeup = 2 // BPF_RB_FORCE_WAKEUP
	recordBytes = 8
	inRing      = recordBytes + ringbufHeader
	// ringbufHeader precedes every record.
	ringbufHeader = 8
)

// writer puts one record into a ring, with these flags.
func writer(t *testing.T, m *ebpf.Map, flags int32) func() {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R6, 1),
		asm.StoreMem(asm.RFP, -recordBytes, asm.R6, asm.DWord),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -recordBytes),
		asm.Mov.Imm(asm.R3, recordBytes),
		asm.Mov.Imm(asm.R4, flags),
		asm.FnRingbufOutput.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	return func() {
		if _, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil {
			t.Error(err)
		}
	}
}

// TestWait: a record without a wake-up is not waited for, one with is; what is there
// already, and Wake, are not waited for either.
func TestWait(t *testing.T) {
	testkernel.Require(t, testkernel.Root, testkernel.RingBuf)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	r, err := NewReader(m)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	silent, loud := writer(t, m, noWakeup), writer(t, m, forceWakeup)
	const short, long, late = 300 * time.Millisecond, time.Minute, 20 * time.Second
	// wait says how long Wait took, and reads what is there.
	wait := func(until time.Duration, enough int, meanwhile func()) (took time.Duration, records int) {
		t.Helper()
		if meanwhile != nil {
			timer := time.AfterFunc(short/3, meanwhile)
			defer timer.Stop()
		}
		begin := time.Now()
		if err := r.Wait(begin.Add(until), enough); err != nil {
			t.Fatal(err)
		}
		took = time.Since(begin)
		var rec ringbuf.Record
		for {
			ok, err := r.Read(&rec)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				return took, records
			}
			records++
		}
	}
	before := func(f func()) func() { f(); return nil }
	for _, tt := range []struct {
		name      string
		until     time.Duration
		enough    int
		meanwhile func() func()
		soon      bool
		records   int
	}{
		{"nothing", short, 1, func() func() { return nil }, false, 0},
		{"silent, meanwhile", short, 1, func() func() { return silent }, false, 1},
		{"silent, before", long, 1, func() func() { return before(silent) }, true, 1},
		{"silent, before, not enough", short, inRing + 1, func() func() { return before(silent) }, false, 1},
		{"loud, meanwhile", long, 1, func() func() { return loud }, true, 1},
		{"loud, before", long, 1, func() func() { return before(loud) }, true, 1},
		{"loud, meanwhile, again", long, inRing + 1, func() func() { return loud }, true, 1},
		{"Wake, meanwhile", long, 1, func() func() { return r.Wake }, true, 0},
		{"Wake, before", long, 1, func() func() { return before(r.Wake) }, true, 0},
		{"in the past", -time.Second, 1, func() func() { return nil }, true, 0},
	} {
		// Wake counts for the Wait under way and for the next one; one more has none of it.
		if _, n := wait(0, 1, nil); n != 0 {
			t.Fatalf("%s: %d records before", tt.name, n)
		}
		took, n := wait(tt.until, tt.enough, tt.meanwhile())
		if soon := took < late; n != tt.records || soon != tt.soon && tt.until == long || !tt.soon && took < tt.until {
			t.Errorf("%s: %v, %d records; want %d, soon: %v", tt.name, took, n, tt.records, tt.soon)
		}
	}
}
