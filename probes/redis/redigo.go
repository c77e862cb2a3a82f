package redis

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// connKey tells connections of redigo's apart.
type connKey struct {
	process   telemetry.ProcessKey
	server    netip.AddrPort
	localPort uint16
}

// maxDatabases bounds the connections whose database is remembered.
const maxDatabases = 16384

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
	key := connKey{process, server, d.ev.LocalPort}
	if !d.has(bpfRdFlagF_BATCH) && !d.has(bpfRdFlagF_ERROR) && commandName(d.str(int(bpfRdStrS_NAME0))) == "SELECT" {
		if selected, ok := d.number(0); ok {
			if len(d.databases) >= maxDatabases {
				clear(d.databases)
			}
			d.databases[key] = selected
		} else {
			delete(d.databases, key)
		}
	}
	db, known = d.databases[key]
	return db, known
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
