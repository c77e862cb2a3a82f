// Command init is the first process of a test machine: it mounts what programs
// expect, brings up the loopback interface, runs one program, says on the console
// how it ended, and switches the machine off.
//
// /vm/args and /vm/env hold the program's arguments and environment, each text
// ended by a zero byte; the program is /vm/prog.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Marks on the console that boot.sh looks for.
const (
	markStart = "@@vm-start"
	markExit  = "@@vm-exit"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: meant to be process 1 of a test machine")
		os.Exit(2)
	}
	code, err := run()
	if err != nil {
		fmt.Println("init:", err)
	}
	fmt.Printf("\n%s %d\n", markExit, code)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

type mount struct{ kind, on string }

// mounts are made in this order; what a kernel does not have is left out.
var mounts = []mount{
	{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	{"tracefs", "/sys/kernel/tracing"}, {"debugfs", "/sys/kernel/debug"}, {"bpf", "/sys/fs/bpf"},
	{"cgroup2", "/sys/fs/cgroup"}, {"securityfs", "/sys/kernel/security"},
}

func run() (int, error) {
	for _, m := range mounts {
		_ = os.MkdirAll(m.on, 0o755)
		if err := unix.Mount(m.kind, m.on, m.kind, 0, ""); err != nil && m.kind == "proc" {
			return 1, fmt.Errorf("mount %s: %w", m.on, err)
		}
	}
	if err := loopbackUp(); err != nil {
		return 1, err
	}
	args, err := texts("/vm/args")
	if err != nil {
		return 1, err
	}
	env, err := texts("/vm/env")
	if err != nil {
		return 1, err
	}
	fmt.Println("\n" + markStart)
	p, err := os.StartProcess("/vm/prog", append([]string{"/vm/prog"}, args...), &os.ProcAttr{
		Dir: "/", Env: append([]string{"PATH=/", "HOME=/tmp"}, env...), Files: []*os.File{nil, os.Stdout, os.Stdout},
	})
	if err != nil {
		return 1, fmt.Errorf("start the program: %w", err)
	}
	return reapUntil(p.Pid)
}

// reapUntil waits for every child, orphans too, until the program has ended.
func reapUntil(pid int) (int, error) {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait for the program: %w", err)
		case got == pid && ws.Signaled():
			return 128 + int(ws.Signal()), fmt.Errorf("the program was ended by %v", ws.Signal())
		case got == pid:
			return ws.ExitStatus(), nil
		}
	}
}

// texts reads texts that each end with a zero byte.
func texts(path string) (out []string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for text := range bytes.SplitSeq(data, []byte{0}) {
		if len(text) > 0 {
			out = append(out, string(text))
		}
	}
	return out, nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}
