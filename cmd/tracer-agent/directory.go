package main

import (
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/policy"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/resource"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
	"github.com/tracer-agent/tracer-agent/k8s"
)

// maxEarly bounds the processes that are looked up before they are announced.
const maxEarly = 1024

// lateRecords is how long a process's settings hold after its end: its last records may
// be in the ring still.
const lateRecords = 30 * time.Second

// settled is what was decided about a process.
type settled struct {
	policy *policy.Policy // nil: no settings of its own
	drop   bool           // nobody selects it: what it did is not sent
	until  time.Time      // zero while it is watched
}

// directory knows what the watched processes are. The supervisor announces them;
// a process that the kernel let in at exec can have spans a moment before that,
// and is then looked up when its first span comes.
type directory struct {
	builder *resource.Builder
	store   *resource.Store
	metrics *metrics.Store
	pools   *dbpool.Registry
	log     *slog.Logger

	mu sync.Mutex
	// early are the processes that were looked up before they were announced.
	early map[telemetry.ProcessKey]settled
	// policies of processes that are watched, or were a moment ago.
	policies map[telemetry.ProcessKey]settled
	ended    []telemetry.ProcessKey // in the order of their ends
	selector *discover.Selector

	pods    *k8s.Watcher // nil outside Kubernetes
	waiting map[telemetry.ProcessKey]*waiting
	held    int // operations of them
}

func newDirectory(cfg config.Service, log *slog.Logger) (*directory, error) {
	builder, err := resource.NewBuilder(resource.Options{Service: cfg, AgentVersion: version})
	if err != nil {
		return nil, err
	}
	return &directory{
		builder: builder, store: resource.NewStore(), log: log, early: map[telemetry.ProcessKey]settled{},
		policies: map[telemetry.ProcessKey]settled{}, waiting: map[telemetry.ProcessKey]*waiting{},
	}, nil
}

// setSelector says who decides about processes that are not announced yet.
func (d *directory) setSelector(s *discover.Selector) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.selector = s
}

// settingsOf is what was decided about the process of an operation.
func (d *directory) settingsOf(key telemetry.ProcessKey) settled {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p, ok := d.policies[key]; ok {
		return p
	}
	return d.lookup(key)
}

// ResourceOf implements pipeline.Resources. It reads /proc once for a process that
// was not announced, which takes some 100 us.
func (d *directory) ResourceOf(key telemetry.ProcessKey) *telemetry.Resource {
	if r := d.store.ResourceOf(key); r != nil {
		return r
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lookup(key)
	return d.store.ResourceOf(key)
}

// lookup decides about a process that the kernel let in and the supervisor has not
// announced yet, once, and describes it. One that cannot be read any more is sent
// without settings of its own only when there are none.
func (d *directory) lookup(key telemetry.ProcessKey) settled {
	if was, ok := d.early[key]; ok {
		return was
	}
	if len(d.early) >= maxEarly {
		clear(d.early) // none of them was announced in all that time
	}
	var got settled
	desc := resource.Process{Key: key}
	if d.selector != nil {
		path, err := os.Readlink(discover.ExePath(key.PID))
		sel := d.selector.Select(discover.Process{Key: key, Path: path}, nil)
		got.policy = sel.Policy
		if err != nil || sel.Reason == discover.NotSelected && !sel.Undecided {
			got = settled{policy: d.selector.General(), drop: d.selector.HasRules()}
		}
		if got.policy != nil {
			desc.Service = &got.policy.Service
		}
	}
	d.early[key] = got
	if r, err := d.builder.Build(desc); err == nil {
		d.store.Put(key, r)
	}
	return got
}

// Add implements supervise.Directory. What it finds replaces what was looked up
// early, which lacks what only the executable says.
func (d *directory) Add(p discover.Process, pol *policy.Policy, at *probe.Attached) string {
	d.mu.Lock()
	delete(d.early, p.Key)
	d.policies[p.Key] = settled{policy: pol}
	d.forgetEnded(time.Now())
	d.mu.Unlock()
	if d.pods != nil {
		if container := discover.ContainerOf(p.Key.PID); container != "" {
			if _, known := d.pods.PodOf(container); !known {
				d.mu.Lock()
				if d.waiting[p.Key] == nil {
					d.waiting[p.Key] = &waiting{p: p, policy: pol, at: at, container: container}
				}
				d.mu.Unlock()
			}
		}
	}
	return d.describe(p, pol, at)
}

// describe reads what a process is and hands it to those who ask for it.
func (d *directory) describe(p discover.Process, pol *policy.Policy, at *probe.Attached) string {
	desc := resource.Process{Key: p.Key, Exe: p.Path}
	if d.pods != nil {
		if pod, _ := d.pods.PodOf(discover.ContainerOf(p.Key.PID)); pod != nil {
			desc.Platform = pod.Attributes()
		}
	}
	if pol != nil {
		desc.Service = &pol.Service
	}
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
	now := time.Now()
	if p, ok := d.policies[key]; ok && p.until.IsZero() {
		p.until = now.Add(lateRecords)
		d.policies[key] = p
		d.ended = append(d.ended, key)
	}
	d.forgetEnded(now)
	d.mu.Unlock()
	d.store.Remove(key)
	d.metrics.Remove(key)
	d.pools.Remove(key)
}

// forgetEnded drops the settings of processes that ended a while ago.
func (d *directory) forgetEnded(now time.Time) {
	for len(d.ended) > 0 {
		key := d.ended[0]
		p, ok := d.policies[key]
		if ok && !p.until.IsZero() && now.Before(p.until) {
			return
		}
		if ok && !p.until.IsZero() { // else it is watched again
			delete(d.policies, key)
		}
		d.ended = d.ended[1:]
	}
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
