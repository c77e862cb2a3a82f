package main

import (
	"bytes"
	"errors"
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

// loop is the connections to one address.
type loop struct {
	ep    int
	lanes []lane
	size  int // of an answer
	req   []byte
	done  int // answered in full
}

// saturate gives each address in turn a closed loop, and says how many were answered.
func saturate(conns [][]net.Conn, req []byte, duration time.Duration) ([]loadResult, error) {
	res := make([]loadResult, len(conns))
	loops := make([]*loop, len(conns))
	for i, c := range conns {
		l, err := newLoop(c, req)
		if err != nil {
			return nil, err
		}
		defer unix.Close(l.ep)
		loops[i] = l
	}
	turn := duration
	if len(loops) > 1 {
		turn = slice
	}
	for end, round := time.Now().Add(duration), 0; time.Now().Before(end); round++ {
		for k := range loops {
			i := turnOf(round*len(loops)+k, len(loops))
			l, start := loops[i], time.Now()
			if err := l.run(start.Add(turn)); err != nil {
				return nil, err
			}
			res[i].Seconds += time.Since(start).Seconds()
			res[i].Requests = l.done
		}
	}
	return res, nil
}

func newLoop(conns []net.Conn, req []byte) (l *loop, err error) {
	l = &loop{req: req, lanes: make([]lane, len(conns)), done: len(conns)} // the first answers
	if l.size, err = firstAnswer(conns, req); err != nil {
		return nil, err
	}
	if l.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	for i, c := range conns {
		l.lanes[i].fd = -1
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := raw.Control(func(fd uintptr) { l.lanes[i].fd = int(fd) }); err != nil {
			return nil, err
		}
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
		if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, l.lanes[i].fd, &ev); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// run keeps one request in flight on every connection until the time is up. One thread
// and epoll: the generator shares its processor with the agent and must leave the server
// saturated, which goroutines and the runtime's poller do not. It never sleeps: the server
// would pay for waking it, the more often the slower the server is, and a client elsewhere is
// not woken by the server.
func (l *loop) run(end time.Time) error {
	for i := range l.lanes {
		if err := l.lanes[i].send(l.req); err != nil {
			return err
		}
	}
	buf, events := make([]byte, 2*l.size), make([]unix.EpollEvent, len(l.lanes))
	for waiting := len(l.lanes); waiting > 0; {
		n, err := l.poll(events)
		if err != nil {
			return err
		}
		over := !time.Now().Before(end)
		for _, ev := range events[:n] {
			one := &l.lanes[ev.Fd]
			whole, err := one.receive(buf, l.size)
			if err != nil {
				return err
			}
			if !whole {
				continue
			}
			l.done++
			if over {
				waiting--
			} else if err := one.send(l.req); err != nil {
				return err
			}
		}
	}
	return nil
}

// poll waits for answers and lets others run meanwhile.
func (l *loop) poll(events []unix.EpollEvent) (n int, err error) {
	for began := time.Now(); ; {
		n, err = unix.EpollWait(l.ep, events, 0)
		switch {
		case n > 0:
			return n, nil
		case err != nil && err != unix.EINTR:
			return 0, err
		case time.Since(began) > 30*time.Second:
			return 0, errors.New("no answer in 30 s")
		}
		_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // never fails
	}
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
