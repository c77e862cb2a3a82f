package propagate

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// attachCgroup attaches a program to the root of the cgroup v2 hierarchy, that is, to
// every process of the host.
func attachCgroup(prog *ebpf.Program) (link.Link, error) {
	root, err := cgroupRoot()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	l, err := link.AttachRawLink(link.RawLinkOptions{
		Target: int(root.Fd()), Program: prog, Attach: ebpf.AttachCGroupSockOps,
	})
	if err != nil {
		return nil, fmt.Errorf("attach to the root of cgroup v2: %w", err)
	}
	return l, nil
}

// cgroupRoot opens the root of the cgroup v2 hierarchy by a mount that is nowhere to be
// seen: what is mounted at /sys/fs/cgroup may be version 1, or only a part of the
// hierarchy (in a container).
func cgroupRoot() (*os.File, error) {
	own, err := os.Readlink("/proc/self/ns/cgroup")
	if err != nil {
		return nil, fmt.Errorf("own cgroup namespace: %w", err)
	}
	if first, err := os.Readlink("/proc/1/ns/cgroup"); err != nil || first == own {
		return mountCgroup()
	}
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	go func() {
		// In another namespace this thread is not fit for anything else, and ends
		// with the goroutine.
		runtime.LockOSThread()
		f, err := mountHostCgroup()
		done <- result{f, err}
	}()
	r := <-done
	return r.f, r.err
}

// mountHostCgroup moves this thread to the first process's cgroup namespace.
func mountHostCgroup() (*os.File, error) {
	ns, err := os.Open("/proc/1/ns/cgroup")
	if err != nil {
		return nil, err
	}
	err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWCGROUP)
	if err := errors.Join(err, ns.Close()); err != nil {
		return nil, fmt.Errorf("enter the first process's cgroup namespace: %w", err)
	}
	return mountCgroup()
}

func mountCgroup() (*os.File, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open cgroup v2: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("cgroup v2: %w", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("mount cgroup v2: %w", err)
	}
	defer unix.Close(mnt)
	fd, err := unix.Openat(mnt, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root of cgroup v2: %w", err)
	}
	return os.NewFile(uintptr(fd), "cgroup2"), nil
}
