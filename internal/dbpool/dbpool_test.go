package dbpool

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"
	"unsafe"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// self is the test's own process.
func self(t *testing.T) telemetry.ProcessKey {
	t.Helper()
	ticks, err := startTicks(int32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	return telemetry.ProcessKey{PID: int32(os.Getpid()), StartNs: ticks * nsPerTick}
}

var lib = Lib{Exe: 3, Name: "lib"}

// collected reads a process's pools as metrics do.
func collected(r *Registry, key telemetry.ProcessKey) map[string]float64 {
	got := map[string]float64{}
	read, _ := r.Open(key)
	read(func(i *telemetry.Instrument, v float64, a attribute.Set) {
		got[i.Name+a.Encoded(attribute.DefaultEncoder())] = v
	})
	return got
}

// TestReadsMemory: the numbers are those in a process's memory, here our own.
func TestReadsMemory(t *testing.T) {
	pool := &struct{ open, idle, pending uint64 }{7, 4, 2}
	r := New(slog.New(slog.DiscardHandler))
	key, at := self(t), uint64(uintptr(unsafe.Pointer(pool)))
	r.Learn(lib, func(m Memory, at uint64) (Stats, error) {
		w := m.Words(at, 24)
		return Stats{Open: w.Int(0), Idle: w.Int(8), Pending: w.Int(16), Waits: Unknown, Timeouts: Unknown, WaitTime: Unknown}, w.Err
	}, "x", nil)
	if r.Known(key, lib, at) {
		t.Fatal("known before it was added")
	}
	r.Add(key, lib, at, Pool{Name: "db"})
	got := collected(r, key)
	for name, want := range map[string]float64{
		"db.client.connection.countdb.client.connection.pool.name=db,db.client.connection.state=idle": 4,
		"db.client.connection.countdb.client.connection.pool.name=db,db.client.connection.state=used": 3,
		"db.client.connection.pending_requestsdb.client.connection.pool.name=db":                      2,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v: %v", name, got[name], want, got)
		}
	}
	if len(got) != 3 {
		t.Errorf("what is not known is there: %v", got)
	}
	r.Waited(key, lib, at, 1, time.Second)
	r.Waited(key, lib, at, 2, 500*time.Millisecond)
	r.Waited(key, lib, at+8, 1, time.Hour) // of no pool
	got = collected(r, key)
	if n, d := got["db.client.connection.waitsdb.client.connection.pool.name=db"], got["db.client.connection.wait_durationdb.client.connection.pool.name=db"]; n != 3 || d != 1.5 {
		t.Errorf("%v waits of %v s, want 3 of 1.5: %v", n, d, got)
	}
	pool.open = 0 // the pool stays alive until here
}

// TestForgotten: pools that are closed, not sane, or not used are not shown for long.
func TestForgotten(t *testing.T) {
	key := self(t)
	for name, c := range map[string]struct {
		layout Layout
		after  int // collections until it is forgotten
	}{
		"closed":   {func(Memory, uint64) (Stats, error) { return Stats{Open: 1, Closed: true}, nil }, 1},
		"negative": {func(Memory, uint64) (Stats, error) { return Stats{Open: -5}, nil }, 2},
		"huge":     {func(Memory, uint64) (Stats, error) { return Stats{Idle: 1 << 40}, nil }, 2},
		"fails":    {func(Memory, uint64) (Stats, error) { return Stats{}, errors.New("x") }, 2},
	} {
		r := New(slog.New(slog.DiscardHandler))
		r.Learn(lib, c.layout, "x", nil)
		r.Add(key, lib, 4096, Pool{Name: "db", Sticky: true})
		for range c.after {
			if got := collected(r, key); len(got) > 0 {
				t.Errorf("%s: shown: %v", name, got)
			}
		}
		if n := r.Count(key, lib); n != 0 {
			t.Errorf("%s: not forgotten", name)
		}
	}

	r := New(slog.New(slog.DiscardHandler))
	now := time.Now()
	r.now = func() time.Time { return now }
	r.Learn(lib, func(Memory, uint64) (Stats, error) { return Stats{Open: 1}, nil }, "x", nil)
	r.Add(key, lib, 4096, Pool{Name: "db"})
	now = now.Add(idleFor + time.Second)
	if got := collected(r, key); len(got) > 0 || r.Count(key, lib) != 0 {
		t.Errorf("not used for long, and shown: %v", got)
	}
}

// TestBounds: of many pools the one that was used last is kept, and another process with
// the same number has none.
func TestBounds(t *testing.T) {
	key := self(t)
	r := New(slog.New(slog.DiscardHandler))
	now := time.Now()
	r.now = func() time.Time { now = now.Add(time.Millisecond); return now }
	r.Learn(lib, func(Memory, uint64) (Stats, error) { return Stats{Open: 1}, nil }, "x", nil)
	r.Add(key, lib, 1, Pool{Name: "db"})
	for i := range uint64(10 * maxPools) {
		r.Add(key, lib, 100+i, Pool{Name: "db"})
		if !r.Known(key, lib, 1) {
			t.Fatalf("in use, and forgotten after %d others", i)
		}
	}
	if n := r.Count(key, lib); n != maxPools {
		t.Errorf("%d pools, the limit is %d", n, maxPools)
	}
	other := telemetry.ProcessKey{PID: key.PID, StartNs: key.StartNs + 5*nsPerTick}
	r.Add(other, lib, 1, Pool{Name: "db"})
	if got := collected(r, other); len(got) > 0 {
		t.Errorf("another process's numbers: %v", got)
	}
	r.Remove(key)
	if r.Count(key, lib) != 0 {
		t.Error("not removed")
	}
}

// TestUnknownLayout: one line says why, and nothing is kept.
func TestUnknownLayout(t *testing.T) {
	var log bytes.Buffer
	r := New(slog.New(slog.NewTextHandler(&log, nil)))
	r.Learn(lib, nil, "shop", errors.New("no offset"))
	if !r.Known(self(t), lib, 4096) || bytes.Count(log.Bytes(), []byte("\n")) != 1 || !bytes.Contains(log.Bytes(), []byte("no offset")) {
		t.Errorf("log: %s", log.String())
	}
	if w := Of(int32(os.Getpid())).Words(0xffff_ffff_0000_0000, 8); w.Err == nil {
		t.Error("read where nothing is")
	}
	if w := Of(int32(os.Getpid())).Words(8, 8); w.U64(0) != 0 || w.Err == nil {
		t.Error("read page zero")
	}
}
