package sql

import (
	"fmt"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// Points that find pools that were open before the probe came.
const (
	pointSeek    = "pool_seek"
	pointPgxSeek = "pgx_pool_seek"
)

func poolPoints() []probe.Point {
	const db, pgx = "database/sql.(*DB).", pathPgxPool + ".(*Pool)."
	return []probe.Point{
		{Name: "pool_new", Program: "sq_pool", Group: groupPools, Site: entry(1, db+"connectionOpener")},
		{Name: pointSeek, Program: "sq_pool", Group: groupPools, Lazy: true, Site: entry(1, db+"conn")},
		{Name: "pgx_pool_new", Program: "sq_pgx_pool", Group: groupPgxPools, Site: entry(1, pgx+"backgroundHealthCheck")},
		{Name: pointPgxSeek, Program: "sq_pgx_pool", Group: groupPgxPools, Lazy: true, Site: entry(1, pgx+"Acquire")},
	}
}

// dbLayout is struct database/sql.DB.
type dbLayout struct {
	requests       int
	asSlice        bool // requests are a slice, not a map
	open, closed   int
	max, waitCount int
}

// Up to Go 1.22, and since 1.23 with connRequestSet in place of the map and its key:
// https://github.com/golang/go/blob/go1.18/src/database/sql/sql.go#L457
// https://github.com/golang/go/blob/go1.27.0/src/database/sql/sql.go#L500
var (
	dbLayout18 = dbLayout{requests: 64, open: 80, closed: 96, max: 128, waitCount: 160}
	dbLayout23 = dbLayout{requests: 64, asSlice: true, open: 88, closed: 104, max: 136, waitCount: 168}
)

const (
	dbWaitDuration = 0
	dbIdle         = 48 // length of freeConn
	maxDBGo        = 27
)

func checkPools(p *probe.Placed) error {
	if v := p.Exe.GoVersion(); v.Minor < 18 || v.Minor > maxDBGo {
		return fmt.Errorf("%w: the layout of database/sql.DB is not known for %s", probe.ErrRefused, v.Raw)
	}
	return nil
}

// poolLibrary is what the pools are of.
const poolLibrary = "database/sql"

func (cfg Config) learnPools(p *probe.Placed) {
	l := dbLayout18
	if p.Exe.GoVersion().Minor >= 23 {
		l = dbLayout23
	}
	cfg.Pools.Learn(dbpool.Lib{Exe: p.ExeID, Name: poolLibrary}, l.read, p.Exe.MainPath(), nil)
}

// read is a dbpool.Layout.
func (l dbLayout) read(m dbpool.Memory, at uint64) (dbpool.Stats, error) {
	w := m.Words(at, l.waitCount+8)
	s := dbpool.Stats{
		Open: w.Int(l.open), Idle: w.Int(dbIdle), Max: max(w.Int(l.max), 0), Timeouts: dbpool.Unknown,
		Waits: w.Int(l.waitCount), WaitTime: time.Duration(w.Int(dbWaitDuration)), Closed: w.U32(l.closed)&0xff != 0,
	}
	switch {
	case l.asSlice:
		s.Pending = w.Int(l.requests + 8)
	case w.U64(l.requests) != 0: // a map begins with how many it has
		n := m.Words(w.U64(l.requests), 8)
		if s.Pending = n.Int(0); n.Err != nil {
			return s, n.Err
		}
	}
	return s, w.Err
}
