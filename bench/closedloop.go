package main

import (
	"bytes"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lane is one connection of a closed loop.
type lane struct {
	fd  int
	got int // bytes of the answer so far
	n   int // answered in full
}

// closedLoop keeps one request in flight on every connection until the time is up,
// and returns how many were answered. One thread and epoll: the generator shares its
// processor with the agent and must leave the server saturated, which goroutines and
// the runtime's poller do not.
func closedLoop(conns []net.Conn, req []byte, end time.Time) (int, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(ep)
	size, err := firstAnswer(conns, req)
	if err != nil {
		return 0, err
	}
	lanes := make([]lane, len(conns))
	for i, c := range conns {
		lanes[i].fd = -1
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			return 0, err
		}
		if err := raw.Control(func(fd uintptr) { lanes[i].fd = int(fd) }); err != nil {
			return 0, err
		}
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, lanes[i].fd, &ev); err != nil {
			return 0, err
		}
		if err := lanes[i].send(req); err != nil {
			return 0, err
		}
	}

	var (
		buf     = make([]byte, 2*size)
		events  = make([]unix.EpollEvent, len(lanes))
		done    = len(conns) // the first answers
		waiting = len(conns)
	)
	for waiting > 0 {
		n, err := unix.EpollWait(ep, events, 30000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return done, fmt.Errorf("no answer in 30 s: %w", err)
		}
		over := !time.Now().Before(end)
		for _, ev := range events[:n] {
			l := &lanes[ev.Fd]
			whole, err := l.receive(buf, size)
			if err != nil {
				return done, err
			}
			if !whole {
				continue
			}
			done++
			if over {
				waiting--
			} else if err := l.send(req); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

// firstAnswer sends one request on each connection and returns the length of an
// answer: the target's all have the same.
func firstAnswer(conns []net.Conn, req []byte) (size int, err error) {
	for _, c := range conns {
		if _, err := c.Write(req); err != nil {
			return 0, err
		}
		if size, err = answerLen(c); err != nil {
			return 0, err
		}
	}
	return size, nil
}

func (l *lane) send(req []byte) error {
	n, err := unix.Write(l.fd, req)
	if err == nil && n < len(req) {
		err = syscall.EAGAIN // a request is far smaller than a socket's buffer
	}
	return err
}

// receive reads what is there; true when the answer is complete.
func (l *lane) receive(buf []byte, size int) (bool, error) {
	n, err := unix.Read(l.fd, buf)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return false, nil
	case err != nil:
		return false, err
	case n == 0:
		return false, fmt.Errorf("the server has closed a connection after %d answers", l.n)
	}
	if l.got == 0 && !bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 200")) {
		return false, fmt.Errorf("answer %q", buf[:n])
	}
	if l.got += n; l.got < size {
		return false, nil
	}
	l.got = 0
	l.n++
	return true, nil
}
