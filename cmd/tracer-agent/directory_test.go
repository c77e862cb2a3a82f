package main

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/policy"
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

// TestDirectorySettings: a process's settings hold from its first operation, before it is
// announced, to its last, after its end; one that a rule excludes sends nothing.
func TestDirectorySettings(t *testing.T) {
	needRoot(t)
	self := telemetry.ProcessKey{PID: int32(os.Getpid())}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		cfg  config.Config
		want settled
	}{
		{"no rules", config.Config{Enabled: true, Select: config.Select{Exes: []string{exe}}}, settled{}},
		{"nobody selects it, no rules", config.Config{Enabled: true}, settled{}},
		{"excluded", config.Config{
			Enabled: true, Select: config.Select{Exes: []string{exe}},
			Exclude: []config.Match{{CommandLine: "*"}},
		}, settled{drop: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := newDirectory(config.Service{}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			sel, err := newSelector(c.cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			d.setSelector(sel)
			key := self
			key.PID = int32(os.Getppid()) // not the agent, which is never selected
			if got := d.settingsOf(key); got.drop != c.want.drop {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}

	d, err := newDirectory(config.Service{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	own := &policy.Policy{}
	d.Add(discover.Process{Key: self, Path: exe}, own, nil)
	d.Remove(self)
	if got := d.settingsOf(self); got.policy != own {
		t.Errorf("after the end: %+v, want the process's own settings", got)
	}
	d.forgetEnded(time.Now().Add(2 * lateRecords))
	if len(d.policies)+len(d.ended) != 0 {
		t.Errorf("settings of a process that ended long ago are kept: %v", d.policies)
	}
}
