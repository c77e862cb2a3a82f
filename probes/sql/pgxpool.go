package sql

import (
	"fmt"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// pathPgxPool is the package, and what its pools are of; puddle holds the connections.
const (
	pathPgxPool = pathPgx + "/pgxpool"
	pathPuddle  = "github.com/jackc/puddle/v2"
)

// pgxPoolInner is the offset of pgxpool.Pool.p, behind three counters, in 5.0.0 to 5.12.0:
// https://github.com/jackc/pgx/blob/v5.0.0/pgxpool/pool.go#L75
// https://github.com/jackc/pgx/blob/v5.12.0/pgxpool/pool.go#L80
const (
	pgxPoolInner  = 24
	pgxPoolBefore = "v5.13.0" // the first version that was not looked at
)

// puddleLayout is struct puddle.Pool, whatever it holds.
type puddleLayout struct {
	before string // the first version with another layout
	all    int    // length of allResources
	idle   int    // length of idleResources, a slice; or
	stacks int    // two stacks of them, by pointer, and the waiting callers in a semaphore
	waited int    // emptyAcquireWaitTime; 0: not counted
	gaveUp int    // canceledAcquireCount
	closed int
}

// https://github.com/jackc/puddle/blob/v2.0.0/pool.go#L113
// https://github.com/jackc/puddle/blob/v2.1.0/pool.go#L121
// https://github.com/jackc/puddle/blob/v2.2.3/pool.go#L124
var puddleLayouts = []puddleLayout{
	{before: "v2.1.0", all: 24, idle: 48, gaveUp: 112, closed: 152},
	{before: "v2.2.2", all: 40, stacks: 56, gaveUp: 112, closed: 152},
	{before: "v2.3.0", all: 40, stacks: 56, waited: 112, gaveUp: 120, closed: 160},
}

const (
	puddleSemaphore  = 8
	puddleMax        = 80
	puddleEmpty      = 104 // emptyAcquireCount
	semaphoreWaiters = 64  // golang.org/x/sync/semaphore.Weighted.waiters.len
)

func puddleOf(p *probe.Placed) (puddleLayout, error) {
	raw, _ := p.Exe.Module(pathPuddle)
	if v, ok := offsets.ParseVersion(raw); ok {
		for _, l := range puddleLayouts {
			if before, _ := offsets.ParseVersion(l.before); v.Compare(before) < 0 {
				return l, nil
			}
		}
	}
	return puddleLayout{}, fmt.Errorf("%w: the layout of %s.Pool is not known for %q", probe.ErrRefused, pathPuddle, raw)
}

func checkPgxPools(p *probe.Placed) error {
	raw, _ := p.Exe.Module(pathPgx)
	before, _ := offsets.ParseVersion(pgxPoolBefore)
	if v, ok := offsets.ParseVersion(raw); !ok || v.Compare(before) >= 0 {
		return fmt.Errorf("%w: the layout of %s.Pool is not known for %q", probe.ErrRefused, pathPgxPool, raw)
	}
	_, err := puddleOf(p)
	return err
}

func (cfg Config) learnPgxPools(p *probe.Placed) {
	l, err := puddleOf(p)
	if err != nil {
		return // the group was refused
	}
	cfg.Pools.Learn(dbpool.Lib{Exe: p.ExeID, Name: pathPgxPool}, l.read, p.Exe.MainPath(), nil)
}

// read is a dbpool.Layout.
func (l puddleLayout) read(m dbpool.Memory, at uint64) (dbpool.Stats, error) {
	outer := m.Words(at+pgxPoolInner, 8)
	if outer.Err != nil {
		return dbpool.Stats{}, outer.Err
	}
	w := m.Words(outer.U64(0), l.closed+8)
	s := dbpool.Stats{
		Open: w.Int(l.all), Max: int64(int32(w.U32(puddleMax))), Waits: w.Int(puddleEmpty), Timeouts: w.Int(l.gaveUp),
		Pending: dbpool.Unknown, WaitTime: dbpool.Unknown, Closed: w.U32(l.closed)&0xff != 0,
	}
	if l.waited != 0 {
		s.WaitTime = time.Duration(w.Int(l.waited))
	}
	if l.stacks == 0 {
		s.Idle = w.Int(l.idle)
		return s, w.Err
	}
	if w.Err != nil {
		return s, w.Err
	}
	sem, stacks := m.Words(w.U64(puddleSemaphore)+semaphoreWaiters, 8), m.Words(w.U64(l.stacks), 16)
	if sem.Err != nil || stacks.Err != nil {
		return s, fmt.Errorf("the pool's semaphore or idle connections: %w, %w", sem.Err, stacks.Err)
	}
	s.Pending = sem.Int(0)
	for i, stack := range []uint64{stacks.U64(0), stacks.U64(8)} { // slices
		if i == 1 && stack == stacks.U64(0) {
			break
		}
		n := m.Words(stack+8, 8)
		if n.Err != nil {
			return s, n.Err
		}
		s.Idle += n.Int(0)
	}
	return s, nil
}
