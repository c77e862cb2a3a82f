package propagate

import "context"

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
