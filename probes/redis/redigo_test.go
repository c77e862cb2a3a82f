package redis

import (
	"encoding/binary"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// redigoCall is a command on the connection with that local port.
func redigoCall(port uint16, cmd string) *record {
	r := newRecord(bpfRdLibLIB_REDIGO).cmd(0, cmd, 2)
	r.ev.Pool[0] = 0xc000
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
	successor := redigoCall(1, "GET") // a connection that has the port, and selects nothing
	successor.ev.Pool[0] = 0xd000
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
		{successor, "", "127.0.0.1"},
		{redigoCall(1, "select").arg(0, 24, "5"), "5", "127.0.0.1"},
		{redigoCall(1, "SELECT").arg(0, 2, number(9)).err(2, "ERR DB index is out of range"), "5", "127.0.0.1"},
		{redigoCall(1, "SELECT").arg(0, 24, "x"), "", "127.0.0.1"},
		{redigoCall(1, "GET"), "", "127.0.0.1"},
		{redigoCall(1, "SELECT").arg(0, 24, "6"), "6", "127.0.0.1"},
		{redigoCall(1, "GET").batch(2), "", "127.0.0.1"}, // with SELECT among what was sent before, perhaps
		{redigoCall(1, "GET"), "", "127.0.0.1"},
		{redigoCall(1, "SELECT").arg(0, 24, "7"), "7", "127.0.0.1"},
		{redigoCall(1, "RESET"), "", "127.0.0.1"},
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
}

// TestDatabasesForgotten: of many connections those that were used last are remembered, and
// those that are not used only for a while.
func TestDatabasesForgotten(t *testing.T) {
	var d databases
	at := func(n int) connKey { return connKey{conn: uint64(n)} }
	d.put(at(-1), 3, 1)
	for n := range 3 * maxDatabases {
		d.put(at(n), n, 1)
		if db, ok := d.use(at(-1), 1); !ok || db != 3 {
			t.Fatalf("in use, and forgotten after %d others", n)
		}
		if n := len(d.recent) + len(d.older); n > maxDatabases {
			t.Fatalf("%d connections are remembered, want at most %d", n, maxDatabases)
		}
	}
	if db, ok := d.use(at(3*maxDatabases-maxDatabases/2), 1); !ok || db != 3*maxDatabases-maxDatabases/2 {
		t.Error("used lately, and forgotten")
	}
	last := at(3*maxDatabases - 1)
	for now := uint64(1); now < 10*selectedFor; now += selectedFor {
		if _, ok := d.use(last, now); !ok {
			t.Fatalf("in use, and forgotten at %d", now)
		}
	}
	if _, ok := d.use(at(-1), 10*selectedFor); ok {
		t.Error("not used for long, and remembered")
	}
	if _, ok := d.use(last, 12*selectedFor); ok || len(d.recent)+len(d.older) > 1 {
		t.Errorf("not used for long, and remembered among %d, %d", len(d.recent), len(d.older))
	}
}
