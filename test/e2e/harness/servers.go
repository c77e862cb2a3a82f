package harness

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Server is a database that runs on loopback with a data folder of its own, until the
// test ends.
type Server struct {
	Addr string // host:port
	cmd  *exec.Cmd
	done chan struct{}
}

// Host is the first part of Addr.
func (s *Server) Host() string { h, _, _ := net.SplitHostPort(s.Addr); return h }

// Port is the second part of Addr.
func (s *Server) Port() string { _, p, _ := net.SplitHostPort(s.Addr); return p }

// Kill ends the server at once, as a crash would.
func (s *Server) Kill() {
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.done
}

// Pause stops the server from answering until Resume.
func (s *Server) Pause() { _ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGSTOP) }

// Resume undoes Pause.
func (s *Server) Resume() { _ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGCONT) }

// StartRedis starts a redis-server, or skips the test where there is none.
func StartRedis(t testing.TB) *Server {
	t.Helper()
	path := tool(t, "redis-server")
	dir := t.TempDir()
	port := freePort(t)
	return startServer(t, port, exec.Command(path, "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no"))
}

// StartPostgres starts a PostgreSQL server with the superuser tester, or skips the test
// where there is none. The server refuses to run as root.
func StartPostgres(t testing.TB) *Server {
	t.Helper()
	initdb, postgres := tool(t, "initdb"), tool(t, "postgres")
	dir, err := os.MkdirTemp("", "tracer-agent-pg") //nolint:usetesting // t.TempDir's parents are root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	const nobody = 65534
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	as := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := as(exec.Command(initdb, "-D", data, "-U", "tester", "--auth=trust", "--encoding=UTF8", "--no-locale")).CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	port := freePort(t)
	s := startServer(t, port, as(exec.Command(postgres, "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=", "-c", "fsync=off")))
	isReady := tool(t, "pg_isready")
	deadline := time.Now().Add(Patience * 30 * time.Second)
	for exec.Command(isReady, "-h", "127.0.0.1", "-p", port).Run() != nil { // it listens before it can answer
		if time.Now().After(deadline) {
			t.Fatal("PostgreSQL does not get ready")
		}
		time.Sleep(20 * time.Millisecond)
	}
	return s
}

// StartMariaDB starts a MariaDB server with the database shop, in which everybody may do
// everything, or skips the test where there is none.
func StartMariaDB(t testing.TB) *Server {
	t.Helper()
	path := tool(t, "mariadbd")
	dir := t.TempDir()
	create := filepath.Join(dir, "create.sql")
	if err := os.WriteFile(create, []byte("CREATE DATABASE IF NOT EXISTS shop;\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	return startServer(t, port, exec.Command(path, "--no-defaults", "--user=root", "--datadir="+t.TempDir(), "--skip-grant-tables",
		"--bind-address=127.0.0.1", "--port="+port, "--socket="+filepath.Join(dir, "socket"), "--init-file="+create))
}

// tool finds a program that scripts/bootstrap.sh dev installs.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		t.Skipf("%s is not installed; scripts/bootstrap.sh dev does", name)
	}
	return found[len(found)-1]
}

func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
}

// startServer starts a server in a process group of its own and waits until it listens.
func startServer(t testing.TB, port string, cmd *exec.Cmd) *Server {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	s := &Server{Addr: "127.0.0.1:" + port, cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		s.Kill()
		closeQuietly(log)
	})
	deadline := time.Now().Add(Patience * 30 * time.Second)
	for {
		if c, err := net.Dial("tcp", s.Addr); err == nil {
			closeQuietly(c)
			return s
		}
		select {
		case <-s.done:
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("%s ended: %s", cmd.Path, text)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen on %s", cmd.Path, s.Addr)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
