package main

import (
	"log/slog"
	"os"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

func TestDirectory(t *testing.T) {
	needRoot(t)
	procs, err := discover.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var self discover.Process
	for _, p := range procs {
		if int(p.Key.PID) == os.Getpid() {
			self = p
		}
	}
	d, err := newDirectory(config.Service{Name: "me"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	early := d.ResourceOf(self.Key)
	if early == nil || serviceName(early) != "me" {
		t.Fatalf("a process that was not announced: %v, want it looked up", early)
	}
	if again := d.ResourceOf(self.Key); again != early {
		t.Error("looked up twice")
	}
	if name := d.Add(self, nil, nil); name != "me" {
		t.Errorf("service %q, want %q", name, "me")
	}
	d.Remove(self.Key)
	if d.ResourceOf(self.Key) == nil {
		t.Error("late spans of an ended process have no resource")
	}

	ended := telemetry.ProcessKey{PID: self.Key.PID, StartNs: self.Key.StartNs - 1e9} // another one of that pid
	for i := range 2 * maxEarly {
		key := ended
		key.StartNs -= uint64(i)
		if r := d.ResourceOf(key); r != nil {
			t.Fatalf("a process that ended: %v", r)
		}
	}
	if len(d.early) > maxEarly {
		t.Errorf("%d processes remembered, want at most %d", len(d.early), maxEarly)
	}
}
