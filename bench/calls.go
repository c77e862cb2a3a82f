package main

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// callsEach is how many calls calltwin makes a request.
const callsEach = 20

// callKind is one kind of calls that calltwin makes.
type callKind struct {
	name string // of the part
	one  string // what a call is called
	sdk  string // what instruments it with the SDK
	addr string // of the server called
	// limit is how much CPU a call may cost the program more, µs; 0: only less than the SDK.
	limit float64
}

// calls compares what a call costs the program that makes it: without anything, with the
// agent, and with the SDK.
func (b *bench) calls(k callKind) error {
	twin := filepath.Join(b.dir, "calltwin")
	if err := build("calltwin", twin); err != nil {
		return err
	}
	args := []string{"-kind", k.name, "-addr", k.addr}
	c, err := b.contest(k.name, procSpec{path: twin, args: args}, procSpec{path: twin, args: append(args, "-sdk")})
	if err != nil {
		return err
	}
	defer c.stop()
	vs := c.variants
	load := loadSpec{path: "/", conns: 4, duration: b.length}
	if _, err := b.together(vs, load); err != nil { // warm
		return err
	}
	before, err := c.spans.settled()
	if err != nil {
		return err
	}
	for r := range 2 * b.rounds {
		if r%2 == 0 {
			log.Printf("  round %d of %d", r/2+1, b.rounds)
		}
		res, err := b.together(vs, load)
		if err != nil {
			return err
		}
		for i, v := range vs {
			v.cpu = append(v.cpu, res[i].cpuUs/callsEach)
			v.reqs += res[i].Requests
		}
	}
	after, err := c.spans.settled()
	if err != nil {
		return err
	}
	b.reportCalls(k, vs, after-before)
	return nil
}

func (b *bench) reportCalls(k callKind, vs []*variant, spans int) {
	base := median(vs[0].cpu)
	agent, sdk := spreadOf(pairs(vs[1].cpu, vs[0].cpu, difference)), spreadOf(pairs(vs[2].cpu, vs[0].cpu, difference))
	added := func(s spread) string { return fmt.Sprintf("%s µs, %.2fx", s.text("%+.1f"), 1+s.median/base) }
	must := "below " + k.sdk
	if k.limit > 0 {
		must = fmt.Sprintf("<= %.0f µs and %s", k.limit, must)
	}
	b.report.add(row{what: "CPU per " + k.one + " in the program, added; median of pairs [quartiles]", must: must,
		agent: added(agent), sdk: added(sdk), base: fmt.Sprintf("%.1f µs", base),
		ok: agent.median < sdk.median && (k.limit == 0 || agent.median <= k.limit)})
	want := vs[1].reqs * (callsEach + 1)
	b.report.add(row{what: "spans for each " + k.one + " and their requests", must: "100 %",
		agent: fmt.Sprintf("%d of %d", spans, want), sdk: "-", ok: spans == want})
}

func (b *bench) redis() error {
	path, err := installed("redis-server")
	if err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(addr)
	s, err := launch(procSpec{path: path, cpu: loadCPU, args: []string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"}})
	if err != nil {
		return err
	}
	defer s.stop()
	if err := listens(addr); err != nil {
		return err
	}
	return b.calls(callKind{name: "redis", one: "Redis command", sdk: "redisotel", addr: addr})
}

func (b *bench) grpc() error {
	twin := filepath.Join(b.dir, "calltwin")
	if err := build("calltwin", twin); err != nil {
		return err
	}
	served := filepath.Join(b.dir, "run-grpc-server") // not an executable that is watched
	if err := copyFile(twin, served); err != nil {
		return err
	}
	s, err := start(procSpec{path: served, cpu: loadCPU, args: []string{"-serve", "-addr", "127.0.0.1:0"}})
	if err != nil {
		return err
	}
	defer s.stop()
	return b.calls(callKind{name: "grpc", one: "RPC", sdk: "otelgrpc", addr: s.ready.HTTP})
}

// nobody runs PostgreSQL, which refuses to be root.
const nobody = 65534

func (b *bench) sql() error {
	initdb, err := installed("initdb")
	if err != nil {
		return err
	}
	postgres, err := installed("postgres")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-postgres")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		return err
	}
	as := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Setpgid: true, Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := as(exec.Command(initdb, "-D", data, "-U", "tester", "--auth=trust", "--encoding=UTF8", "--no-locale")).CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(addr)
	cmd := as(exec.Command("taskset", "-c", loadCPU, postgres, "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=", "-c", "fsync=off"))
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		_ = cmd.Wait()
	}()
	ready, err := installed("pg_isready")
	if err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); exec.Command(ready, "-h", "127.0.0.1", "-p", port).Run() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("PostgreSQL does not get ready")
		}
	}
	return b.calls(callKind{name: "sql", one: "SQL statement", sdk: "otelsql", addr: addr})
}

// installed finds a program that scripts/bootstrap.sh dev installs.
func installed(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(found) > 0 {
		return found[len(found)-1], nil
	}
	return "", fmt.Errorf("%w; scripts/bootstrap.sh dev installs it", err)
}

func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// listens waits until somebody does.
func listens(addr string) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(end) {
			return fmt.Errorf("nobody listens: %w", err)
		}
	}
}
