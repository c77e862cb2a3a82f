package propagate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
)

// ErrRefused says that kernel mode is not possible or not safe on this kernel. The error says why.
var ErrRefused = errors.New("kernel mode refused")

// pollEvery is how often announced connections are looked at: the time for which
// requests of a connection go out without the line at most, once it was announced.
const pollEvery = 250 * time.Millisecond

// Options configure a Kernel.
type Options struct {
	// Conns is tr_conns of bpf/lib/conn.h, in which watched clients announce requests.
	Conns *ebpf.Map
	// Procs is tr_procs of bpf/lib/procs.h, the processes whose new connections count.
	Procs   *ebpf.Map
	Logger  *slog.Logger
	Metrics *selfmetrics.Registry
}

// Kernel is the running kernel mode.
type Kernel struct {
	log     *slog.Logger
	conns   *ebpf.Map
	objs    bpfObjects
	cgroup  link.Link // nil: new connections are only taken in once announced
	scan    scanner
	adopted selfmetrics.Counter
	refused selfmetrics.Counter
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	once    sync.Once
	err     error // of the first Close
}

// New loads the programs, proves that they are harmless here, and starts. The error
// wraps ErrRefused when the kernel is the reason.
func New(opts Options) (_ *Kernel, err error) {
	if opts.Conns == nil || opts.Procs == nil {
		return nil, errors.New("kernel mode: the maps of connections and processes are needed")
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	k := &Kernel{log: opts.Logger, conns: opts.Conns, cancel: func() {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	if err := k.load(opts); err != nil {
		return nil, err
	}
	if err := k.prove(); err != nil {
		return nil, err
	}
	if k.cgroup, err = attachCgroup(k.objs.PgSock); err != nil {
		k.log.Warn("kernel mode does not see connections being made: the first requests of each go out without a header",
			"error", err)
	}
	k.register(opts.Metrics)
	k.log.Info("kernel mode is on", "connections", map[bool]string{true: "new and announced", false: "announced"}[k.cgroup != nil])
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	k.wg.Go(func() { k.watch(ctx) })
	return k, nil
}

func (k *Kernel) load(opts Options) error {
	spec, err := loadBpf()
	if err != nil {
		return fmt.Errorf("kernel mode: %w", err)
	}
	err = spec.LoadAndAssign(&k.objs, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		bpfMapTrConns: opts.Conns, bpfMapTrProcs: opts.Procs,
	}})
	if err != nil {
		return fmt.Errorf("%w: load programs (Linux 5.17 and later): %w", ErrRefused, err)
	}
	// Held by the map, gone with it.
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: k.objs.PgSocks.FD(), Program: k.objs.PgMsg, Attach: ebpf.AttachSkMsgVerdict,
	})
	if err != nil {
		return fmt.Errorf("%w: attach to the socket map: %w", ErrRefused, err)
	}
	return nil
}

// watch takes in announced connections until ctx is done.
func (k *Kernel) watch(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := k.poll(); err != nil {
				k.log.Warn("kernel mode: announced connections are not read; new ones get no header", "error", err)
				return
			}
		}
	}
}

// Stats is what kernel mode did so far.
type Stats struct {
	// Pushed counts the requests that got the line.
	Pushed uint64
	// Skipped counts the other sends on sockets in the map, by reason.
	Skipped map[string]uint64
	// AtConnect and Adopted count the sockets put into the map, when they connected and
	// later; Refused those that the kernel or their owner did not let in.
	AtConnect, Adopted, Refused uint64
}

// reasons are the labels of skipped sends.
var reasons = map[bpfPgCount]string{
	bpfPgCountPG_NOT_ANNOUNCED: "not_announced",
	bpfPgCountPG_NOT_HTTP:      "not_http",
	bpfPgCountPG_KEPT:          "kept",
	bpfPgCountPG_UNPROVEN:      "unproven",
	bpfPgCountPG_BUSY:          "busy",
	bpfPgCountPG_LONG_LINE:     "long_request_line",
	bpfPgCountPG_NO_MEMORY:     "no_memory",
}

// Stats returns the counters; what cannot be read (after Close) is zero.
func (k *Kernel) Stats() Stats {
	read := func(i bpfPgCount) (n uint64) {
		if k.objs.PgCounts.Lookup(uint32(i), &n) != nil {
			return 0
		}
		return n
	}
	s := Stats{
		Pushed: read(bpfPgCountPG_PUSHED), Skipped: map[string]uint64{},
		AtConnect: read(bpfPgCountPG_AT_CONNECT), Adopted: k.adopted.Value(),
		Refused: read(bpfPgCountPG_NOT_ADDED) + k.refused.Value(),
	}
	for i, name := range reasons {
		s.Skipped[name] = read(i)
	}
	return s
}

func (k *Kernel) register(r *selfmetrics.Registry) {
	if r == nil {
		return
	}
	r.Func("tracer_agent_kernel_mode_sends_total", "Sends on connections that kernel mode watches, by what became of them.",
		selfmetrics.KindCounter, func(emit selfmetrics.Emit) {
			s := k.Stats()
			emit(float64(s.Pushed), selfmetrics.L("outcome", "pushed"))
			for name, n := range s.Skipped {
				emit(float64(n), selfmetrics.L("outcome", name))
			}
		})
	r.Func("tracer_agent_kernel_mode_sockets_total", "Connections that kernel mode took in, or could not.",
		selfmetrics.KindCounter, func(emit selfmetrics.Emit) {
			s := k.Stats()
			emit(float64(s.AtConnect), selfmetrics.L("how", "at_connect"))
			emit(float64(s.Adopted), selfmetrics.L("how", "announced"))
			emit(float64(s.Refused), selfmetrics.L("how", "refused"))
		})
}

// Close takes the sockets out and the programs off. It is idempotent.
func (k *Kernel) Close() error {
	k.once.Do(func() {
		k.cancel()
		k.wg.Wait()
		var errs []error
		if k.cgroup != nil {
			errs = append(errs, k.cgroup.Close())
		}
		k.err = errors.Join(append(errs, k.objs.Close())...)
	})
	return k.err
}
