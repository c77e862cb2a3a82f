package propagate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/testkernel"
)

// maps makes the two shared maps, which the agent's loader makes otherwise.
func maps(t testing.TB) Options {
	t.Helper()
	testkernel.Require(t, testkernel.Root, testkernel.BTF)
	opts, closeMaps, err := openMaps()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeMaps)
	return opts
}

// unproven starts kernel mode without its self-test.
func unproven(t testing.TB) (*Kernel, Options) {
	t.Helper()
	opts := maps(t)
	k, err := newUnproven(opts)
	if err != nil {
		needLoop(t, err)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k, opts
}

// needLoop skips on kernels before bpf_loop.
func needLoop(t testing.TB, err error) {
	t.Helper()
	var u unix.Utsname
	var major, minor int
	if e := unix.Uname(&u); e != nil {
		t.Fatal(e)
	}
	if _, e := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); e != nil {
		t.Fatal(e)
	}
	if errors.Is(err, ErrRefused) && (major < 5 || major == 5 && minor < 17) {
		t.Skipf("needs bpf_loop, Linux 5.17: %v", err)
	}
}

func connect(t testing.TB) *pair {
	t.Helper()
	p, err := newPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func (p *pair) key(t testing.TB) bpfTrConnkey {
	t.Helper()
	key, err := loopbackKey(p.client.LocalAddr().(*net.TCPAddr).AddrPort(), p.client.RemoteAddr().(*net.TCPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestNew: kernel mode starts exactly where ioctl(FIONREAD) of a socket in a map of
// sockets is right, and says so where it is not.
func TestNew(t *testing.T) {
	opts := maps(t)
	k, err := New(opts)
	if err == nil {
		if s := k.Stats(); s.Pushed == 0 {
			t.Errorf("the self-test pushed nothing: %+v", s)
		}
		if err := errors.Join(k.Close(), k.Close()); err != nil {
			t.Error(err)
		}
	} else {
		needLoop(t, err)
		if !errors.Is(err, ErrRefused) {
			t.Fatal(err)
		}
	}
	// The same question, asked in the plainest way.
	u, _ := unproven(t)
	p := connect(t)
	if err := u.add(p.client); err != nil {
		t.Fatal(err)
	}
	if _, err := p.server.Write(make([]byte, 77)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.Read(nil); err != nil {
		t.Fatal(err)
	}
	got := 0
	for range 100 {
		if e := withFD(p.client, func(fd int) (err error) { got, err = unix.IoctlGetInt(fd, unix.TIOCINQ); return }); e != nil {
			t.Fatal(e)
		}
		if got == 77 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	t.Logf("FIONREAD says %d of 77; New: %v", got, err)
	if refused := err != nil && strings.Contains(err.Error(), "FIONREAD"); refused != (got != 77) || (err != nil) != refused {
		t.Errorf("ioctl(FIONREAD) says %d of 77, and New: %v", got, err)
	}
}

// TestAddTwice: a socket that is in the map already is no error; one in another map is.
func TestAddTwice(t *testing.T) {
	k, _ := unproven(t)
	other, _ := unproven(t)
	p := connect(t)
	var added [2]bool
	var foreign error
	err := withFD(p.client, func(fd int) (err error) {
		for i := range added {
			if added[i], err = k.addSocket(fd); err != nil {
				return err
			}
		}
		_, foreign = other.addSocket(fd)
		return nil
	})
	if err != nil || added != [2]bool{true, false} || !errors.Is(foreign, unix.EBUSY) {
		t.Errorf("added %v, %v; to another map: %v", added, err, foreign)
	}
}

// TestSteps: the self-test's parts that do not depend on FIONREAD pass everywhere.
func TestSteps(t *testing.T) {
	k, _ := unproven(t)
	if err := k.testData(connect(t)); err != nil {
		t.Error(err)
	}
	if err := k.testLine(connect(t)); err != nil {
		t.Error(err)
	}
}

// expect says what the server gets of a request that begins with the send first: with
// the line if it may and must be put there. sure is false where both are right, near
// the limit of what is scanned.
func expect(first string) (line, sure bool) {
	head, _, ended := strings.Cut(first, "\r\n\r\n")
	if !ended {
		return false, true
	}
	for _, l := range strings.Split(head, "\r\n")[1:] {
		if len(l) >= 11 && strings.EqualFold(l[:11], "traceparent") {
			return false, len(head) < 8000
		}
	}
	return len(head) < 8192, len(head) < 8000 || len(head) > 8300
}

// TestRandomRequests: whatever is sent, however it is cut into sends, the server gets
// just that, with the line where it can be proven to be right.
func TestRandomRequests(t *testing.T) {
	k, _ := unproven(t)
	n := 20000
	if testing.Short() {
		n = 2000
	}
	r := rand.New(rand.NewPCG(1, 2))
	var p *pair
	var key bpfTrConnkey
	lines := 0
	for i := range n {
		if i%500 == 0 {
			p = connect(t)
			key = p.key(t)
			if err := k.add(p.client); err != nil {
				t.Fatal(err)
			}
			deadline := time.Now().Add(time.Minute)
			p.client.SetDeadline(deadline)
			p.server.SetDeadline(deadline)
		}
		if err := acknowledged(p.client); err != nil {
			t.Fatal(err)
		}
		req := randomRequest(r)
		first := len(req)
		switch r.IntN(4) {
		case 0:
			first = 1 + r.IntN(len(req))
		case 1:
			first = min(first, 4096)
		}
		if err := k.announce(p.client, key); err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() {
			_, err := p.client.Write([]byte(req[:first]))
			for rest := req[first:]; err == nil && rest != ""; {
				cut := min(len(rest), 4096)
				_, err = p.client.Write([]byte(rest[:cut]))
				rest = rest[cut:]
			}
			sent <- err
		}()
		line, sure := expect(req[:first])
		got := make([]byte, len(req)+len(selfTestLine))
		if _, err := io.ReadFull(p.server, got[:len(req)]); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		at := strings.IndexByte(req, '\n') + 1
		has := string(got[:len(req)]) != req
		if sure && has != line {
			t.Fatalf("request %d: line put: %v, want %v; %+v; first send of %d bytes:\n%.200q", i, has, line, k.Stats(), first, req[:first])
		}
		want := req
		if has {
			lines++
			want = req[:at] + selfTestLine + req[at:]
			if _, err := io.ReadFull(p.server, got[len(req):]); err != nil {
				t.Fatal(err)
			}
		}
		if string(got[:len(want)]) != want {
			t.Fatalf("request %d: got\n%q\nwant\n%q", i, got[:len(want)], want)
		}
	}
	if err := readableNone(p.server); err != nil {
		t.Error(err)
	}
	s := k.Stats()
	t.Logf("%d requests, %d lines: %+v", n, lines, s)
	if s.Pushed != uint64(lines) || lines < n/4 || s.Skipped["kept"] == 0 || s.Skipped["unproven"] == 0 || s.Skipped["not_announced"] == 0 {
		t.Errorf("%d lines seen: %+v", lines, s)
	}
}

// acknowledged waits until the peer has everything, as after a response.
func acknowledged(c *net.TCPConn) error {
	for {
		left := 0
		err := withFD(c, func(fd int) (err error) {
			left, err = unix.IoctlGetInt(fd, unix.TIOCOUTQ)
			return err
		})
		if err != nil || left == 0 {
			return err
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// readableNone: nothing more has come.
func readableNone(c *net.TCPConn) error {
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	defer c.SetReadDeadline(time.Time{})
	b := make([]byte, 100)
	n, err := c.Read(b)
	if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("more than was sent: %q, %w", b[:n], err)
	}
	return nil
}

func randomRequest(r *rand.Rand) string {
	var b strings.Builder
	methods := []string{"GET", "POST", "PUT", "DELETE", "OPTIONS", "X-CUSTOM_method"}
	target := "/" + strings.Repeat("p", r.IntN(1+r.IntN(300)))
	fmt.Fprintf(&b, "%s %s HTTP/1.%d\r\n", methods[r.IntN(len(methods))], target, r.IntN(2))
	headers := r.IntN(1 + r.IntN(60))
	own := -1
	if r.IntN(10) == 0 && headers > 0 {
		own = r.IntN(headers)
	}
	for i := range headers {
		if i == own {
			b.WriteString([]string{"traceparent", "TRACEPARENT", "Traceparent", "tRaCePaReNt"}[r.IntN(4)] + ": 00-1-2-3\r\n")
			continue
		}
		names := []string{"Host", "Trace", "Traceparen", "X-Traceparent", "Tracestate", "Baggage", "T"}
		fmt.Fprintf(&b, "%s: %s\r\n", names[r.IntN(len(names))], strings.Repeat("v", r.IntN(1+r.IntN(400))))
	}
	b.WriteString("\r\n")
	if r.IntN(2) == 0 {
		const text = "GET / HTTP/1.1\r\ntraceparent: x\r\n\r\n"
		body := make([]byte, r.IntN(1+r.IntN(40000)))
		for i := range body {
			body[i] = text[r.IntN(len(text))]
		}
		b.Write(body)
	}
	return b.String()
}

// TestNotTouched: what is not an HTTP/1 request as announced passes as it is.
func TestNotTouched(t *testing.T) {
	k, _ := unproven(t)
	p := connect(t)
	key := p.key(t)
	if err := k.add(p.client); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, send, reason string }{
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not_http"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefghijklmn", "not_http"},
		{"a response", "HTTP/1.1 200 OK\r\nA: b\r\n\r\n", "not_http"},
		{"Redis", "*1\r\n$4\r\nPING\r\n.........", "not_http"},
		{"text", "HELO mail.example.com\r\n\r\n", "not_http"},
		{"HTTP/0.9", "GET /index.html--------\r\n\r\n", "not_http"},
		{"HTTP/1.2", "GET / HTTP/1.2\r\nA: b\r\n\r\n", "not_http"},
		{"lines end with LF", "GET / HTTP/1.1\nA: b\n\n", "not_http"},
		{"short", "GET / H", "not_http"},
		{"long method", strings.Repeat("G", 40) + " / HTTP/1.1\r\n\r\n", "not_http"},
		{"two spaces", "GET  / HTTP/1.1\r\n\r\n", "not_http"},
		{"no end", "GET / HTTP/1.1\r\nA: b\r\n", "unproven"},
		{"end of the line only", "GET / HTTP/1.1\r\nA: b\r\n\r", "unproven"},
		{"no line", strings.Repeat("GET /", 20), "unproven"},
		{"header too long", "GET / HTTP/1.1\r\nA: " + strings.Repeat("b", 9000) + "\r\n\r\n", "unproven"},
		{"name at the end", "GET / HTTP/1.1\r\ntracepar", "unproven"},
		{"traceparent without value", "GET / HTTP/1.1\r\ntraceparent", "kept"},
		{"traceparent with space", "GET / HTTP/1.1\r\nTraceParent : x\r\n\r\n", "kept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := k.announce(p.client, key); err != nil {
				t.Fatal(err)
			}
			before := k.Stats().Skipped[c.reason]
			if _, err := p.client.Write([]byte(c.send)); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(c.send))
			if _, err := io.ReadFull(p.server, got); err != nil {
				t.Fatal(err)
			}
			if string(got) != c.send {
				t.Errorf("got %q, want %q", got, c.send)
			}
			if err := readableNone(p.server); err != nil {
				t.Error(err)
			}
			if n := k.Stats().Skipped[c.reason]; n != before+1 {
				t.Errorf("counted as %s: %d, want 1: %+v", c.reason, n-before, k.Stats())
			}
		})
	}
}

// TestLongLine: a request line that does not fit in a segment with the line is left.
func TestLongLine(t *testing.T) {
	k, _ := unproven(t)
	p, err := newPairWith(&net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1400) })
		return errors.Join(e, err)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := k.add(p.client); err != nil {
		t.Fatal(err)
	}
	var mss int
	if err := withFD(p.client, func(fd int) (err error) {
		mss, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG)
		return
	}); err != nil {
		t.Fatal(err)
	}
	if mss > 1400 {
		t.Fatalf("segments of %d bytes: the test needs shorter ones", mss)
	}
	send := "GET /" + strings.Repeat("p", mss) + " HTTP/1.1\r\n\r\n"
	if err := k.announce(p.client, p.key(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.Write([]byte(send)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(send))
	if _, err := io.ReadFull(p.server, got); err != nil || string(got) != send {
		t.Errorf("got %q, %v", got, err)
	}
	if s := k.Stats(); s.Skipped["long_request_line"] != 1 || s.Pushed != 0 {
		t.Errorf("%+v", s)
	}
}

// TestFullBuffer: a request behind bytes that wait to be sent is left as it is, and
// nothing is lost or doubled when only a part of it is taken.
func TestFullBuffer(t *testing.T) {
	k, _ := unproven(t)
	p := connect(t)
	key := p.key(t)
	for _, c := range []*net.TCPConn{p.client, p.server} {
		if err := errors.Join(c.SetWriteBuffer(16<<10), c.SetReadBuffer(256<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.add(p.client); err != nil {
		t.Fatal(err)
	}
	var want []byte
	for round := range 50 {
		fill := bytes.Repeat([]byte{byte('a' + round%26)}, 2000*(round+1))
		req := fmt.Sprintf("GET /%d HTTP/1.1\r\nA: %s\r\n\r\n", round, strings.Repeat("v", round*70))
		want = append(append(want, fill...), req...)
	}
	read := make(chan []byte, 1)
	go func() {
		var all []byte
		b := make([]byte, 7777)
		for {
			n, err := p.server.Read(b)
			all = append(all, b[:n]...)
			if err != nil {
				break
			}
			time.Sleep(time.Millisecond) // slower than the writer
		}
		read <- all
	}()
	for round := range 50 {
		fill := bytes.Repeat([]byte{byte('a' + round%26)}, 2000*(round+1))
		req := fmt.Sprintf("GET /%d HTTP/1.1\r\nA: %s\r\n\r\n", round, strings.Repeat("v", round*70))
		if _, err := p.client.Write(fill); err != nil {
			t.Fatal(err)
		}
		if err := k.announce(p.client, key); err != nil {
			t.Fatal(err)
		}
		if _, err := p.client.Write([]byte(req)); err != nil {
			t.Fatal(err)
		}
	}
	p.client.CloseWrite()
	got := <-read
	s := k.Stats()
	if n := bytes.Count(got, []byte(selfTestLine)); uint64(n) != s.Pushed {
		t.Errorf("%d lines arrived: %+v", n, s)
	}
	if got := bytes.ReplaceAll(got, []byte(selfTestLine), nil); !bytes.Equal(got, want) {
		t.Errorf("%d bytes without the lines, want %d", len(got), len(want))
	}
	t.Logf("%+v", s)
	if s.Skipped["busy"] == 0 {
		t.Errorf("no request was behind others' bytes: %+v", s)
	}
}
