package kernel

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// RaiseMemlock lets maps be created on kernels before 5.11, which count them
// against RLIMIT_MEMLOCK; on later ones it does nothing. Without CAP_SYS_RESOURCE
// (even root may lack it) the limit goes as high as it may; the error says so, and
// only matters if a map does not fit.
func RaiseMemlock() error {
	err := rlimit.RemoveMemlock()
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("lift RLIMIT_MEMLOCK: %w", err)
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim); err != nil {
		return fmt.Errorf("read RLIMIT_MEMLOCK: %w", err)
	}
	lim.Cur = lim.Max
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &lim); err != nil {
		return fmt.Errorf("raise RLIMIT_MEMLOCK to %d bytes: %w", lim.Max, err)
	}
	return fmt.Errorf("RLIMIT_MEMLOCK stays at %d bytes without CAP_SYS_RESOURCE; if maps do not fit, "+
		"start with LimitMEMLOCK=infinity (systemd) or ulimit -l unlimited", lim.Max)
}
