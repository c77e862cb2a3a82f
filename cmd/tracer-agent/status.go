package main

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/status"
	"github.com/tracer-agent/tracer-agent/internal/supervise"
)

// maxShown bounds the targets on the status page.
const maxShown = 1000

// errStarting: the running processes have not been looked at yet.
var errStarting = errors.New("starting")

// openStatus starts the status page. An address that is taken is no reason not to trace:
// a second agent by hand beside the node's is common.
func (a *agent) openStatus(cfg config.Config, self *selfmetrics.Registry) {
	if cfg.Health.Address == "" {
		return
	}
	started := time.Now()
	s, err := status.New(status.Options{
		Address: cfg.Health.Address, Log: a.log, Ready: a.ready,
		Snapshot: func(ctx context.Context) (status.Snapshot, error) {
			s, err := a.snapshot(ctx, self, started)
			s.Exporters = a.exporters(redact.Known(cfg.Secrets()))
			return s, err
		},
	})
	if err != nil {
		a.log.Info("no status page", "error", err)
		return
	}
	a.status = s
	a.log.Debug("status page", "address", s.Addr())
}

// ready says why the agent is not ready; nil when the processes that ran at the start
// have been looked at.
func (a *agent) ready() error {
	if !a.supervisor.Ready() {
		return errStarting
	}
	return nil
}

func (a *agent) snapshot(ctx context.Context, self *selfmetrics.Registry, started time.Time) (status.Snapshot, error) {
	targets, err := a.supervisor.Targets(ctx, maxShown)
	if err != nil {
		return status.Snapshot{}, err
	}
	s := status.Snapshot{
		Version: version, PID: os.Getpid(), Started: started, Ready: true, Enabled: a.enabled.Load(),
		Targets: []status.Target{}, Probes: []status.Probe{}, Losses: []status.Value{}, Metrics: []status.Value{},
	}
	if err := a.ready(); err != nil {
		s.Ready, s.Why = false, err.Error()
	}
	class := map[string]string{}
	for _, t := range targets {
		s.Targets = append(s.Targets, a.target(t, class))
	}
	for _, p := range a.manager.Stats() {
		if p.Attached > 0 || p.Hits > 0 {
			s.Probes = append(s.Probes, status.Probe{
				Probe: p.Probe, Point: p.Point, Class: class[p.Probe+"/"+p.Point], Attached: p.Attached, Hits: p.Hits, Time: p.Time,
			})
		}
	}
	for _, f := range self.Snapshot() {
		for _, sample := range f.Samples {
			if sample.Value == 0 {
				continue
			}
			v := status.Value{Name: f.Name, Labels: labelText(sample.Labels), Value: sample.Value}
			if f.Name == selfmetrics.NameRecordsLost {
				s.Losses = append(s.Losses, v)
			} else {
				s.Metrics = append(s.Metrics, v)
			}
		}
	}
	return s, nil
}

// exporters says how they fare; mask, which may be nil, takes out what a destination's
// answer quotes.
func (a *agent) exporters(mask func(string) string) []status.Exporter {
	out := []status.Exporter{}
	for _, e := range a.pipeline.Exporters() {
		s := status.Exporter{Name: e.Name, Waiting: e.Waiting, Taken: e.Exported, State: "idle"}
		if !e.Tried.IsZero() {
			s.Tried, s.State = &e.Tried, "ok"
		}
		if e.Note != "" {
			s.State = e.Note
		}
		if e.Failing != nil {
			s.State = oneLine(e.Failing)
		}
		if mask != nil {
			s.State = mask(s.State)
		}
		out = append(out, s)
	}
	return out
}

func (a *agent) target(t supervise.Target, class map[string]string) status.Target {
	out := status.Target{PID: t.PID, Exe: t.Exe, SelectedBy: t.SelectedBy, Service: t.Service, Propagation: t.Propagation}
	if t.Why != nil {
		out.Why = supervise.Explain(t.Why)
	}
	at := t.Attached
	if at == nil {
		return out
	}
	out.Watched = true
	if at.Exe != nil {
		out.Go = at.Exe.GoVersion().String()
	}
	on := map[string]bool{}
	at.Points(func(spec, point string, p goexe.Point) {
		on[spec] = true
		key := spec + "/" + point
		// The dearest of all executables is what is worth knowing.
		if c := className(p.Class); class[key] == "" || p.Class == goexe.ClassStepped {
			class[key] = c
		}
	})
	out.Probes = slices.Sorted(maps.Keys(on))
	return out
}

func labelText(labels []selfmetrics.Label) string {
	var parts []string
	for _, l := range labels {
		parts = append(parts, l.Key+"="+l.Value)
	}
	return strings.Join(parts, " ")
}
