package propagate

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// startNginx serves a file of 1 MiB.
func startNginx(t testing.TB) (url string) {
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
			return "http://" + addr
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// leastThroughput is what a test can tell from other work on the machine; 0.95 is promised,
// and what is measured is logged.
const leastThroughput = 0.85

// TestDownload: a client whose connection is in the map downloads from nginx as fast as
// it does when the same connection is not.
func TestDownload(t *testing.T) {
	const rounds, times, least = 81, 20, leastThroughput
	url := startNginx(t)
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
		var cookie uint64
		if err := k.objs.PgSocks.NextKey(nil, &cookie); err != nil {
			t.Fatalf("the connection was not in the map: %v; %+v", err, k.Stats())
		}
		if err := k.objs.PgSocks.Delete(cookie); err != nil {
			t.Fatal(err)
		}
	}
	rate := func() float64 { // MiB/s
		start := time.Now()
		c.do(t, order{Method: "GET", URL: url + "/body", Times: times})
		return times / time.Since(start).Seconds()
	}
	rate()
	// Others may use this machine: many short rounds in turn, and their medians.
	var without, with []float64
	for range rounds {
		in()
		with = append(with, rate())
		out()
		without = append(without, rate())
	}
	slices.Sort(with)
	slices.Sort(without)
	s, ratio := k.Stats(), with[rounds/2]/without[rounds/2]
	t.Logf("%.0f MiB/s in the map, %.0f not in it: %.3f; %+v", with[rounds/2], without[rounds/2], ratio, s)
	if s.Pushed != rounds*times || s.Adopted != rounds {
		t.Errorf("the connection was not in the map: %+v", s)
	}
	if ratio < least {
		t.Errorf("%.3f of the throughput, want %v", ratio, least)
	}
}

// TestServerUntouched: nginx serves a client that nobody watches as fast with kernel
// mode on as without, on new connections, too, and none of them is in the map.
func TestServerUntouched(t *testing.T) {
	const rounds, times, least = 41, 20, leastThroughput
	url := startNginx(t)
	c := startClient(t)
	rate := func() float64 { // MiB/s
		start := time.Now()
		c.do(t, order{Method: "GET", URL: url + "/body", How: "fresh", Times: times})
		return times / time.Since(start).Seconds()
	}
	rate()
	opts := maps(t)
	var off, on []float64
	for range rounds {
		off = append(off, rate())
		k, err := newUnproven(opts)
		if err != nil {
			needLoop(t, err)
			t.Fatal(err)
		}
		on = append(on, rate())
		if err := k.objs.PgSocks.NextKey(nil, new(uint64)); !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Errorf("a connection is in the map (%v): %+v", err, k.Stats())
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(off)
	slices.Sort(on)
	ratio := on[rounds/2] / off[rounds/2]
	t.Logf("%.0f MiB/s with kernel mode on, %.0f with it off: %.3f", on[rounds/2], off[rounds/2], ratio)
	if ratio < least {
		t.Errorf("%.3f of the throughput, want %v", ratio, least)
	}
}
