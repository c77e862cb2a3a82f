package propagate

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/cilium/ebpf"
)

// Try says whether kernel mode is possible and safe here: nil, or the error that [New]
// would end with, which wraps [ErrRefused] when the kernel is the reason. It uses
// connections of its own only and leaves nothing behind.
func Try() (err error) {
	opts, closeMaps, err := openMaps()
	if err != nil {
		return fmt.Errorf("%w: create maps: %w", ErrRefused, err)
	}
	defer closeMaps()
	k := &Kernel{log: opts.Logger, conns: opts.Conns, cancel: func() {}}
	defer func() { err = errors.Join(err, k.Close()) }()
	if err := k.load(opts); err != nil {
		return err
	}
	return k.prove()
}

// prove runs the self-test.
func (k *Kernel) prove() error {
	if err := k.selfTest(); err != nil {
		return fmt.Errorf("%w: self-test on a connection of the agent's own: %w", ErrRefused, err)
	}
	return nil
}

// openMaps makes the two maps that are otherwise shared with the probes.
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
		return Options{}, nil, errors.Join(err, conns.Close())
	}
	opts = Options{Conns: conns, Procs: procs, Logger: slog.New(slog.DiscardHandler)}
	return opts, func() { conns.Close(); procs.Close() }, nil
}
