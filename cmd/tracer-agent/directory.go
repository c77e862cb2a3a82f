package main

import (
	"log/slog"
	"sync"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/resource"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// maxEarly bounds the processes that are looked up before they are announced.
const maxEarly = 1024

// directory knows what the watched processes are. The supervisor announces them;
// a process that the kernel let in at exec can have spans a moment before that,
// and is then looked up when its first span comes.
type directory struct {
	builder *resource.Builder
	store   *resource.Store
	metrics *metrics.Store
	log     *slog.Logger

	mu sync.Mutex
	// early are the processes that were looked up before they were announced.
	early map[telemetry.ProcessKey]struct{}
}

func newDirectory(cfg config.Service, log *slog.Logger) (*directory, error) {
	builder, err := resource.NewBuilder(resource.Options{Service: cfg, AgentVersion: version})
	if err != nil {
		return nil, err
	}
	return &directory{
		builder: builder, store: resource.NewStore(), log: log, early: map[telemetry.ProcessKey]struct{}{},
	}, nil
}

// ResourceOf implements pipeline.Resources. It reads /proc once for a process that
// was not announced, which takes some 100 us.
func (d *directory) ResourceOf(key telemetry.ProcessKey) *telemetry.Resource {
	if r := d.store.ResourceOf(key); r != nil {
		return r
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, tried := d.early[key]; tried {
		return d.store.ResourceOf(key)
	}
	if len(d.early) >= maxEarly {
		clear(d.early) // none of them was announced in all that time
	}
	d.early[key] = struct{}{}
	r, err := d.builder.Build(resource.Process{Key: key})
	if err != nil {
		return nil
	}
	d.store.Put(key, r)
	return r
}

// Add implements supervise.Directory. What it finds replaces what was looked up
// early, which lacks what only the executable says.
func (d *directory) Add(p discover.Process, at *probe.Attached) string {
	d.mu.Lock()
	delete(d.early, p.Key)
	d.mu.Unlock()
	desc := resource.Process{Key: p.Key, Exe: p.Path}
	if at != nil && at.Exe != nil {
		desc.GoVersion = at.Exe.GoVersion().Raw
	}
	r, err := d.builder.Build(desc)
	if err != nil {
		d.log.Debug("process not described", "pid", p.Key.PID, "error", err)
		return ""
	}
	d.store.Put(p.Key, r)
	d.metrics.Add(p.Key, r)
	return serviceName(r)
}

// Remove implements supervise.Directory.
func (d *directory) Remove(key telemetry.ProcessKey) {
	d.mu.Lock()
	delete(d.early, key)
	d.mu.Unlock()
	d.store.Remove(key)
	d.metrics.Remove(key)
}

// serviceName is a resource's service.name, "" when it has none.
func serviceName(r *telemetry.Resource) string {
	for _, kv := range r.Attributes {
		if kv.Key == "service.name" {
			return kv.Value.AsString()
		}
	}
	return ""
}
