package propagate

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// startNginx serves a file of 1 MiB; worker is the process that does.
func startNginx(t testing.TB) (url string, worker int) {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = "/usr/sbin/nginx"
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip("needs nginx: apt-get install nginx")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	conf := fmt.Sprintf(`daemon off; worker_processes 1; error_log stderr; pid %[1]s/pid; user root;
events { worker_connections 128; }
http { access_log off; sendfile on; keepalive_requests 1000000; client_body_temp_path %[1]s; proxy_temp_path %[1]s;
fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
server { listen %[2]s; root %[1]s; } }`, dir, addr)
	for name, b := range map[string][]byte{"conf": []byte(conf), "body": make([]byte, 1<<20)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(path, "-c", filepath.Join(dir, "conf"))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", cmd.Process.Pid))
			if err == nil {
				_, err = fmt.Sscan(string(children), &worker)
			}
			if err != nil {
				t.Fatalf("nginx has no worker: %v", err)
			}
			return "http://" + addr, worker
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// leastThroughput is what is promised. A test fails when the rounds show less, see pairs.
const leastThroughput = 0.95

// pairs are rounds of two measurements, one right after the other and each first in turn,
// because others use the machine: what counts is each round's ratio.
type pairs struct {
	rate, cpu []float64 // with kernel mode to without: MiB/s, CPU time of client and server
}

// compare measures n rounds of times downloads.
func compare(t *testing.T, n, times int, pids []int, with, without func(), download func()) pairs {
	t.Helper()
	measure := func() (rate, cpu float64) {
		before, start := cpuOf(t, pids), time.Now()
		download()
		took := time.Since(start)
		return float64(times) / took.Seconds(), float64(cpuOf(t, pids) - before)
	}
	var p pairs
	for i := range n {
		var rate, cpu [2]float64
		for j := range 2 {
			k := (i + j) % 2
			if k == 1 {
				with()
			} else {
				without()
			}
			rate[k], cpu[k] = measure()
		}
		p.rate, p.cpu = append(p.rate, rate[1]/rate[0]), append(p.cpu, cpu[1]/cpu[0])
	}
	slices.Sort(p.rate)
	slices.Sort(p.cpu)
	return p
}

// check requires that the rounds do not show less than is promised: that the median's
// interval, with 95 % confidence, reaches it.
func (p pairs) check(t *testing.T, what string) {
	t.Helper()
	n := len(p.rate)
	rank := int(float64(n)/2 + 0.98*math.Sqrt(float64(n))) // of the interval's upper end
	median, cpu, upper := p.rate[n/2], p.cpu[n/2], p.rate[min(rank, n-1)]
	t.Logf("%s: %.3f of the throughput (quartiles %.3f and %.3f; the median is at most %.3f), %.3f of the CPU time (%.3f and %.3f); medians of %d rounds",
		what, median, p.rate[n/4], p.rate[n*3/4], upper, cpu, p.cpu[n/4], p.cpu[n*3/4], n)
	if upper < leastThroughput {
		t.Errorf("%s: %.3f of the throughput, want %v", what, median, leastThroughput)
	}
	if file := os.Getenv("TRACER_DOWNLOAD_RESULT"); file != "" {
		if err := os.WriteFile(file, fmt.Appendf(nil, "%.3f %.3f %d\n", median, cpu, n), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// cpuOf is the time that the processes' threads have run.
func cpuOf(t *testing.T, pids []int) time.Duration {
	t.Helper()
	var sum time.Duration
	for _, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil || len(files) == 0 {
			t.Fatalf("process %d: no threads: %v", pid, err)
		}
		for _, f := range files {
			var ns int64
			b, err := os.ReadFile(f)
			if err == nil {
				_, err = fmt.Sscan(string(b), &ns)
			}
			if err != nil {
				t.Fatal(err)
			}
			sum += time.Duration(ns)
		}
	}
	return sum
}

// rounds is how often a test measures: TRACER_DOWNLOAD_ROUNDS, or usual.
func rounds(t *testing.T, usual int) int {
	t.Helper()
	v := os.Getenv("TRACER_DOWNLOAD_ROUNDS")
	if v == "" {
		return usual
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("TRACER_DOWNLOAD_ROUNDS: %q", v)
	}
	return n
}

// TestDownload: a client whose connection is in the map downloads from nginx as fast as
// it does when the same connection is not.
func TestDownload(t *testing.T) {
	const times = 20
	n := rounds(t, 61)
	url, server := startNginx(t)
	c := startClient(t)
	opts := maps(t)
	w := watch(t, c.cmd.Process.Pid)
	opts.Conns = w.manager.Conns()
	opts.Procs, _ = w.manager.Maps()
	k := &Kernel{log: opts.Logger, conns: opts.Conns, cancel: func() {}}
	defer k.Close()
	if err := k.load(opts); err != nil {
		needLoop(t, err)
		t.Fatal(err)
	}
	in := func() {
		c.do(t, order{Method: "GET", URL: url + "/body"})
		if err := k.poll(); err != nil {
			t.Fatal(err)
		}
	}
	out := func() {
		c.do(t, order{Method: "GET", URL: url + "/body"}) // as much before it as in gets
		var cookie uint64
		if err := k.objs.PgSocks.NextKey(nil, &cookie); errors.Is(err, ebpf.ErrKeyNotExist) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if err := k.objs.PgSocks.Delete(cookie); err != nil {
			t.Fatal(err)
		}
	}
	download := func() { c.do(t, order{Method: "GET", URL: url + "/body", Times: times}) }
	download()
	p := compare(t, n, times, []int{c.cmd.Process.Pid, server}, in, out, download)
	s := k.Stats()
	t.Logf("%+v", s)
	if int(s.Pushed) < n*times || int(s.Adopted) < n/2 {
		t.Errorf("the connection was not in the map: %+v", s)
	}
	p.check(t, "in the map")
}

// TestServerUntouched: nginx serves a client that nobody watches as fast with kernel
// mode on as without, on new connections, too, and none of them is in the map.
func TestServerUntouched(t *testing.T) {
	const times = 60
	n := rounds(t, 21)
	url, server := startNginx(t)
	c := startClient(t)
	opts := maps(t)
	var k *Kernel
	off := func() {
		if k == nil {
			return
		}
		if err := k.objs.PgSocks.NextKey(nil, new(uint64)); !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Errorf("a connection is in the map (%v): %+v", err, k.Stats())
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		k = nil
	}
	defer off()
	on := func() {
		off()
		var err error
		if k, err = newUnproven(opts); err != nil {
			needLoop(t, err)
			t.Fatal(err)
		}
	}
	fresh := func(n int) { c.do(t, order{Method: "GET", URL: url + "/body", How: "fresh", Times: n}) }
	download := func() { fresh(times) }
	// What loading leaves the kernel to do is not the mode's cost: it comes before the watch starts.
	then := func(f func()) func() { return func() { f(); fresh(20) } }
	download()
	compare(t, n, times, []int{c.cmd.Process.Pid, server}, then(on), then(off), download).check(t, "kernel mode on")
}
