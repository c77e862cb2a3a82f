package hostmetrics

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// busyEnv makes this test's own program the one that is watched; it names a folder.
const busyEnv = "TRACER_TEST_BUSY"

func TestMain(m *testing.M) {
	if dir := os.Getenv(busyEnv); dir != "" {
		busy(dir)
		return
	}
	os.Exit(m.Run())
}

// busy does, again and again, all that a process is watched for, until it is killed.
func busy(dir string) {
	const size = 1 << 20
	page := os.Getpagesize()
	exit := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	touch := func(mem []byte) (sum byte) {
		for i := 0; i < len(mem); i += page {
			sum += mem[i]
		}
		return sum
	}
	for range 2 {
		go func() { // the program's own CPU time, and more of it than its limit
			for n := uint64(1); n != 0; n = n*6364136223846793005 + 1442695040888963407 | 1 {
			}
		}()
	}
	sock, err := net.Dial("udp", "127.0.0.1:9")
	exit(err)
	data := make([]byte, size)
	exit(os.WriteFile(filepath.Join(dir, "mine"), data[:1<<16], 0o600))
	mine, err := os.Open(filepath.Join(dir, "mine"))
	exit(err)
	exit(mine.Sync())
	clean, err := unix.Mmap(int(mine.Fd()), 0, 1<<16, unix.PROT_READ, unix.MAP_PRIVATE)
	exit(err)
	data[0] += touch(clean)
	for n := 0; ; n++ {
		_, _ = sock.Write(data[:512]) // refused by nobody who listens
		for range 2000 {              // the kernel's CPU time
			var st unix.Stat_t
			exit(unix.Stat("/proc/self/exe", &st))
		}
		anon, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		exit(err)
		for i := 0; i < size; i += page {
			anon[i] = 1
		}
		f, err := os.Create(filepath.Join(dir, "data"))
		exit(err)
		_, err = f.Write(data)
		exit(err)
		exit(f.Sync())
		exit(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
		exit(err)
		data[0] += touch(mem) // from the disk
		exit(unix.Munmap(mem))
		exit(unix.Munmap(anon))
		exit(f.Close())
		if n == 0 {
			fmt.Println("ready")
		}
	}
}

// busyFolder is where busy writes: on a disk where the host has one for temporary files or for
// this package, else lacks says that it has none.
func busyFolder(t *testing.T) (dir, lacks string) {
	t.Helper()
	dir = t.TempDir()
	if reachesDisk(t, dir) {
		return dir, ""
	}
	lacks = "a disk at " + dir
	here, err := os.MkdirTemp(".", "busy-") //nolint:usetesting // t.TempDir() may be memory
	if err != nil {
		return dir, lacks + " and here: " + err.Error()
	}
	t.Cleanup(func() { _ = os.RemoveAll(here) })
	if here, err = filepath.Abs(here); err != nil {
		t.Fatal(err)
	}
	if !reachesDisk(t, here) {
		return dir, lacks + " or " + here
	}
	return here, ""
}

// reachesDisk says whether the kernel counts as disk I/O what is done with a file in dir: not where
// that is a tmpfs, or an overlay on one.
func reachesDisk(t *testing.T, dir string) bool {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	bytes := func(key string) float64 { return keyed(t, "/proc/thread-self/io", key) }
	read, written := bytes("read_bytes"), bytes("write_bytes")
	f, err := os.Create(filepath.Join(dir, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 1<<20)
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	for range 3 { // a page may be in use
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		if _, err := f.ReadAt(data, 0); err != nil {
			t.Fatal(err)
		}
		if bytes("read_bytes") > read && bytes("write_bytes") > written {
			return true
		}
	}
	return false
}

// folders are the control groups that a process was put into; "" where the host has none.
type folders struct{ cpu, cpuacct, memory, v2 string }

// newFolders makes a group in each of the hierarchies; controllers that are mounted together share one.
func newFolders(t *testing.T, s *Source, controllers ...string) (f folders) {
	t.Helper()
	made := map[string]string{}
	for _, c := range controllers {
		at, ok := s.groups[c]
		if !ok {
			continue
		}
		at, err := filepath.EvalSymlinks(at)
		if err != nil {
			t.Fatal(err)
		}
		dir, ok := made[at]
		if !ok {
			if c == "" {
				enable(t, at)
			}
			dir = filepath.Join(at, fmt.Sprintf("tracer-agent-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
			switch err := os.Mkdir(dir, 0o755); {
			case errors.Is(err, syscall.EROFS) || errors.Is(err, os.ErrPermission):
				t.Skipf("needs kernel feature cgroup, which this host refuses: %v", err)
			case err != nil:
				t.Fatalf("make a control group: %v", err)
			}
			made[at] = dir
			t.Cleanup(func() { removeGroup(t, dir) })
		}
		switch c {
		case "cpu":
			f.cpu = dir
		case "cpuacct":
			f.cpuacct = dir
		case "memory":
			f.memory = dir
		default:
			f.v2 = dir
		}
	}
	return f
}

// enable has the groups below a group of version 2 count and limit what the host's version 2 can,
// until the test is over.
func enable(t *testing.T, at string) {
	control := at + "/cgroup.subtree_control"
	on, _ := os.ReadFile(control)
	for _, c := range []string{"cpu", "memory"} {
		if slices.Contains(strings.Fields(string(on)), c) || os.WriteFile(control, []byte("+"+c), 0o644) != nil {
			continue
		}
		t.Cleanup(func() { _ = os.WriteFile(control, []byte("-"+c), 0o644) })
	}
}

// v1 is the group of a controller of version 1.
func (f folders) v1(controller string) string {
	return map[string]string{"cpu": f.cpu, "cpuacct": f.cpuacct, "memory": f.memory}[controller]
}

// v2Has says whether the group of version 2 has what a controller of version 1 is for.
func (f folders) v2Has(controller string) bool {
	if controller == "cpuacct" {
		return f.v2 != "" // with every controller and without
	}
	data, err := os.ReadFile(f.v2 + "/cgroup.controllers")
	return err == nil && slices.Contains(strings.Fields(string(data)), controller)
}

// removeGroup waits for the last process of a group to be gone.
func removeGroup(t *testing.T, dir string) {
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = os.Remove(dir); err == nil || os.IsNotExist(err) {
			return
		}
	}
	t.Errorf("a control group is left: %v", err)
}

func (f folders) all() (dirs []string) {
	for _, d := range []string{f.cpu, f.cpuacct, f.memory, f.v2} {
		if d != "" {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// limit bounds the groups, and has the kernel kill something in them.
func (f folders) limit(t *testing.T) {
	t.Helper()
	for path, value := range map[string]string{
		f.cpu + "/cpu.cfs_period_us": "20000", f.cpu + "/cpu.cfs_quota_us": "12000", f.memory + "/memory.limit_in_bytes": "67108864",
		f.v2 + "/cpu.max": "12000 20000", f.v2 + "/memory.max": "67108864", f.v2 + "/memory.swap.max": "0",
	} {
		if _, err := os.Stat(path); err == nil {
			put(t, path, value)
		}
	}
	dir := f.memory
	if dir == "" && f.v2Has("memory") {
		dir = f.v2
	}
	if dir != "" {
		hog := exec.Command("/bin/sh", "-c", "echo $$ > "+dir+"/cgroup.procs && exec tail /dev/zero")
		if err := hog.Run(); err == nil {
			t.Error("a program that takes all memory was not killed")
		}
	}
}

func put(t *testing.T, path, value string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
}

// startBusy runs busy in a folder, in control groups and in a network namespace of its own.
func startBusy(t *testing.T, in folders, dir string) telemetry.ProcessKey {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := "ip link set lo up"
	for _, group := range in.all() {
		script += " && echo $$ > " + group + "/cgroup.procs"
	}
	cmd := exec.Command("unshare", "-n", "sh", "-c", script+` && exec "$0"`, self)
	cmd.Env = append(os.Environ(), busyEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		rest, _ := io.ReadAll(out)
		t.Fatalf("the busy program says %q: %v\n%s", line, err, rest)
	}
	return keyOf(t, cmd.Process.Pid)
}

// stop stops every thread of a process: from then on its files say the same.
func stop(t *testing.T, pid int32) {
	t.Helper()
	if err := syscall.Kill(int(pid), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		moving := 0
		for _, f := range files {
			if data, err := os.ReadFile(f); err != nil || !strings.Contains(string(data), ") T ") {
				moving++
			}
		}
		if moving == 0 && len(files) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d threads do not stop", moving, len(files))
		}
	}
}
