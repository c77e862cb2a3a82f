package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// checkJoins requires of every served request that its parent, if it has one, is the
// call with the same id, and of no other. It returns how many have one.
func checkJoins(t *testing.T, spans []harness.Span, server *harness.Target) (joined int) {
	t.Helper()
	calls, used := map[string]harness.Span{}, map[string]bool{}
	for _, s := range harness.Of(spans, harness.Kind("client")) {
		calls[s.SpanID] = s
	}
	served := step{server, "server"}
	for _, s := range spans {
		if !served.is(s) || s.ParentSpanID == "" {
			continue
		}
		joined++
		p, ok := calls[s.ParentSpanID]
		if !ok || idOf(p) != idOf(s) || p.TraceID != s.TraceID || s.Start.Before(p.Start) || used[s.ParentSpanID] {
			t.Errorf("false join: %s\nis made the child of\n%s", s, p)
		}
		used[s.ParentSpanID] = true
	}
	return joined
}

// reuse lets several sockets have one local address.
func reuse(opt int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, opt, 1) })
		return errors.Join(err, inner)
	}
}

// getFrom sends one request on a connection of its own from a given local address.
func getFrom(local, addr, path string) error {
	from, err := net.ResolveTCPAddr("tcp", local)
	if err != nil {
		return err
	}
	d := net.Dialer{LocalAddr: from, Control: reuse(unix.SO_REUSEADDR), Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", addr)
	for deadline := time.Now().Add(10 * time.Second); errors.Is(err, unix.EADDRNOTAVAIL) && time.Now().Before(deadline); {
		c, err = d.Dial("tcp", addr) // whoever had the address is still closing
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// TestReusedPort: a watched client announces requests to a server that is not watched;
// within a millisecond the same four addresses and ports are another connection, from a
// client that is not watched to a server that is.
func TestReusedPort(t *testing.T) {
	needs(t)
	exe := harness.Build{Dir: relay}.Path(t)
	a, b := harness.StartTarget(t, exe), harness.StartTarget(t, exe)
	agent := joining(t, nil, a, b)
	const rounds = 60
	mark, others := agent.Mark(), 0
	for i := range rounds {
		local := fmt.Sprintf("127.0.0.1:%d", 21000+i)
		lc := net.ListenConfig{Control: reuse(unix.SO_REUSEPORT)}
		other, err := lc.Listen(context.Background(), "tcp", b.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan bool, 1)
		go func() { got <- answerOne(other) }()
		q := url.Values{"next": {at("h1", b)}, "from": {local}}
		if _, err := harness.TryGet(a.URL(fmt.Sprintf("/hop/call-%d?%s", i, q.Encode()))); err != nil {
			t.Fatal(err)
		}
		other.Close()
		if <-got {
			others++
		}
		if err := getFrom(local, b.HTTP, fmt.Sprintf("/hop/stranger-%d", i)); err != nil {
			t.Fatalf("from %s: %v", local, err)
		}
	}
	want := rounds /* of a */ + rounds /* calls */ + rounds - others + rounds /* of b */
	agent.Await(mark, want)
	spans := agent.Settle(mark, 0, a)
	if len(spans) != want {
		t.Errorf("%d spans, want %d", len(spans), want)
	}
	joined := checkJoins(t, spans, b)
	t.Logf("%d announced calls went to the other server, %d to the watched one", others, joined)
	if joined != rounds-others {
		t.Errorf("%d requests are joined, want %d", joined, rounds-others)
	}
	if others < rounds/6 {
		t.Errorf("only %d of %d calls were left to be taken by a stranger", others, rounds)
	}
}

// answerOne answers the first request that comes to l, and says whether one came.
func answerOne(l net.Listener) bool {
	c, err := l.Accept()
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 4096)); err != nil {
		return false
	}
	fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	_, _ = c.Read(make([]byte, 1)) // until the client has closed
	return true
}

// TestProxied: with a proxy in between that is not watched nothing is joined, even if
// it uses the client's port for its own connection.
func TestProxied(t *testing.T) {
	needs(t)
	exe := harness.Build{Dir: relay}.Path(t)
	a, b := harness.StartTarget(t, exe), harness.StartTarget(t, exe)
	agent := joining(t, nil, a, b)
	reverse := httptest.NewServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: b.HTTP}))
	defer reverse.Close()
	const n = 100
	for name, addr := range map[string]string{
		"HTTP":                       reverse.Listener.Addr().String(),
		"TCP":                        tcpProxy(t, b.HTTP, false),
		"TCP from the client's port": tcpProxy(t, b.HTTP, true),
	} {
		t.Run(name, func(t *testing.T) {
			mark := agent.Mark()
			for i := range n {
				q := url.Values{"next": {"h1," + addr}, "from": {fmt.Sprintf("127.0.0.1:%d", 22000+i)}}
				if _, err := harness.TryGet(a.URL(fmt.Sprintf("/hop/proxied-%d?%s", i, q.Encode()))); err != nil {
					t.Fatal(err)
				}
			}
			agent.Await(mark, 3*n)
			spans := agent.Settle(mark, 0, a)
			if joined := checkJoins(t, spans, b); joined != 0 || len(spans) != 3*n {
				t.Errorf("%d requests are joined through a proxy, %d spans, want 0 and %d", joined, len(spans), 3*n)
			}
		})
	}
}

// tcpProxy passes connections on to addr, if asked from the port they came from.
func tcpProxy(t *testing.T, addr string, samePort bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	pass := func(in net.Conn) {
		defer in.Close()
		d := net.Dialer{Timeout: 10 * time.Second}
		if samePort {
			d.LocalAddr, d.Control = in.RemoteAddr(), reuse(unix.SO_REUSEADDR)
		}
		out, err := d.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer out.Close()
		_ = out.(*net.TCPConn).SetLinger(0)
		go func() { _, _ = io.Copy(out, in); out.Close() }()
		_, _ = io.Copy(in, out)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go pass(c)
		}
	}()
	return l.Addr().String()
}

// TestRestarts: two agents watch the same programs; one of them and the server are
// killed and started again while requests go on. Each agent's traces are right.
func TestRestarts(t *testing.T) {
	needs(t)
	exe := copyExe(t, harness.Build{Dir: relay}.Path(t), "relay-restarts")
	a, b := harness.StartTarget(t, exe), harness.StartTarget(t, exe)
	addr := b.HTTP
	start := func() *harness.Agent {
		agent := harness.StartAgent(t, "--exe", exe, "--propagation", "join")
		agent.WaitInstrumented(a.PID)
		return agent
	}
	one, two := start(), start()
	one.WaitInstrumented(b.PID)
	two.WaitInstrumented(b.PID)
	stop, load := make(chan struct{}), sync.WaitGroup{}
	for w := range 8 {
		load.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default: // a request may fail while its server is away
					_, _ = harness.TryGet(hop(fmt.Sprintf("w%d-%d", w, i), a, "h1,"+addr))
				}
			}
		})
	}
	servers := []*harness.Target{b}
	for range 3 {
		enough(t, two, servers[len(servers)-1])
		one.Kill()
		old := servers[len(servers)-1]
		old.Stop()
		next := harness.StartTarget(t, exe, "-addr", addr)
		servers = append(servers, next)
		two.WaitInstrumented(next.PID)
		one = start()
		one.WaitInstrumented(next.PID)
		enough(t, one, next)
	}
	enough(t, two, servers[len(servers)-1])
	close(stop)
	load.Wait()
	for _, agent := range []*harness.Agent{one, two} {
		spans := agent.Settle(0, 0, a)
		joined := 0
		for _, s := range servers {
			joined += checkJoins(t, spans, s)
		}
		t.Logf("%d spans, %d joined", len(spans), joined)
		if joined == 0 {
			t.Error("nothing is joined")
		}
	}
}

// enough waits until an agent has joined some requests of a server.
func enough(t *testing.T, agent *harness.Agent, server *harness.Target) {
	t.Helper()
	served := step{server, "server"}
	agent.WaitSpans(agent.Mark(), 50, func(s harness.Span) bool { return served.is(s) && s.ParentSpanID != "" })
}
