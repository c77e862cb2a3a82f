package sql

import "github.com/tracer-agent/tracer-agent/internal/probe"

// A program that has pgx for database/sql only would pay for pgx's probes with each call:
// where a call of pgx begins tells the server's address, where it ends nothing. So the ends
// are left out of a program that has database/sql's driver and no usual way to a pgx
// connection of its own. If it makes a call of pgx nevertheless, the program at the start
// says so, and the ends are put on; calls of that moment are counted as lost.

// pgxStdlib is a part of the driver that is not inlined.
const pgxStdlib = pathPgx + "/stdlib.(*Conn).ExecContext"

// pgxNative are the ways.
var pgxNative = []string{
	pathPgx + ".Connect", pathPgx + ".ConnectWithOptions",
	pathPgxPool + ".NewWithConfig",
	pathPgx + "/stdlib.OptionAfterConnect", pathPgx + "/stdlib.OptionResetSession",
	"database/sql.(*Conn).Raw",
}

// spare makes points of pgx lazy in such a program.
func spare(p *probe.Placed, points ...string) {
	if _, ok := p.Exe.Func(pgxStdlib); !ok {
		return
	}
	for _, name := range pgxNative {
		if _, ok := p.Exe.Func(name); ok {
			return
		}
	}
	for _, name := range points {
		p.Lazy[name] = true
	}
}

// unspare has the ends looked at. The order counts: the last two tell the programs that there
// are ends.
func (d *decoder) unspare(exeID uint32, nowNs uint64) {
	if d.native.Due(exeID, nowNs) {
		d.env.SetPoint(exeID, true, pointFatal, pointClose, pointExecEnd)
	}
}
