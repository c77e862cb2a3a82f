package probe

import "golang.org/x/sys/unix"

// KtimeNs is the time that programs have of bpf_ktime_get_ns: CLOCK_MONOTONIC, nanoseconds.
func KtimeNs() (uint64, error) {
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return uint64(now.Nano()), err
}
