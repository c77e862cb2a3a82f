package propagate

import (
	"context"
	"log/slog"

	"github.com/cilium/ebpf"
)

// newUnproven starts without the self-test, so that what does not depend on
// ioctl(FIONREAD) is tested on kernels that are refused for it, too.
func newUnproven(opts Options) (*Kernel, error) {
	k := &Kernel{log: opts.Logger, conns: opts.Conns}
	err := k.load(opts)
	if err == nil {
		k.cgroup, err = attachCgroup(k.objs.PgSock)
	}
	if err != nil {
		k.cancel = func() {}
		k.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	k.wg.Go(func() { k.watch(ctx) })
	return k, nil
}

// openMaps makes the two shared maps.
func openMaps() (opts Options, closeMaps func(), err error) {
	spec, err := loadBpf()
	if err != nil {
		return Options{}, nil, err
	}
	conns, err := ebpf.NewMap(spec.Maps[bpfMapTrConns])
	if err != nil {
		return Options{}, nil, err
	}
	procs, err := ebpf.NewMap(spec.Maps[bpfMapTrProcs])
	if err != nil {
		conns.Close()
		return Options{}, nil, err
	}
	opts = Options{Conns: conns, Procs: procs, Logger: slog.New(slog.DiscardHandler)}
	return opts, func() { conns.Close(); procs.Close() }, nil
}
