package propagate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
	"github.com/tracer-agent/tracer-agent/probes/nethttp"
)

// roleEnv makes this test binary one of the test's other processes.
const roleEnv = "PROPAGATE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "client":
		clientMain()
	case "agent":
		agentMain()
	default:
		os.Exit(m.Run())
	}
}

// order is one request that the client process makes.
type order struct {
	Method, URL string
	Header      map[string]string
	Body        int    // bytes
	How         string // "", "chunked", "expect", "fresh" (a new connection)
	Times       int    // 0 is once
}

// clientMain is an ordinary Go program: it makes the requests on its standard input.
func clientMain() {
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 10 * time.Second}}
	orders, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if orders.Decode(&o) != nil {
			return
		}
		var err error
		for i := 0; err == nil && i < max(o.Times, 1); i++ {
			err = o.run(client)
		}
		answer := "ok"
		if err != nil {
			answer = err.Error()
		}
		if out.Encode(answer) != nil {
			return
		}
	}
}

func (o order) run(client *http.Client) error {
	body := strings.Repeat("0123456789abcde\n", o.Body/16+1)[:o.Body]
	var r io.Reader = strings.NewReader(body)
	if o.How == "chunked" {
		r = io.MultiReader(r) // of unknown length
	} else if o.Body == 0 {
		r = nil
	}
	req, err := http.NewRequest(o.Method, o.URL, r)
	if err != nil {
		return err
	}
	for k, v := range o.Header {
		req.Header[k] = []string{v}
	}
	if o.How == "expect" {
		req.Header.Set("Expect", "100-continue")
	}
	if o.How == "fresh" {
		client.CloseIdleConnections()
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err = io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return err
}

// client is the client process.
type client struct {
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
}

func startClient(t testing.TB) *client {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=client")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("client process: %v", err)
		}
	})
	return &client{cmd: cmd, in: json.NewEncoder(in), out: json.NewDecoder(out)}
}

func (c *client) do(t testing.TB, o order) {
	t.Helper()
	var answer string
	if err := c.in.Encode(o); err != nil {
		t.Fatal(err)
	}
	if err := c.out.Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if answer != "ok" {
		t.Fatalf("%s %s: %s", o.Method, o.URL, answer)
	}
}

// recorder is a server that keeps each request's bytes as they came.
type recorder struct {
	url string
	mu  sync.Mutex
	got [][]byte
}

func startRecorder(t testing.TB) *recorder {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{url: "http://" + ln.Addr().String()}
	var wg sync.WaitGroup
	conns := make(chan net.Conn, 1024)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- c
			wg.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		close(conns)
		for c := range conns {
			c.Close()
		}
		wg.Wait()
	})
	return r
}

func (r *recorder) serve(c net.Conn) {
	defer c.Close()
	var raw bytes.Buffer
	br := bufio.NewReader(io.TeeReader(c, &raw))
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if req.Header.Get("Expect") != "" {
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		r.mu.Lock()
		r.got = append(r.got, bytes.Clone(raw.Bytes()))
		r.mu.Unlock()
		raw.Reset()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}
}

// take returns the requests since the last call.
func (r *recorder) take() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

// watched attaches the client probe to this executable and lets in the process.
type watched struct {
	manager *probe.Manager
	mu      sync.Mutex
	spans   map[string]bool // traceparents of finished calls
}

func watch(t testing.TB, pid int) *watched {
	t.Helper()
	w := &watched{spans: map[string]bool{}}
	spec, err := nethttp.New(nethttp.Config{Join: true, Redact: redact.New(nil)})
	if err != nil {
		t.Fatal(err)
	}
	w.manager, err = probe.NewManager(probe.ManagerOptions{Specs: []*probe.Spec{spec}, Emit: func(op *telemetry.Operation) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.spans[fmt.Sprintf("00-%s-%s-01", op.TraceID, op.SpanID)] = true
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.manager.Close() })
	path := fmt.Sprintf("/proc/%d/exe", pid)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	a, err := w.manager.Attach(t.Context(), probe.ExeRef{Dev: unix.Major(st.Dev)<<20 | unix.Minor(st.Dev), Ino: st.Ino, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.manager.AddProcess(telemetry.ProcessKey{PID: int32(pid), StartNs: 1}, 0, a, probe.HandJoin|probe.HandKernel); err != nil {
		t.Fatal(err)
	}
	return w
}

var lineRE = regexp.MustCompile(`^Traceparent: (00-[0-9a-f]{32}-[0-9a-f]{16}-01)\r\n`)

// withoutLine takes the line out from where it must be; "" when there is none.
func withoutLine(req []byte) (rest []byte, traceparent string) {
	at := bytes.IndexByte(req, '\n') + 1
	m := lineRE.FindSubmatch(req[at:])
	if m == nil {
		return req, ""
	}
	return append(bytes.Clone(req[:at]), req[at+len(m[0]):]...), string(m[1])
}

// orders are requests of every kind that net/http writes.
func orders(url string) []order {
	var out []order
	headers := func(n, size int) map[string]string {
		h := map[string]string{}
		for i := range n {
			h[fmt.Sprintf("X-Header-%d", i)] = strings.Repeat("v", size)
		}
		return h
	}
	for _, n := range []int{0, 1, 7, 8, 9, 30, 60, 100, 200} {
		out = append(out, order{Method: "GET", URL: url + "/headers", Header: headers(n, 20)})
	}
	// around the flush of net/http's 4 KiB buffer, byte by byte
	for size := 3900; size < 4110; size++ {
		out = append(out, order{Method: "GET", URL: url + "/edge", Header: headers(1, size)})
	}
	for _, how := range []string{"", "chunked", "expect", "fresh"} {
		for _, body := range []int{1, 100, 3500, 3800, 4000, 4096, 5000, 8192, 65536, 1 << 20} {
			out = append(out, order{Method: "POST", URL: url + "/body", Body: body, How: how})
		}
	}
	for _, own := range []string{"traceparent", "Traceparent", "TRACEPARENT", "tRaceparent"} {
		out = append(out, order{Method: "GET", URL: url + "/own", Header: map[string]string{own: "00-11111111111111111111111111111111-2222222222222222-01"}})
	}
	for range 100 {
		out = append(out, order{Method: "GET", URL: url + "/again?a=b"})
	}
	return append(out, order{Method: "DELETE", URL: url + "/x", How: "fresh"}, order{Method: "GET", URL: url + "/" + strings.Repeat("p", 2000)})
}

// TestGoClient: what a server receives of a real Go client is, byte for byte, what it
// receives without the agent, but for the line, which names the call's span.
func TestGoClient(t *testing.T) {
	rec := startRecorder(t)
	list := orders(rec.url)
	c := startClient(t)
	run := func() [][]byte {
		for _, o := range list {
			c.do(t, o)
		}
		got := rec.take()
		if len(got) != len(list) {
			t.Fatalf("%d requests arrived, want %d", len(got), len(list))
		}
		return got
	}
	plain := run()

	opts := maps(t)
	w := watch(t, c.cmd.Process.Pid)
	opts.Conns = w.manager.Conns()
	opts.Procs, _ = w.manager.Maps()
	k, err := newUnproven(opts)
	if err != nil {
		needLoop(t, err)
		t.Fatal(err)
	}
	defer k.Close()
	// The connection is open already: it is taken in after its first announcement.
	deadline := time.Now().Add(10 * time.Second)
	for k.Stats().Pushed == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("no line on a connection that was open before: %+v", k.Stats())
		}
		c.do(t, order{Method: "GET", URL: rec.url + "/warm"})
		time.Sleep(pollEvery / 4)
	}
	rec.take()
	if s := k.Stats(); s.Adopted != 1 || s.AtConnect != 0 {
		t.Errorf("one connection was open: %+v", s)
	}

	lines := 0
	var seen []string
	for i, got := range run() {
		rest, tp := withoutLine(got)
		if !bytes.Equal(rest, plain[i]) {
			t.Fatalf("%+v: server got\n%.3000q\nwant\n%.3000q", list[i], got, plain[i])
		}
		head := bytes.Index(plain[i], []byte("\r\n\r\n")) + 4
		want := head <= 4096 && !strings.HasSuffix(list[i].URL, "/own")
		if (tp != "") != want {
			t.Errorf("%s %s %s (header of %d bytes): line %q, want one: %v", list[i].Method, list[i].URL, list[i].How, head, tp, want)
		}
		if tp != "" {
			lines++
			seen = append(seen, tp)
		}
	}
	s := k.Stats()
	t.Logf("%d requests, %d lines: %+v", len(list), lines, s)
	if s.AtConnect == 0 || s.Refused != 0 {
		t.Errorf("new connections to a known address: %+v", s)
	}
	for _, tp := range seen {
		w.waitSpan(t, tp)
	}
}

// waitSpan waits until the call that the traceparent names has become a span.
func (w *watched) waitSpan(t testing.TB, tp string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		w.mu.Lock()
		ok := w.spans[tp]
		w.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no span is %s", tp)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// agentMain is an agent that takes in connections of another process and is then
// killed: argument values are its parent's descriptors.
func agentMain() {
	if err := runAgent(); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

func runAgent() error {
	opts, closeMaps, err := openMaps()
	if err != nil {
		return err
	}
	defer closeMaps()
	k, err := newUnproven(opts)
	if err != nil {
		return err
	}
	defer k.Close()
	var conns []bpfTrConnkey
	raw, err := hex.DecodeString(os.Getenv("PROPAGATE_TEST_CONNS"))
	if err == nil {
		err = json.Unmarshal(raw, &conns)
	}
	if err != nil {
		return err
	}
	var fds []uint32
	if err := json.Unmarshal([]byte(os.Getenv("PROPAGATE_TEST_FDS")), &fds); err != nil {
		return err
	}
	for i, key := range conns {
		now, err := monotonic()
		if err != nil {
			return err
		}
		if err := opts.Conns.Put(key, bpfTrConn{Tgid: uint32(os.Getppid()), Fd: fds[i], SaidNs: now, Kernel: 1}); err != nil {
			return err
		}
	}
	for k.Stats().Adopted < uint64(len(conns)) {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("adopted")
	time.Sleep(time.Hour)
	return nil
}

// TestKilled: connections that an agent has taken in go on without a lost or changed
// byte when it is killed, in the middle of what is being sent and received.
func TestKilled(t *testing.T) {
	unproven(t) // skips where the agent process would fail
	const n, rounds = 8, 5
	var pairs []*pair
	for range n {
		pairs = append(pairs, connect(t))
	}
	stop := make(chan struct{})
	errs := make(chan error, 4*n)
	var wg sync.WaitGroup
	for _, p := range pairs {
		for _, c := range []*net.TCPConn{p.client, p.server} {
			c.SetDeadline(time.Now().Add(10 * time.Minute)) // slow machines: emulated ones
			wg.Go(func() { errs <- writePattern(c, stop) })
			wg.Go(func() { errs <- readPattern(c) })
		}
	}
	for range rounds {
		killAgent(t, pairs)
	}
	close(stop)
	wg.Wait()
	for range 4 * n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// killAgent starts an agent on the connections and kills it.
func killAgent(t *testing.T, pairs []*pair) {
	t.Helper()
	var keys []bpfTrConnkey
	var fds []uint32
	for _, p := range pairs {
		keys = append(keys, p.key(t))
		if err := withFD(p.client, func(fd int) error { fds = append(fds, uint32(fd)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	k, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	f, err := json.Marshal(fds)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=agent", "PROPAGATE_TEST_CONNS="+hex.EncodeToString(k), "PROPAGATE_TEST_FDS="+string(f))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	time.Sleep(100 * time.Millisecond) // of traffic through the map
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if line != "adopted\n" {
		t.Fatalf("agent said %q, %v", line, err)
	}
}

// patternBytes is the period of what the connections carry: a prime, so that no lost
// or doubled piece goes unseen.
const patternBytes = 251

func writePattern(c *net.TCPConn, stop chan struct{}) error {
	buf := make([]byte, 16*patternBytes)
	for i := range buf {
		buf[i] = byte(i % patternBytes)
	}
	at := 0
	for size := 1; ; size = size*7%3000 + 1 {
		select {
		case <-stop:
			return c.CloseWrite()
		default:
		}
		n, err := c.Write(buf[at : at+size])
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		at = (at + n) % patternBytes
	}
}

func readPattern(c *net.TCPConn) error {
	buf := make([]byte, 64<<10)
	at, total := 0, 0
	for {
		n, err := c.Read(buf)
		for _, b := range buf[:n] {
			if int(b) != at {
				return fmt.Errorf("byte %d is %d, want %d", total, b, at)
			}
			at = (at + 1) % patternBytes
			total++
		}
		if errors.Is(err, io.EOF) {
			if total == 0 {
				return fmt.Errorf("nothing was received")
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("read after %d bytes: %w", total, err)
		}
	}
}
