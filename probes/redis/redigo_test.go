package redis

import (
	"encoding/binary"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// redigoCall is a command on the connection with that local port.
func redigoCall(port uint16, cmd string) *record {
	r := newRecord(bpfRdLibLIB_REDIGO).cmd(0, cmd, 2)
	r.ev.Peer, r.ev.PeerLen, r.ev.PeerPort, r.ev.LocalPort = [16]uint8{127, 0, 0, 1}, 4, 6379, port
	return r
}

func attrText(op *telemetry.Operation, key string) string {
	for _, kv := range op.Attributes {
		if string(kv.Key) == key {
			return kv.Value.String()
		}
	}
	return ""
}

// TestRedigoDatabase: a connection's calls have the database that it was last seen to select.
func TestRedigoDatabase(t *testing.T) {
	number := func(n uint64) string { return string(binary.NativeEndian.AppendUint64(nil, n)) }
	tooLong := redigoCall(1, "GET")
	tooLong.ev.PeerLen = 17
	other := redigoCall(1, "GET")
	other.ev.Call.Hdr.Tgid = 77
	d := newDecoder(Config{}, new([]string))
	for i, c := range []struct {
		rec    *record
		db     string
		server string
	}{
		{redigoCall(1, "GET"), "", "127.0.0.1"},
		{redigoCall(1, "SELECT").arg(0, 2, number(3)), "3", "127.0.0.1"},
		{redigoCall(1, "GET"), "3", "127.0.0.1"},
		{redigoCall(2, "GET"), "", "127.0.0.1"},
		{other, "", "127.0.0.1"},
		{redigoCall(1, "select").arg(0, 24, "5"), "5", "127.0.0.1"},
		{redigoCall(1, "SELECT").arg(0, 2, number(9)).err(2, "ERR DB index is out of range"), "5", "127.0.0.1"},
		{redigoCall(1, "SELECT").arg(0, 24, "x"), "", "127.0.0.1"},
		{redigoCall(1, "GET"), "", "127.0.0.1"},
		{tooLong, "", ""},
		{newRecord(bpfRdLibLIB_REDIGO).cmd(0, "GET", 2), "", ""},
	} {
		ops, err := decode(t, d, c.rec.raw())
		if err != nil || len(ops) != 1 {
			t.Fatalf("%d: %v, %v", i, ops, err)
		}
		if db, server := attrText(ops[0], "db.namespace"), attrText(ops[0], "server.address"); db != c.db || server != c.server {
			t.Errorf("call %d: database %q of %q, want %q of %q", i, db, server, c.db, c.server)
		}
	}
	for port := range maxDatabases + 10 {
		if _, err := decode(t, d, redigoCall(uint16(port), "SELECT").arg(0, 2, number(1)).raw()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(d.(*decoder).databases); n > maxDatabases || n == 0 {
		t.Errorf("%d connections are remembered, want at most %d", n, maxDatabases)
	}
}
