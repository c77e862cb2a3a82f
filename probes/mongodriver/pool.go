package mongodriver

import (
	"fmt"
	"strings"

	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// poolClosed is a pool's last state, the same in all releases.
const poolClosed = 2

// poolFields: where a connection's pool is, then what is read of it.
func (d driver) poolFields() []goexe.Field {
	f := func(typ, name string) goexe.Field {
		return goexe.Field{Module: d.module, Type: d.module + "/x/mongo/driver/topology." + typ, Name: name}
	}
	return []goexe.Field{
		f("connection", "pool"), f("pool", "conns"), f("pool", "idleConns"), f("pool", "idleConnWait"), f("pool", "maxSize"),
		f("wantConnQueue", "head"), f("wantConnQueue", "headPos"), f("wantConnQueue", "tail"), f("pool", "state"),
	}
}

func (d driver) lib(exeID uint32) dbpool.Lib { return dbpool.Lib{Exe: exeID, Name: d.module} }

// learnPools makes the layout of an executable's pools.
func (cfg Config) learnPools(p *probe.Placed, d driver) {
	f := d.poolFields()
	off := make([]int, len(f))
	for i := range f {
		o := p.Offset(f[i])
		if o == probe.OffNone {
			cfg.Pools.Learn(d.lib(p.ExeID), nil, p.Exe.MainPath(), fmt.Errorf("the offset of %s is not known", f[i]))
			return
		}
		off[i] = int(o)
	}
	conns, idle, wait, limit := off[1], off[2], off[3], off[4]
	head, headPos, tail, state := wait+off[5], wait+off[6], wait+off[7], off[8]
	waits := int64(dbpool.Unknown)
	if _, ok := p.Points[d.group+"_waited"]; ok {
		waits = dbpool.Told
	}
	size := max(conns, idle, head, headPos, tail, limit, state) + 24
	cfg.Pools.Learn(d.lib(p.ExeID), func(m dbpool.Memory, at uint64) (dbpool.Stats, error) {
		w := m.Words(at, size)
		s := dbpool.Stats{
			Closed: w.Int(state) == poolClosed, Idle: w.Int(idle + 8), Max: w.Int(limit), Timeouts: dbpool.Unknown, Waits: waits, WaitTime: dbpool.Unknown,
			Pending: w.Int(head+8) - w.Int(headPos) + w.Int(tail+8),
		}
		if w.Err == nil { // a map begins with how many it has, in every release of Go
			n := m.Words(w.U64(conns), 8)
			s.Open, w.Err = n.Int(0), n.Err
		}
		return s, w.Err
	}, p.Exe.MainPath(), nil)
}

// pool takes note of the pool that a command's connection is of.
func (d *decoder) pool(rec event.Record, r *record) {
	key := telemetry.ProcessKey{PID: rec.PID, StartNs: rec.ProcStartNs}
	for _, v := range drivers {
		lib := v.lib(rec.ExeID)
		if !d.cfg.Pools.Known(key, lib, r.pool) {
			d.cfg.Pools.Add(key, lib, r.pool, dbpool.Pool{Name: strings.Clone(string(r.addr))})
		}
		if r.waits > 0 {
			d.cfg.Pools.Waited(key, lib, r.pool, int64(r.waits), r.waited)
		}
	}
}
