package sql

import (
	"strings"
	"structs"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// Error types that hold an SQLSTATE.
const (
	pgErrType = "*pgconn.PgError"
	pqErrType = "*pq.Error"
)

func (cfg Config) attachExe(c *ebpf.Collection, p *probe.Placed) error {
	if p.Groups[groupPools] {
		cfg.learnPools(p)
	}
	if p.Groups[groupPgxPools] {
		cfg.learnPgxPools(p)
	}
	return probe.PutExe(c.Maps["sq_exes"], p.ExeID, encodeExe(p))
}

// encodeExe builds struct sq_exe.
func encodeExe(p *probe.Placed) *bpfSqExe {
	f := pgxFields()
	v := &bpfSqExe{
		ConnConfig: p.Offset(f[0]), Config: p.Offset(f[1]),
		RowsCtx: p.Offset(f[2]), RowsSql: p.Offset(f[3]), RowsConn: p.Offset(f[4]),
		CfgHost: p.Offset(f[5]), CfgPort: p.Offset(f[6]), CfgDatabase: p.Offset(f[7]),
		PgerrCode: p.Offset(f[8]),
	}
	if names, err := p.Exe.TypeNameOffsets([]string{pgErrType, pqErrType}); err == nil {
		v.PgerrName, v.PqerrName = probe.OnlyName(names[pgErrType]), probe.OnlyName(names[pqErrType])
	}
	if v.PgerrCode == probe.OffNone {
		v.PgerrName = 0
	}
	if strings.HasSuffix(p.Points[pointFatal].Func, "Close") {
		v.FatalIsClose = 1
	}
	if p.Lazy[pointExecEnd] {
		v.Spare |= uint8(bpfSqSpareSPARE_EXEC)
	}
	if p.Lazy[pointClose] {
		v.Spare |= uint8(bpfSqSpareSPARE_QUERY)
	}
	if placedAll(p, "prepare_exec_end", "skip_exec_end", "prepare_query_end", "skip_query_end") {
		v.Prepares = 1
	}
	setLocs(v.ExecEnd[:], p.Points["exec_end"])
	setLocs(v.QueryEnd[:], p.Points["query_end"])
	setLocs(v.StmtExecEnd[:], firstOf(p, "stmt_exec_end", "stmt_exec_end_18"))
	setLocs(v.StmtQueryEnd[:], firstOf(p, "stmt_query_end", "stmt_query_end_18"))
	setLocs(v.StmtExecConn[:], firstOf(p, "stmt_exec_conn", "stmt_exec_conn_18"))
	setLocs(v.StmtQueryConn[:], firstOf(p, "stmt_query_conn", "stmt_query_conn_18"))
	setLocs(v.PrepareExecEnd[:], p.Points["prepare_exec_end"])
	setLocs(v.PrepareQueryEnd[:], p.Points["prepare_query_end"])
	setLocs(v.SkipExecEnd[:], p.Points["skip_exec_end"])
	setLocs(v.SkipQueryEnd[:], p.Points["skip_query_end"])
	setLocs(v.BeginEnd[:], p.Points["begin_end"])
	setLocs(v.PgxExecEnd[:], p.Points[pointExecEnd])
	setLocs(v.PgxRows[0][:], p.Points["pgx_query"])
	setLocs(v.PgxRows[1][:], p.Points["pgx_query_2"])
	setLocs(v.PgxClose[:], p.Points[pointClose])
	return v
}

func firstOf(p *probe.Placed, names ...string) goexe.Point {
	for _, n := range names {
		if at, ok := p.Points[n]; ok {
			return at
		}
	}
	return goexe.Point{}
}

func placedAll(p *probe.Placed, names ...string) bool {
	for _, n := range names {
		if _, ok := p.Points[n]; !ok {
			return false
		}
	}
	return true
}

// loc mirrors struct go_loc.
type loc = struct {
	_     structs.HostLayout
	Off   int32
	Stack uint8
	Reg   uint8
	Pad   uint16
}

func setLocs(dst []loc, at goexe.Point) {
	for i := range min(len(dst), len(at.Results)) {
		r := at.Results[i]
		dst[i].Off, dst[i].Reg = r.Off, r.Reg
		if r.Stack {
			dst[i].Stack = 1
		}
	}
}
