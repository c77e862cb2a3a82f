package propagate

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// batch is how many announcements are read at once, and how many connections are
// taken in per poll at most.
const batch = 1024

// scanner keeps what a poll needs from one to the next.
type scanner struct {
	since uint64 // announcements before are known, ns of CLOCK_MONOTONIC
	keys  []bpfTrConnkey
	vals  []bpfTrConn
}

// poll reads the announcements since the last one, learns where HTTP/1 goes in plain
// text, and takes in the connections that are not in the map.
func (k *Kernel) poll() error {
	s := &k.scan
	if s.keys == nil {
		s.keys, s.vals = make([]bpfTrConnkey, batch), make([]bpfTrConn, batch)
	}
	now, err := monotonic()
	if err != nil {
		return err
	}
	var cursor ebpf.MapBatchCursor
	learned := map[bpfPgDest]bool{}
	room := batch
	for {
		n, err := k.conns.BatchLookup(&cursor, s.keys, s.vals, nil)
		for i := range n {
			key, val := &s.keys[i], &s.vals[i]
			if key.Stream != 0 || val.Tls != 0 || val.Kernel == 0 || val.Tgid == 0 || val.SaidNs < s.since {
				continue
			}
			dest := bpfPgDest{Addr: key.Server, Netns: key.Netns, Port: uint32(key.ServerPort)}
			if !learned[dest] {
				learned[dest] = true
				if err := k.objs.PgDests.Put(dest, uint8(1)); err != nil {
					return fmt.Errorf("remember an address: %w", err)
				}
			}
			if val.Seen == 0 && room > 0 {
				room--
				k.adopt(key, val)
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			break
		}
		if err != nil {
			return fmt.Errorf("read announced connections: %w", err)
		}
	}
	s.since = now
	return nil
}

// adopt puts an announced connection into the map, if it is still open.
func (k *Kernel) adopt(key *bpfTrConnkey, val *bpfTrConn) {
	switch added, err := k.adoptSocket(key, val); {
	case err != nil:
		k.refused.Inc()
		k.log.Debug("kernel mode: connection not taken in", "pid", val.Tgid, "error", err)
	case added:
		k.adopted.Inc()
	}
}

// adoptSocket reports false without an error when there is nothing to add: the
// connection is closed, its number is another's by now, or it is in the map.
func (k *Kernel) adoptSocket(key *bpfTrConnkey, val *bpfTrConn) (bool, error) {
	pidfd, err := unix.PidfdOpen(int(val.Tgid), 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return false, nil // gone
	}
	if err != nil {
		return false, fmt.Errorf("open process %d: %w", val.Tgid, err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, int(val.Fd), 0)
	if errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get descriptor %d of process %d: %w", val.Fd, val.Tgid, err)
	}
	defer unix.Close(fd)
	if !isConn(fd, key) {
		return false, nil
	}
	return k.addSocket(fd)
}

// addSocket puts a connected TCP socket into the map. A socket that is in somebody
// else's map of that kind is left to them: that is an error.
func (k *Kernel) addSocket(fd int) (bool, error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return false, fmt.Errorf("cookie of a socket: %w", err)
	}
	err = k.objs.PgSocks.Update(cookie, uint64(fd), ebpf.UpdateNoExist)
	if errors.Is(err, ebpf.ErrKeyExist) || errors.Is(err, unix.EBUSY) && k.objs.PgSocks.Lookup(cookie, new(uint64)) == nil {
		return false, nil // the kernel says busy of a socket that is in this map, too
	}
	if err != nil {
		return false, fmt.Errorf("add a socket to the map: %w", err)
	}
	return true, nil
}

// isConn says whether the descriptor is exactly the connection that was announced, and
// plain TCP.
func isConn(fd int, key *bpfTrConnkey) bool {
	proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil || proto != unix.IPPROTO_TCP {
		return false
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	remote, err := unix.Getpeername(fd)
	if err != nil {
		return false
	}
	return addrPort(local) == keyAddr(key.Client, key.ClientPort) && addrPort(remote) == keyAddr(key.Server, key.ServerPort)
}

// addrPort returns an address in the form that it has in a key: 16 bytes.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom16(netip.AddrFrom4(a.Addr).As16()), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

func monotonic() (uint64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return uint64(ts.Nano()), nil
}
