package main

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/supervise"
)

// liveSettings take effect by a reload; all others are read at the start.
var liveSettings = []string{"enabled", "select", "instrument", "exclude", "probes", "service", "log"}

// reloader applies a configuration that was changed while the agent runs: whole, or
// not at all when any of it is wrong.
type reloader struct {
	load  func() (config.Config, error)
	now   config.Config
	level *slog.LevelVar
	log   *slog.Logger
	agent *agent
}

// reload is called by one goroutine.
func (r *reloader) reload(ctx context.Context, why string) {
	next, err := r.load()
	if err == nil && next.SelectsNothing() && next.Enabled {
		err = errNothingSelected
	}
	if err == nil {
		err = r.agent.reconfigure(ctx, next)
	}
	if err != nil {
		r.log.Error("the new configuration is refused; the old one stays in force", "because_of", why, "error", oneLine(err))
		return
	}
	r.level.Set(next.Log.SlogLevel())
	attrs := []any{"because_of", why, "enabled", next.Enabled}
	if later := needRestart(r.now, next); len(later) > 0 {
		attrs = append(attrs, "needs_restart", strings.Join(later, ","))
	}
	r.now = next
	r.log.Info("configuration reloaded", attrs...)
}

// needRestart names the changed settings that a reload does not apply.
func needRestart(old, next config.Config) (names []string) {
	a, b := reflect.ValueOf(old), reflect.ValueOf(next)
	for i := range a.NumField() {
		name := a.Type().Field(i).Tag.Get("yaml")
		if name == "-" || slices.Contains(liveSettings, name) {
			continue
		}
		if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			names = append(names, name)
		}
	}
	return names
}

// reconfigure applies what can be applied while everything runs.
func (a *agent) reconfigure(ctx context.Context, cfg config.Config) error {
	selector, err := newSelector(cfg, a.pods)
	if err != nil {
		return err
	}
	if selector.WantsPorts() {
		if err := a.watcher.WatchPorts(); err != nil {
			return err
		}
	}
	a.dir.setSelector(selector)
	a.enabled.Store(cfg.Enabled)
	err = a.supervisor.Reconfigure(ctx, supervise.Settings{
		Selector: selector, PIDs: pids(cfg), OnlyPIDs: cfg.Enabled && cfg.OnlyPIDs(),
	})
	if errors.Is(err, context.Canceled) {
		return nil // the agent is ending
	}
	return err
}
