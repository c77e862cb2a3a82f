package redis

import (
	"fmt"
	"strconv"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// poolType is the type of go-redis's pools; a transaction's client has another, which
// holds one connection of them.
const poolType = "*pool.ConnPool"

// poolFields: where a client's pool is, what every release has of it, then what only
// some count.
func poolFields(path string) []goexe.Field {
	f := func(typ, name string) goexe.Field {
		return goexe.Field{Module: path, Type: path + typ, Name: name}
	}
	const pool = "/internal/pool."
	cfg := "cfg"
	if path == pathV8 {
		cfg = "opt"
	}
	return []goexe.Field{
		f(".baseClient", "connPool"), f(pool+"ConnPool", cfg), f(pool+"ConnPool", "poolSize"), f(pool+"ConnPool", "idleConnsLen"),
		f(pool+"ConnPool", "stats"), f(pool+"Stats", "Timeouts"), f(pool+"Options", "PoolSize"), f(pool+"ConnPool", "_closed"),
		f(pool+"ConnPool", "waitDurationNs"), f(pool+"Stats", "WaitCount"),
	}
}

// poolNeeds is how many of poolFields there must be.
const poolNeeds = 8

// learnPools makes the layout of an executable's pools.
func (cfg Config) learnPools(p *probe.Placed, path string) {
	lib, f := dbpool.Lib{Exe: p.ExeID, Name: path}, poolFields(path)
	off := make([]int, len(f))
	for i := range f {
		o := p.Offset(f[i])
		if o == probe.OffNone && i < poolNeeds {
			cfg.Pools.Learn(lib, nil, p.Exe.MainPath(), fmt.Errorf("the offset of %s is not known", f[i]))
			return
		}
		off[i] = int(o)
	}
	options, size, idle, stats := off[1], off[2], off[3], off[4]
	timeouts, limit, closed, waited, waits := stats+off[5], off[6], off[7], off[8], stats+off[9]
	counts := p.Offset(f[8]) != probe.OffNone && p.Offset(f[9]) != probe.OffNone
	length := max(options, size, idle, timeouts, closed) + 8
	if counts {
		length = max(length, waited+8, waits+8)
	}
	cfg.Pools.Learn(lib, func(m dbpool.Memory, at uint64) (dbpool.Stats, error) {
		w := m.Words(at, length)
		s := dbpool.Stats{
			Open: int64(int32(w.U32(size))), Idle: int64(int32(w.U32(idle))), Timeouts: int64(w.U32(timeouts)),
			Closed: w.U32(closed) != 0, Pending: dbpool.Unknown, Waits: dbpool.Unknown, WaitTime: dbpool.Unknown,
		}
		if counts {
			s.Waits, s.WaitTime = int64(w.U32(waits)), time.Duration(w.Int(waited))
		}
		if w.Err == nil {
			o := m.Words(w.U64(options)+uint64(limit), 4) // an int, or an int32 in new releases
			s.Max, w.Err = int64(int32(o.U32(0))), o.Err
		}
		return s, w.Err
	}, p.Exe.MainPath(), nil)
}

// pool takes note of the pool of a command's client.
func (d *decoder) pool(rec event.Record) {
	path := map[bpfRdLib]string{bpfRdLibLIB_V8: pathV8, bpfRdLibLIB_V9: pathV9}[bpfRdLib(d.ev.Lib)]
	at := d.ev.Pool[1]
	key, lib := telemetry.ProcessKey{PID: rec.PID, StartNs: rec.ProcStartNs}, dbpool.Lib{Exe: rec.ExeID, Name: path}
	if path == "" || d.cfg.Pools.Known(key, lib, at) {
		return
	}
	name := d.str(int(bpfRdStrS_ADDR)) + "/" + strconv.Itoa(int(d.ev.Db))
	d.cfg.Pools.Add(key, lib, at, dbpool.Pool{Name: name, Ignore: d.typeOf(rec, d.ev.Pool[0]) != poolType})
}

// typeOf is the name of the type in an itab of a program.
func (d *decoder) typeOf(rec event.Record, itab uint64) string {
	const itabType, typeTflag, typeStr = 8, 20, 40 // the same in Go 1.18 to 1.27
	m := dbpool.Of(rec.PID)
	typ := m.Words(itab+itabType, 8)
	w := m.Words(typ.U64(0)+typeTflag, typeStr-typeTflag+4)
	name, tflag := int32(w.U32(typeStr-typeTflag)), uint8(w.U32(0))
	if typ.Err != nil || w.Err != nil {
		return ""
	}
	return d.env.ErrTypeName(rec.ExeID, name, tflag)
}

// pointSeek is the point that finds redigo's pools that were open before the probe came.
const pointSeek = "redigo_pool_seek"

func redigoPoolPoints() []probe.Point {
	entry := func(method string) probe.Site {
		return probe.Site{Kind: probe.Entry, Funcs: []string{pathRedigo + "/redis.(*Pool)." + method}, Args: 1}
	}
	return []probe.Point{
		{Name: "redigo_pool", Program: "rd_redigo_pool", Group: groupRgPools, Site: entry("dial")},
		{Name: pointSeek, Program: "rd_redigo_pool", Group: groupRgPools, Lazy: true, Site: entry("GetContext")},
	}
}

func redigoPoolFields() []goexe.Field {
	f := func(name string) goexe.Field {
		return goexe.Field{Module: pathRedigo, Type: pathRedigo + "/redis.Pool", Name: name}
	}
	return []goexe.Field{f("MaxActive"), f("closed"), f("active"), f("idle"), f("waitCount"), f("waitDuration")}
}

// learnRedigo makes the layout of an executable's redigo pools. The list of idle
// connections begins with how many they are.
func (cfg Config) learnRedigo(p *probe.Placed) {
	f := redigoPoolFields()
	off := make([]int, len(f))
	for i := range f {
		off[i] = int(p.Offset(f[i]))
	}
	limit, closed, active, idle, waits, waited := off[0], off[1], off[2], off[3], off[4], off[5]
	length := max(limit, closed, active, idle, waits, waited) + 8
	cfg.Pools.Learn(dbpool.Lib{Exe: p.ExeID, Name: pathRedigo}, func(m dbpool.Memory, at uint64) (dbpool.Stats, error) {
		w := m.Words(at, length)
		return dbpool.Stats{
			Open: w.Int(active), Idle: w.Int(idle), Max: w.Int(limit), Closed: w.U32(closed)&0xff != 0,
			Pending: dbpool.Unknown, Timeouts: dbpool.Unknown, Waits: w.Int(waits), WaitTime: time.Duration(w.Int(waited)),
		}, w.Err
	}, p.Exe.MainPath(), nil)
}
