package redis

import (
	_ "embed"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// ID marks this probe's records.
const ID probe.ID = 10

//go:embed offsets.json
var offsetsJSON []byte

// Point groups.
const (
	groupV8      = "go-redis-v8"
	groupV8Batch = "go-redis-v8-batch"
	groupV9      = "go-redis-v9"
	groupV9Batch = "go-redis-v9-batch"
	groupRedigo  = "redigo"
	groupRgPools = "redigo-pools"
)

// Paths of the libraries.
const (
	pathV8     = "github.com/go-redis/redis/v8"
	pathV9     = "github.com/redis/go-redis/v9"
	pathRedigo = "github.com/gomodule/redigo"
)

// QueryText says what db.query.text holds.
type QueryText string

const (
	// TextOff leaves it out.
	TextOff QueryText = "off"
	// TextShape is the command with a ? for each argument.
	TextShape QueryText = "shape"
	// TextFull has the arguments' values.
	TextFull QueryText = "full"
)

// Config is what a user may set.
type Config struct {
	QueryText QueryText
	// Pools learns of the libraries' connection pools; may be nil.
	Pools *dbpool.Registry
}

// New returns the probe.
func New(cfg Config) *probe.Spec {
	points, groups := points(), groups()
	if cfg.Pools != nil {
		points = append(points, redigoPoolPoints()...)
		groups = append(groups, probe.Group{Name: groupRgPools, What: "connection pools of redigo",
			Check: func(p *probe.Placed) error { return need(p, redigoPoolFields()) }})
	}
	return &probe.Spec{
		ID:       ID,
		Name:     "redis",
		Doc:      "Redis commands of go-redis v8 and v9 and of redigo",
		Points:   points,
		Groups:   groups,
		Fields:   allFields(),
		Table:    func() (*offsets.Table, error) { return offsets.Parse(offsetsJSON) },
		Load:     loadBpf,
		InFlight: []probe.InFlight{{Map: "rd_ops", MaxAge: probe.CallMaxAge, Forgotten: "call_forgotten"}},
		Prepare: func(cs *ebpf.CollectionSpec) error {
			if err := cs.Variables["cfg_keep"].Set(uint64(cs.Maps["rd_ops"].MaxEntries / 2)); err != nil {
				return fmt.Errorf("set cfg_keep: %w", err)
			}
			if cfg.QueryText != TextFull {
				return nil
			}
			if err := cs.Variables["cfg_values"].Set(uint8(1)); err != nil {
				return fmt.Errorf("set cfg_values: %w", err)
			}
			return nil
		},
		AttachExe: cfg.attachExe,
		NewDecoder: func(env probe.DecoderEnv) probe.Decoder {
			return &decoder{env: env, cfg: cfg, duration: probe.NewDBDuration(),
				pools: dbpool.Finder{Pools: cfg.Pools, Point: pointSeek, SetPoint: env.SetPoint, Library: pathRedigo}}
		},
	}
}

func groups() []probe.Group {
	check := func(path string) func(*probe.Placed) error {
		return func(p *probe.Placed) error { return need(p, clientFields(path)) }
	}
	return []probe.Group{
		{Name: groupV8, What: "commands of go-redis v8", Check: check(pathV8)},
		{Name: groupV8Batch, What: "pipelines and transactions of go-redis v8", Check: check(pathV8)},
		{Name: groupV9, What: "commands of go-redis v9", Check: check(pathV9)},
		{Name: groupV9Batch, What: "pipelines and transactions of go-redis v9", Check: check(pathV9)},
		{Name: groupRedigo, What: "commands of redigo",
			Check: func(p *probe.Placed) error { return need(p, redigoFields()) }},
	}
}

// points lists starts before ends: the manager attaches from the last to the first.
func points() []probe.Point {
	entry := func(args int, funcs ...string) probe.Site {
		return probe.Site{Kind: probe.Entry, Funcs: funcs, Args: args}
	}
	after := func(results int, fn []string, callees ...string) probe.Site {
		return probe.Site{Kind: probe.AfterCall, Funcs: fn, Callees: callees, Results: results}
	}
	const (
		v8     = pathV8 + ".(*baseClient)."
		v9     = pathV9 + ".(*baseClient)."
		redigo = pathRedigo + "/redis.(*conn)."
	)
	general := []string{v9 + "generalProcessPipelineFrom", v9 + "generalProcessPipeline"}
	reply := func(nth int) probe.Site {
		return probe.Site{Kind: probe.AfterNthCall, Funcs: []string{redigo + "DoWithTimeout"},
			Callees: []string{redigo + "readReply"}, Nth: nth, Results: 4}
	}
	return []probe.Point{
		{Name: "v8_start", Program: "rd_v8_cmd", Group: groupV8, Site: entry(6, v8+"_process")},
		{Name: "v8_end", Program: "rd_v8_cmd_end", Group: groupV8,
			Site: after(3, []string{v8 + "process", v8 + "process-fm"}, v8+"_process")},
		{Name: "v8_batch_start", Program: "rd_v8_batch", Group: groupV8Batch,
			Site: entry(5, v8+"_generalProcessPipeline")},
		{Name: "v8_batch_end", Program: "rd_v8_batch_end", Group: groupV8Batch,
			Site: after(2, []string{v8 + "generalProcessPipeline"}, v8+"_generalProcessPipeline")},

		{Name: "v9_start", Program: "rd_v9_cmd", Group: groupV9, Site: entry(6, v9+"_process")},
		{Name: "v9_end", Program: "rd_v9_cmd_end", Group: groupV9,
			Site: after(5, []string{v9 + "processWithRetry", v9 + "process", v9 + "process-fm"}, v9+"_process")},
		{Name: "v9_batch_start", Program: "rd_v9_batch", Group: groupV9Batch, Site: entry(5, general...)},
		{Name: "v9_batch_end", Program: "rd_v9_batch_end", Group: groupV9Batch,
			Site: after(2, []string{v9 + "processPipeline", v9 + "processPipeline-fm"}, general...)},
		{Name: "v9_tx_end", Program: "rd_v9_tx_end", Group: groupV9Batch,
			Site: after(2, []string{v9 + "processTxPipeline", v9 + "processTxPipeline-fm"}, general...)},

		{Name: "redigo_start", Program: "rd_redigo_do", Group: groupRedigo, Site: entry(7, redigo+"DoWithTimeout")},
		{Name: "redigo_reply", Program: "rd_redigo_reply", Group: groupRedigo, Site: reply(0)},
		{Name: "redigo_reply_2", Program: "rd_redigo_reply2", Group: groupRedigo, Site: reply(1)},
		{Name: "redigo_fatal", Program: "rd_redigo_fatal", Group: groupRedigo, Site: entry(3, redigo+"fatal")},
	}
}

func clientFields(path string) []goexe.Field {
	f := func(typ, name string) goexe.Field {
		return goexe.Field{Module: path, Type: path + "." + typ, Name: name}
	}
	return []goexe.Field{
		f("baseClient", "opt"), f("Options", "Addr"), f("Options", "DB"), f("Options", "MaxRetries"),
		f("baseCmd", "args"), f("baseCmd", "err"),
	}
}

func redigoFields() []goexe.Field {
	const typ = pathRedigo + "/redis.conn"
	return []goexe.Field{
		{Module: pathRedigo, Type: typ, Name: "pending"},
		{Module: pathRedigo, Type: typ, Name: "err"},
	}
}

// redigoConn leads to the server's address.
var redigoConn = goexe.Field{Module: pathRedigo, Type: pathRedigo + "/redis.conn", Name: "conn"}

// peerFields lead from a connection to its addresses.
func peerFields() []goexe.Field {
	return []goexe.Field{
		probe.Std("crypto/tls.Conn", "conn"), probe.Std("net.TCPConn", "conn"), probe.Std("net.conn", "fd"),
		probe.Std("net.netFD", "laddr"), probe.Std("net.netFD", "raddr"),
		probe.Std("net.TCPAddr", "IP"), probe.Std("net.TCPAddr", "Port"),
	}
}

func allFields() []goexe.Field {
	return slices.Concat(clientFields(pathV8), clientFields(pathV9), redigoFields(), []goexe.Field{redigoConn}, peerFields(), redigoPoolFields(), poolFields(pathV8), poolFields(pathV9))
}

// need is the error of a group that cannot do without fields, which are of one module.
func need(p *probe.Placed, fields []goexe.Field) error {
	version, _ := p.Exe.Module(fields[0].Module)
	return p.Need(fields, fields[0].Module+" "+version)
}
