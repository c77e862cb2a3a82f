package redis

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// connKey tells connections of redigo's apart. That one ends is not seen, and ports and
// addresses are used again; that both come together within selectedFor is unlikely.
type connKey struct {
	process   telemetry.ProcessKey
	conn      uint64 // its *conn
	server    netip.AddrPort
	localPort uint16
}

const (
	// selectedFor is how long a connection's database is remembered that is not used.
	selectedFor = uint64(time.Minute)
	// maxDatabases bounds the connections whose database is remembered.
	maxDatabases = 16384
)

type selected struct {
	db     int
	usedNs uint64
}

// databases are those that connections have selected, in two halves: what is used is in the
// recent one, and when that is full or old the other is dropped.
type databases struct {
	recent, older map[connKey]selected
	sinceNs       uint64
}

func (d *databases) forget(key connKey) {
	delete(d.recent, key)
	delete(d.older, key)
}

func (d *databases) put(key connKey, db int, nowNs uint64) {
	if _, ok := d.recent[key]; !ok && len(d.recent) >= maxDatabases/2 || d.recent == nil || nowNs > d.sinceNs+selectedFor {
		d.recent, d.older, d.sinceNs = map[connKey]selected{}, d.recent, nowNs
	}
	d.recent[key] = selected{db, nowNs}
}

// use returns the database of a connection that is used now.
func (d *databases) use(key connKey, nowNs uint64) (db int, ok bool) {
	s, ok := d.recent[key]
	if !ok {
		s, ok = d.older[key]
	}
	if !ok {
		return 0, false
	}
	if nowNs > s.usedNs+selectedFor {
		d.forget(key)
		return 0, false
	}
	d.put(key, s.db, nowNs)
	return s.db, true
}

// peer is where the connection of redigo's call leads; not valid if it is not known.
func (d *decoder) peer() netip.AddrPort {
	if d.ev.PeerLen > uint32(len(d.ev.Peer)) {
		return netip.AddrPort{}
	}
	ip, ok := netip.AddrFromSlice(d.ev.Peer[:d.ev.PeerLen])
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), d.ev.PeerPort)
}

// address is the server's host:port, or what says it of the client.
func (d *decoder) address() string {
	if p := d.peer(); d.isRedigo() && p.IsValid() {
		return net.JoinHostPort(p.Addr().String(), strconv.Itoa(int(p.Port())))
	}
	return d.str(int(bpfRdStrS_ADDR))
}

// database is that of the call, if it is known. Of redigo it is when the connection was seen
// to select it.
func (d *decoder) database(process telemetry.ProcessKey) (db int, known bool) {
	if !d.isRedigo() {
		return int(d.ev.Db), d.has(bpfRdFlagF_DB)
	}
	server := d.peer()
	if !server.IsValid() {
		return 0, false
	}
	key, now := connKey{process, d.ev.Pool[0], server, d.ev.LocalPort}, d.ev.Call.EndNs
	if d.has(bpfRdFlagF_BATCH) {
		d.databases.forget(key) // any command of it may have been SELECT
		return 0, false
	}
	switch name := commandName(d.str(int(bpfRdStrS_NAME0))); {
	case d.has(bpfRdFlagF_ERROR):
	case name == "RESET":
		d.databases.forget(key)
	case name == "SELECT":
		d.databases.forget(key)
		if n, ok := d.number(0); ok {
			d.databases.put(key, n, now)
		}
	}
	return d.databases.use(key, now)
}

// number is the value of argument i if it is one, or its digits.
func (d *decoder) number(i int) (int, bool) {
	s := d.str(int(bpfRdStrS_ARG0) + i)
	switch k := d.ev.ArgKind[i]; {
	case k == kindString || k == kindSlice:
		n, err := strconv.Atoi(s)
		return n, err == nil
	case len(s) == 8 && (k == kindInt || k == kindInt+4):
		return int(binary.NativeEndian.Uint64([]byte(s))), true
	}
	return 0, false
}
