package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/exporter/console"
	"github.com/tracer-agent/tracer-agent/exporter/fromconfig"
	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/goruntime"
	"github.com/tracer-agent/tracer-agent/internal/hostmetrics"
	"github.com/tracer-agent/tracer-agent/internal/metricrules"
	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/pipeline"
	"github.com/tracer-agent/tracer-agent/internal/policy"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/propagate"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/status"
	"github.com/tracer-agent/tracer-agent/internal/supervise"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
	"github.com/tracer-agent/tracer-agent/k8s"
	"github.com/tracer-agent/tracer-agent/probes/nethttp"
)

// agent is everything that runs, wired.
type agent struct {
	log        *slog.Logger
	stdout     *os.File
	pipeline   *pipeline.Pipeline
	metrics    *metrics.Store
	active     activeSource
	manager    *probe.Manager
	watcher    *discover.Watcher
	supervisor *supervise.Supervisor
	kernelMode *propagate.Kernel // nil unless it was asked for and is possible
	dir        *directory
	unselected *selfmetrics.Counter // operations of processes that nobody selects
	status     *status.Server       // nil: no status page
	enabled    atomic.Bool
	pods       discover.Pods // nil outside Kubernetes
	kube       *k8s.Watcher  // the same
	podNews    chan struct{}
}

// newAgent loads everything and attaches nothing yet.
func newAgent(cfg config.Config, log *slog.Logger, self *selfmetrics.Registry) (_ *agent, err error) {
	a := &agent{log: log, podNews: make(chan struct{}, 1), unselected: self.Lost(selfmetrics.NotSelected, "")}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
			defer cancel()
			err = errors.Join(err, a.close(ctx))
		}
	}()
	if err := a.openKubernetes(cfg.Kubernetes); err != nil {
		return nil, err
	}
	selector, err := newSelector(cfg, a.pods)
	if err != nil {
		return nil, err
	}
	dir, err := newDirectory(cfg.Service, log)
	if err != nil {
		return nil, err
	}
	a.dir, dir.pods = dir, a.kube
	dir.setSelector(selector)
	if a.stdout, err = console.Stdout(); err != nil {
		return nil, err
	}
	dir.pools = dbpool.New(log)
	if err := a.openMetrics(cfg, self, dir); err != nil {
		return nil, err
	}
	rules, err := metricrules.Compile(cfg.Metrics.Rules, redact.New(cfg.Redact.QueryNames).Field)
	if err != nil {
		return nil, err // config has said so before
	}
	full := a.metrics.Enabled() && rules.NeedsMore(nethttp.CountedAttributes)
	var asked looks
	if a.metrics.Enabled() {
		asked = looksOf(rules, self, log)
	}
	if err := a.openPipeline(cfg, self, dir, rules); err != nil {
		return nil, err
	}
	var pools *dbpool.Registry
	if a.metrics.Enabled() {
		pools = dir.pools
	}
	list, err := specs(cfg, full, asked, pools)
	if err != nil {
		return nil, err
	}
	modes := cfg.PropagationModes()
	prop := newPropagations(modes, log)
	a.manager, err = probe.NewManager(probe.ManagerOptions{
		Logger: log, Specs: list, Emit: a.emit, Sampling: sampling(cfg.Sampling), Metrics: self,
		CountAll: a.metrics.Enabled(), CountFull: full, MaxOverhead: cfg.MaxOverhead / 100, WriteMemory: prop.memory(),
		OnRefuse: func(at *probe.Attached, why error) { a.supervisor.Refused(at, why) },
	})
	if err != nil {
		return nil, err
	}
	a.active.manager.Store(a.manager)
	procs, exeAuto := a.manager.Maps()
	if slices.Contains(modes, config.PropagateKernel) {
		a.kernelMode, err = propagate.New(propagate.Options{
			Conns: a.manager.Conns(), Procs: procs, Logger: log, Metrics: self,
		})
		if errors.Is(err, propagate.ErrRefused) {
			log.Warn("propagation mode kernel is not possible; traces go on by connection only", "error", err)
			prop.refuseKernel(err)
		} else if err != nil {
			return nil, err
		}
	}
	a.watcher, err = discover.New(discover.Options{
		Logger: log, Procs: procs, ExeAuto: exeAuto, Ports: selector.WantsPorts(),
	})
	if err != nil {
		return nil, err
	}
	registerDiscovery(self, a.watcher)
	a.supervisor = supervise.New(supervise.Options{
		Logger: log, Selector: selector, Attacher: a.manager,
		Directory: dir, Events: a.watcher.Events(), Check: a.watcher.Check,
		PIDs: pids(cfg), OnlyPIDs: cfg.Enabled && cfg.OnlyPIDs(), Propagation: prop.of,
		LeaveAlone: policy.Exports,
	})
	a.enabled.Store(cfg.Enabled)
	a.openStatus(cfg, self)
	if cfg.Enabled && !cfg.OnlyPIDs() {
		a.manager.Preload()
	}
	return a, nil
}

// openMetrics starts the metrics and lets the directory announce processes to them.
func (a *agent) openMetrics(cfg config.Config, self *selfmetrics.Registry, dir *directory) error {
	push, pull, err := fromconfig.OpenMetrics(context.Background(), cfg, a.log, a.stdout)
	if err != nil {
		return err
	}
	usage, err := hostmetrics.New(hostmetrics.Options{Process: cfg.Metrics.Process, Host: cfg.Metrics.Host})
	if err != nil {
		return err
	}
	sources := []metrics.Source{metrics.NewSelf(self), usage, dir.pools, &a.active}
	if cfg.Metrics.Runtime {
		sources = append(sources, goruntime.New(a.log))
	}
	a.metrics = metrics.New(metrics.Options{
		Log: a.log, Metrics: self, Push: push, Pull: pull, Version: version,
		Interval: cfg.Metrics.Interval, Timeout: cfg.Metrics.Timeout, Limit: cfg.Metrics.SeriesLimit,
		Sources: sources, Apdex: cfg.Metrics.ApdexThreshold,
	})
	dir.metrics = a.metrics
	a.metrics.Add(metrics.Agent, dir.builder.Self())
	return nil
}

func (a *agent) openPipeline(cfg config.Config, self *selfmetrics.Registry, resources pipeline.Resources, rules *metricrules.Set) error {
	exporters, err := fromconfig.Open(context.Background(), cfg, version, a.stdout, a.log, self)
	if err != nil {
		return err
	}
	a.pipeline = pipeline.New(pipeline.Options{
		Exporters: exporters, Resources: resources, Recorder: metricrules.Apply(rules, a.metrics, self), Log: a.log, Metrics: self,
		QueueSize: cfg.Batch.MaxQueueSize, BatchSize: cfg.Batch.MaxBatchSize,
		ScheduleDelay: cfg.Batch.ScheduleDelay, ExportTimeout: cfg.Batch.ExportTimeout,
	})
	for _, name := range cfg.Exporters {
		if name == config.ExporterOTLP {
			go warnUnreachable(a.log, cfg.OTLP)
		}
	}
	return nil
}

// warnUnreachable says at the start what would otherwise show with the first span.
// Spans are tried in any case.
func warnUnreachable(log *slog.Logger, cfg config.OTLP) {
	const dialTimeout = 3 * time.Second
	u, err := cfg.TracesURL()
	if err != nil {
		return // refused by the exporter already
	}
	network, addr := "tcp", u.Host
	switch {
	case u.Scheme == "unix":
		network, addr = "unix", u.Path
	case u.Port() == "" && u.Scheme == "https":
		addr = net.JoinHostPort(u.Hostname(), "443")
	case u.Port() == "":
		addr = net.JoinHostPort(u.Hostname(), "80")
	}
	conn, err := net.DialTimeout(network, addr, dialTimeout)
	if err != nil {
		log.Warn("the OTLP endpoint does not answer; spans are tried again, and counted when lost",
			"endpoint", u.Redacted(), "error", err)
		return
	}
	conn.Close()
}

// run works until ctx is done or nothing is left to do.
func (a *agent) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-a.pipeline.Dead():
			a.log.Info("stopping: nobody reads the spans any more")
			cancel()
		case <-ctx.Done():
		}
	}()
	following := make(chan struct{})
	go func() {
		defer close(following)
		a.followPods(ctx)
	}()
	err := a.supervisor.Run(ctx)
	cancel()
	<-following
	return err
}

// close detaches everything and flushes, as far as ctx allows; it also undoes a
// newAgent that failed half way.
func (a *agent) close(ctx context.Context) error {
	detached := make(chan error, 1)
	go func() {
		var errs []error
		if a.status != nil {
			errs = append(errs, a.status.Close())
		}
		if a.watcher != nil {
			errs = append(errs, a.watcher.Close())
		}
		if a.kube != nil {
			errs = append(errs, a.kube.Close())
		}
		if a.kernelMode != nil {
			errs = append(errs, a.kernelMode.Close())
		}
		if a.manager != nil {
			errs = append(errs, a.manager.Close())
		}
		detached <- errors.Join(errs...)
	}()
	// The pipeline needs a part of the time: what is not detached by then, the
	// kernel detaches when this process ends.
	wait, cancel := context.WithTimeout(ctx, stopWithin*2/3)
	defer cancel()
	var errs []error
	select {
	case err := <-detached:
		errs = append(errs, err)
	case <-wait.Done():
		if a.manager != nil {
			a.manager.LeaveToKernel()
		}
		errs = append(errs, errors.New("detaching takes too long; left to the kernel"))
	}
	// Both at once: they may wait for the same dead collector.
	var wg sync.WaitGroup
	var spans, values error
	if a.pipeline != nil {
		a.dir.release(a.pipeline.Submit)
		wg.Go(func() { spans = a.pipeline.Shutdown(ctx) })
	}
	if a.metrics != nil {
		wg.Go(func() { values = a.metrics.Shutdown(ctx) })
	}
	wg.Wait()
	errs = append(errs, spans, values)
	if a.stdout != nil {
		errs = append(errs, a.stdout.Close())
	}
	return errors.Join(errs...)
}

func sampling(cfg config.Sampling) probe.Sampling {
	s := probe.Sampling{IgnoreParent: !cfg.ParentBased()}
	switch ratio := cfg.RootRatio(); {
	case ratio >= 1:
		s.Root = probe.AlwaysOn
	case ratio <= 0:
		s.Root = probe.AlwaysOff
	default:
		s.Root, s.Ratio = probe.Ratio, ratio
	}
	return s
}

// emit takes finished operations from the decoders.
func (a *agent) emit(op *telemetry.Operation) {
	p := a.dir.settingsOf(op.Process)
	if p.drop {
		a.unselected.Inc()
		return
	}
	if p.policy != nil && !op.TakesBack && !p.policy.Apply(op) {
		return
	}
	if !a.dir.hold(op) {
		a.pipeline.Submit(op)
	}
}

func newSelector(cfg config.Config, pods discover.Pods) (*discover.Selector, error) {
	own := discover.Selection{SelfPID: int32(os.Getpid()), SelfExe: selfExe()}
	if !cfg.Enabled {
		return discover.NewSelector(own)
	}
	sel := cfg.Select
	own.PIDs, own.Exes, own.Ports = int32s(sel.PIDs), sel.Exes, uint16s(sel.Ports)
	own.AllGo, own.Exclude = sel.AllGo, sel.Exclude
	own.Rules = discover.Rules{
		Instrument: cfg.Instrument, Exclude: cfg.Exclude, Pods: pods,
		Policy: func(s *config.Selector) *policy.Policy { return policy.New(&cfg, s) },
	}
	return discover.NewSelector(own)
}

// selfExe is this executable as stat sees it; where the kernel sees another
// device (overlayfs), the pid alone keeps the agent from watching itself.
func selfExe() discover.ExeID {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		return discover.ExeID{}
	}
	return discover.ExeID{Dev: unix.Major(st.Dev)<<20 | unix.Minor(st.Dev), Ino: st.Ino}
}

// pids are all that are named by number.
func pids(cfg config.Config) []int32 {
	if !cfg.Enabled {
		return nil
	}
	all := int32s(cfg.Select.PIDs)
	for _, i := range cfg.Instrument {
		if i.Enabled == nil || *i.Enabled {
			all = append(all, int32s(i.PIDs)...)
		}
	}
	return all
}

// uint16s converts ports, which config has checked.
func uint16s(in []int) []uint16 {
	out := make([]uint16, 0, len(in))
	for _, n := range in {
		out = append(out, uint16(n))
	}
	return out
}

func int32s(in []int) []int32 {
	out := make([]int32, 0, len(in))
	for _, n := range in {
		out = append(out, int32(n))
	}
	return out
}

func registerDiscovery(metrics *selfmetrics.Registry, w *discover.Watcher) {
	counter := func(name, help string, kind selfmetrics.Kind, value func(discover.Stats) float64) {
		metrics.Func(name, help, kind, func(emit selfmetrics.Emit) { emit(value(w.Stats())) })
	}
	counter("tracer_agent_process_records_lost_total", "Process records that did not fit; made up for by a scan.",
		selfmetrics.KindCounter, func(s discover.Stats) float64 { return float64(s.Lost) })
	counter("tracer_agent_process_scans_total", "Scans of all processes.",
		selfmetrics.KindCounter, func(s discover.Stats) float64 { return float64(s.Scans) })
	counter("tracer_agent_processes", "Processes of the host that are known.",
		selfmetrics.KindGauge, func(s discover.Stats) float64 { return float64(s.Processes) })
}
