package sql

import (
	"fmt"
	"strconv"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// pointSeek is the point that finds pools that were open before the probe came.
const pointSeek = "pool_seek"

const (
	// seekNs is how long it stays: it runs once more for each call of the program.
	seekNs = uint64(time.Second)
	// maxSought bounds the processes that are remembered.
	maxSought = 8192
)

func poolPoints() []probe.Point {
	const db = "database/sql.(*DB)."
	return []probe.Point{
		{Name: "pool_new", Program: "sq_pool", Group: groupPools, Site: entry(1, db+"connectionOpener")},
		{Name: pointSeek, Program: "sq_pool", Group: groupPools, Lazy: true, Site: entry(1, db+"conn")},
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

func lib(exeID uint32) dbpool.Lib { return dbpool.Lib{Exe: exeID, Name: "database/sql"} }

func (cfg Config) learnPools(p *probe.Placed) {
	l := dbLayout18
	if p.Exe.GoVersion().Minor >= 23 {
		l = dbLayout23
	}
	cfg.Pools.Learn(lib(p.ExeID), l.read, p.Exe.MainPath(), nil)
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

// poolFinder looks for the pools of processes that are seen for the first time.
type poolFinder struct {
	env   probe.DecoderEnv
	pools *dbpool.Registry
	// sought are the processes that were looked at, or told their pools by themselves.
	sought map[telemetry.ProcessKey]bool
	// seeking: by executable, when the point is to be taken off.
	seeking map[uint32]seeking
}

type seeking struct {
	until uint64
	asked int // a request may be dropped when there are many
}

func newPoolFinder(env probe.DecoderEnv, pools *dbpool.Registry) *poolFinder {
	return &poolFinder{env: env, pools: pools, sought: map[telemetry.ProcessKey]bool{}, seeking: map[uint32]seeking{}}
}

// seek has the point attached for a while when a process makes its first call, and
// taken off by a later one.
func (f *poolFinder) seek(rec event.Record, now uint64) {
	if f == nil || f.pools == nil {
		return
	}
	key := telemetry.ProcessKey{PID: rec.PID, StartNs: rec.ProcStartNs}
	if !f.sought[key] {
		f.remember(key)
		f.seeking[rec.ExeID] = seeking{until: now + seekNs}
		f.env.SetPoint(rec.ExeID, pointSeek, true)
		return
	}
	if s, ok := f.seeking[rec.ExeID]; ok && now > s.until {
		f.seeking[rec.ExeID] = seeking{until: now + seekNs, asked: s.asked + 1}
		if s.asked == 2 {
			delete(f.seeking, rec.ExeID)
		}
		f.env.SetPoint(rec.ExeID, pointSeek, false)
	}
}

func (f *poolFinder) remember(key telemetry.ProcessKey) {
	if len(f.sought) >= maxSought {
		clear(f.sought)
	}
	f.sought[key] = true
}

// found takes note of a pool. It is named by its database and, from the second on, a number.
func (f *poolFinder) found(rec event.Record, at uint64, system string) {
	key := telemetry.ProcessKey{PID: rec.PID, StartNs: rec.ProcStartNs}
	f.remember(key)
	if f.pools.Known(key, lib(rec.ExeID), at) {
		return
	}
	if n := f.pools.Count(key, lib(rec.ExeID)); n > 0 {
		system += "-" + strconv.Itoa(n+1)
	}
	f.pools.Add(key, lib(rec.ExeID), at, dbpool.Pool{Name: system, Sticky: true})
}
