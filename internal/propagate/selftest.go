package propagate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// selfTestWait bounds each step of the self-test.
const selfTestWait = 2 * time.Second

// pair is a loopback connection of the agent's own: client is the end that goes into
// the map.
type pair struct {
	client, server *net.TCPConn
}

func newPair() (*pair, error) { return newPairWith(&net.Dialer{}) }

func newPairWith(d *net.Dialer) (*pair, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	d.Timeout = selfTestWait
	client, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	for {
		server, err := ln.Accept()
		if err != nil {
			return nil, errors.Join(err, client.Close())
		}
		if server.RemoteAddr().String() != client.LocalAddr().String() {
			server.Close() // a stranger's
			continue
		}
		p := &pair{client: client.(*net.TCPConn), server: server.(*net.TCPConn)}
		deadline := time.Now().Add(10 * selfTestWait)
		return p, errors.Join(client.SetDeadline(deadline), server.SetDeadline(deadline))
	}
}

func (p *pair) close() {
	p.client.Close()
	p.server.Close()
}

// withFD calls f with a connection's descriptor, left in its state.
func withFD(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

// selfTest proves on private connections that a socket in the map behaves, and that
// the line is put where it must be, and nowhere else.
func (k *Kernel) selfTest() error {
	steps := []struct {
		what string
		run  func(*pair) error
	}{
		{"ioctl(FIONREAD) and readiness", k.testReadiness},
		{"data in both directions", k.testData},
		{"the header line", k.testLine},
	}
	for _, s := range steps {
		p, err := newPair()
		if err != nil {
			return fmt.Errorf("%s: connect: %w", s.what, err)
		}
		err = s.run(p)
		p.close()
		if err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}

func (k *Kernel) add(c *net.TCPConn) error {
	return withFD(c, func(fd int) error {
		added, err := k.addSocket(fd)
		if err == nil && !added {
			err = errors.New("the socket is in the map already")
		}
		return err
	})
}

// readable waits until ioctl(FIONREAD) says want.
func readable(c *net.TCPConn, want int) error {
	deadline := time.Now().Add(selfTestWait)
	for {
		var got int
		err := withFD(c, func(fd int) (err error) {
			got, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
			return err
		})
		if err != nil {
			return err
		}
		if got == want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("ioctl(FIONREAD) says %d with %d bytes to be read: this kernel carries "+
				"929e30f93125 without 04af4efde58a; a newer kernel has the repair", got, want)
		}
		time.Sleep(time.Millisecond)
	}
}

// testReadiness: the count of readable bytes is right, whether they came before the
// socket was added or after, and who waits for bytes is woken.
func (k *Kernel) testReadiness(p *pair) error {
	send := func(n int) error { _, err := p.server.Write(make([]byte, n)); return err }
	take := func(n int) error { _, err := io.ReadFull(p.client, make([]byte, n)); return err }
	for _, step := range []func() error{
		func() error { return send(1000) },
		func() error { return readable(p.client, 1000) },
		func() error { return k.add(p.client) },
		func() error { return readable(p.client, 1000) },
		func() error { return send(500) },
		func() error { return readable(p.client, 1500) },
		func() error { return take(200) },
		func() error { return readable(p.client, 1300) },
		func() error { return take(1300) },
		func() error { return readable(p.client, 0) },
		func() error { return woken(p, send) },
		p.server.CloseWrite,
		func() error { return atEnd(p.client) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// woken: epoll, edge-triggered, tells of bytes that arrive while it waits.
func woken(p *pair, send func(int) error) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(ep)
	err = withFD(p.client, func(fd int) error {
		return unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)})
	})
	if err != nil {
		return err
	}
	for range 3 {
		sent := make(chan error, 1)
		go func() {
			time.Sleep(5 * time.Millisecond) // until the wait has begun, as a rule
			sent <- send(300)
		}()
		n, err := epollWait(ep, selfTestWait)
		if err := errors.Join(err, <-sent); err != nil {
			return err
		}
		if n == 0 {
			return errors.New("epoll does not tell of bytes that arrive")
		}
		if err := readable(p.client, 300); err != nil {
			return err
		}
		if _, err := io.ReadFull(p.client, make([]byte, 300)); err != nil {
			return err
		}
	}
	return nil
}

func epollWait(ep int, d time.Duration) (int, error) {
	deadline := time.Now().Add(d)
	for {
		n, err := unix.EpollWait(ep, make([]unix.EpollEvent, 1), int(time.Until(deadline).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func atEnd(c *net.TCPConn) error {
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("at the end of the stream: %d bytes, %w", n, err)
	}
	return nil
}

// testData: big bodies, sendfile and splice arrive as they were sent, and the socket
// goes on working when it leaves the map.
func (k *Kernel) testData(p *pair) error {
	if err := k.add(p.client); err != nil {
		return err
	}
	body := make([]byte, 1<<20)
	for i := range body {
		body[i] = byte(i>>8 ^ i*7)
	}
	write := func(c *net.TCPConn) func() error {
		return func() error { _, err := c.Write(body); return err }
	}
	for _, t := range []struct {
		what string
		to   *net.TCPConn
		send func() error
	}{
		{"write", p.server, write(p.client)},
		{"read", p.client, write(p.server)},
		{"sendfile", p.server, func() error { return sendfile(p.client, body) }},
		{"splice", p.server, func() error { return splice(p.client, body) }},
		{"write after removal", p.server, func() error { return errors.Join(k.remove(p.client), write(p.client)()) }},
		{"read after removal", p.client, write(p.server)},
	} {
		sent := make(chan error, 1)
		go func() { sent <- t.send() }()
		got := make([]byte, len(body))
		_, err := io.ReadFull(t.to, got)
		if err := errors.Join(err, <-sent); err != nil {
			return fmt.Errorf("%s: %w", t.what, err)
		}
		if !bytes.Equal(got, body) {
			return fmt.Errorf("%s: bytes are not what was sent", t.what)
		}
	}
	return nil
}

func (k *Kernel) remove(c *net.TCPConn) error {
	return withFD(c, func(fd int) error {
		cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			return err
		}
		return k.objs.PgSocks.Delete(cookie)
	})
}

func sendfile(c *net.TCPConn, body []byte) error {
	fd, err := unix.MemfdCreate("tracer-agent", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "memfd")
	defer f.Close()
	if _, err := f.Write(body); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = c.ReadFrom(f)
	return err
}

// splice sends body through a pipe, without copying it to the socket.
func splice(c *net.TCPConn, body []byte) error {
	// A blocking pipe: that it is empty must not be taken for a full socket.
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	r, w := os.NewFile(uintptr(pipe[0]), "pipe"), os.NewFile(uintptr(pipe[1]), "pipe")
	defer r.Close()
	fed := make(chan error, 1)
	go func() {
		_, err := w.Write(body)
		fed <- errors.Join(err, w.Close())
	}()
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	for left := len(body); left > 0; {
		var n int64
		var inner error
		err := raw.Write(func(fd uintptr) bool {
			n, inner = unix.Splice(int(r.Fd()), nil, int(fd), nil, left, unix.SPLICE_F_MOVE)
			return !errors.Is(inner, unix.EAGAIN)
		})
		if err := errors.Join(err, inner); err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		left -= int(n)
	}
	return <-fed
}

// selfTestConn is what the self-test announces.
var selfTestConn = bpfTrConn{
	TraceId: [2]uint64{0x0706050403020100, 0x0f0e0d0c0b0a0908}, SpanId: 0x1716151413121110, TraceFlags: 1, Kernel: 1,
}

const selfTestLine = "Traceparent: 00-000102030405060708090a0b0c0d0e0f-1011121314151617-01\r\n"

// testLine: an announced request gets the line; one that has a traceparent, one whose
// header comes in two sends, and what was not announced do not.
func (k *Kernel) testLine(p *pair) error {
	if err := k.add(p.client); err != nil {
		return err
	}
	client := p.client.LocalAddr().(*net.TCPAddr).AddrPort()
	server := p.client.RemoteAddr().(*net.TCPAddr).AddrPort()
	key, err := loopbackKey(client, server)
	if err != nil {
		return err
	}
	defer func() { _ = k.conns.Delete(key) }()
	for _, t := range []struct {
		what     string
		announce bool
		sends    []string
		line     string // goes between sends[0] up to its first "\n" and the rest
	}{
		{"announced", true, []string{"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"}, selfTestLine},
		{"with a body", true, []string{"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "GET /b HTTP/1.1\r\n\r\n"}, selfTestLine},
		{"kept", true, []string{"GET /a HTTP/1.1\r\nHost: a\r\ntRaceparent: x\r\n\r\n"}, ""},
		{"in two sends", true, []string{"GET /a HTTP/1.1\r\nHost: a\r\n", "X: y\r\n\r\n"}, ""},
		{"not HTTP", true, []string{"\x16\x03\x01 GET / HTTP/1.1\r\n\r\n"}, ""},
		{"not announced", false, []string{"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"}, ""},
	} {
		if t.announce {
			err := k.announce(p.client, key)
			if err != nil {
				return err
			}
		}
		var want []byte
		for i, s := range t.sends {
			at := 0
			if i == 0 {
				at = bytes.IndexByte([]byte(s), '\n') + 1
				want = append(append(want, s[:at]...), t.line...)
			}
			want = append(want, s[at:]...)
			if _, err := p.client.Write([]byte(s)); err != nil {
				return err
			}
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(p.server, got); err != nil {
			return fmt.Errorf("%s: %w (got %q)", t.what, err, got)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s: the server got %q, want %q", t.what, got, want)
		}
	}
	if err := readable(p.server, 0); err != nil {
		return fmt.Errorf("more bytes than were sent: %w", err)
	}
	return nil
}

// announce says in tr_conns that the next request on the connection is the self-test's.
func (k *Kernel) announce(c *net.TCPConn, key bpfTrConnkey) error {
	val := selfTestConn
	now, err := monotonic()
	if err != nil {
		return err
	}
	val.SaidNs = now
	err = withFD(c, func(fd int) error {
		val.Seq, err = writeSeq(fd)
		return err
	})
	if err != nil {
		return err
	}
	if err := k.conns.Update(key, val, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	return nil
}

// From include/uapi/linux/tcp.h.
const (
	tcpSendQueue     = 2
	tcpRepairOffNoWP = -1
)

// writeSeq reads the sequence number of a socket's next byte, as checkpointing does.
func writeSeq(fd int) (uint32, error) {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
		return 0, fmt.Errorf("TCP_REPAIR: %w", err)
	}
	err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, tcpSendQueue)
	seq, err2 := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
	err3 := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, tcpRepairOffNoWP)
	return uint32(seq), errors.Join(err, err2, err3)
}
