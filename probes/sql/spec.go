package sql

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// ID marks this probe's records.
const ID probe.ID = 11

//go:embed offsets.json
var offsetsJSON []byte

// Point groups.
const (
	groupExec     = "database-sql-exec"
	groupQuery    = "database-sql-query"
	groupStmt     = "database-sql-prepared-exec"
	groupStmtRows = "database-sql-prepared-query"
	groupTx       = "database-sql-transactions"
	groupPools    = "database-sql-pools"
	groupPgxPools = "pgx-pools"
	groupPgxExec  = "pgx-exec"
	groupPgxQuery = "pgx-query"
)

// Ends of pgx's calls.
const (
	pointExecEnd = "pgx_exec_end"
	pointClose   = "pgx_close"
	pointFatal   = "pgx_fatal"
)

const pathPgx = "github.com/jackc/pgx/v5"

// QueryText says what db.query.text holds.
type QueryText string

const (
	// TextOff leaves it out.
	TextOff QueryText = "off"
	// TextShape has every literal replaced by ?.
	TextShape QueryText = "shape"
	// TextFull is the statement as the program wrote it; never a parameter's value.
	TextFull QueryText = "full"
)

// Config is what a user may set.
type Config struct {
	QueryText QueryText
	// Pools learns of connection pools of database/sql and pgx; may be nil.
	Pools *dbpool.Registry
	// AllEnds: no ends of pgx's calls are spared (spare.go). So it must be where a statement of
	// database/sql may be left out of traces and is not counted either: what pgx does for
	// it cannot be told from a call of the program's then.
	AllEnds bool
}

// New returns the probe.
func New(cfg Config) *probe.Spec {
	points, groups := append(stdPoints(), pgxPoints()...), groups(!cfg.AllEnds)
	if cfg.Pools != nil {
		points = append(points, poolPoints()...)
		groups = append(groups, probe.Group{Name: groupPools, What: "connection pools of database/sql", Check: checkPools},
			probe.Group{Name: groupPgxPools, What: "connection pools of pgx", Check: checkPgxPools})
	}
	return &probe.Spec{
		ID:        ID,
		Name:      "sql",
		Doc:       "SQL statements of database/sql and of pgx v5",
		Points:    points,
		Groups:    groups,
		Fields:    pgxFields(),
		Functions: append(slices.Clone(pgxNative), pgxStdlib),
		Table:     func() (*offsets.Table, error) { return offsets.Parse(offsetsJSON) },
		Load:      loadBpf,
		InFlight:  []probe.InFlight{{Map: "sq_ops", MaxAge: probe.CallMaxAge, Forgotten: "call_forgotten"}},
		Prepare: func(cs *ebpf.CollectionSpec) error {
			if err := cs.Variables["cfg_keep"].Set(uint64(cs.Maps["sq_ops"].MaxEntries / 2)); err != nil {
				return fmt.Errorf("set cfg_keep: %w", err)
			}
			return nil
		},
		AttachExe: cfg.attachExe,
		NewDecoder: func(env probe.DecoderEnv) probe.Decoder {
			return &decoder{env: env, cfg: cfg, texts: map[statementKey]statement{}, native: probe.Asking{}, duration: probe.NewDBDuration(),
				pools:    dbpool.Finder{Pools: cfg.Pools, Point: pointSeek, SetPoint: env.SetPoint, Library: poolLibrary},
				pgxPools: dbpool.Finder{Pools: cfg.Pools, Point: pointPgxSeek, SetPoint: env.SetPoint, Library: pathPgxPool}}
		},
	}
}

func groups(spares bool) []probe.Group {
	checkExec, checkQuery := checkPgx, checkPgxQuery
	if spares {
		checkExec, checkQuery = sparing(checkPgx, pointExecEnd), sparing(checkPgxQuery, pointClose, pointFatal)
	}
	return []probe.Group{
		{Name: groupExec, What: "database/sql statements without rows"},
		{Name: groupQuery, What: "database/sql queries"},
		{Name: groupStmt, What: "database/sql prepared statements without rows"},
		{Name: groupStmtRows, What: "database/sql prepared queries"},
		{Name: groupTx, What: "database/sql transactions"},
		{Name: groupPgxExec, What: "pgx statements without rows", Check: checkExec},
		{Name: groupPgxQuery, What: "pgx queries", Check: checkQuery},
	}
}

func entry(args int, funcs ...string) probe.Site {
	return probe.Site{Kind: probe.Entry, Funcs: funcs, Args: args}
}

// stdPoints lists starts before ends: the manager attaches from the last to the first.
func stdPoints() []probe.Point {
	const p, db, stmt, tx = "database/sql.", "database/sql.(*DB).", "database/sql.(*Stmt).", "database/sql.(*Tx)."
	in := func(fn, callee string) probe.Site {
		return probe.Site{Kind: probe.AfterCall, Funcs: []string{fn}, Callees: []string{p + callee}, Results: 4}
	}
	inClosure := func(fn, callee string) probe.Site {
		s := in(fn, callee)
		s.Closure = true
		return s
	}
	isBad := func(fn string) probe.Site {
		return probe.Site{Kind: probe.CallSite, Funcs: []string{fn}, Callees: []string{"errors.Is"}}
	}
	const skip = "statements of drivers that prepare them (MySQL without interpolateParams, SQL Server)"
	const conn = "prepared statements for which there is no connection"
	prepare := func(fn string) probe.Site {
		s := inClosure(fn, "ctxDriverPrepare")
		s.Kind = probe.CallSite
		return s
	}
	noConn := func(fn string, closure bool) probe.Site {
		return probe.Site{Kind: probe.OnError, Funcs: []string{fn}, Callees: []string{stmt + "connStmt"}, Closure: closure, Results: 5}
	}
	return []probe.Point{
		{Name: "exec_start", Program: "sq_std", Group: groupExec, Site: entry(8, p+"ctxDriverExec")},
		{Name: "exec_end", Program: "sq_exec_end", Group: groupExec, Site: inClosure(db+"execDC", "ctxDriverExec")},
		{Name: "prepare_exec", Program: "sq_prepare", Group: groupExec, Optional: true, Lost: skip, Site: prepare(db + "execDC")},
		{Name: "prepare_exec_end", Program: "sq_prep_exec", Group: groupExec, Optional: true, Lost: skip,
			Site: inClosure(db+"execDC", "ctxDriverPrepare")},
		{Name: "skip_exec_end", Program: "sq_skip_exec", Group: groupExec, Optional: true, Lost: skip,
			Site: in(db+"execDC", "resultFromStatement")},

		{Name: "query_start", Program: "sq_std", Group: groupQuery, Site: entry(8, p+"ctxDriverQuery")},
		{Name: "query_end", Program: "sq_query_end", Group: groupQuery, Site: inClosure(db+"queryDC", "ctxDriverQuery")},
		{Name: "prepare_query", Program: "sq_prepare", Group: groupQuery, Optional: true, Lost: skip, Site: prepare(db + "queryDC")},
		{Name: "prepare_query_end", Program: "sq_prep_query", Group: groupQuery, Optional: true, Lost: skip,
			Site: inClosure(db+"queryDC", "ctxDriverPrepare")},
		{Name: "skip_query_end", Program: "sq_skip_query", Group: groupQuery, Optional: true, Lost: skip,
			Site: in(db+"queryDC", "rowsiFromStatement")},

		{Name: "stmt_exec_start", Program: "sq_stmt", Group: groupStmt, Site: entry(3, stmt+"ExecContext")},
		{Name: "stmt_exec_end", Program: "sq_stmt_exec", Group: groupStmt, MinGo: retryGo,
			Site: inClosure(stmt+"ExecContext", "resultFromStatement")},
		{Name: "stmt_exec_conn", Program: "sq_conn_exec", Group: groupStmt, MinGo: retryGo, Optional: true, Lost: conn,
			Site: noConn(stmt+"ExecContext", true)},
		{Name: "stmt_exec_end_18", Program: "sq_stmt_exec", Group: groupStmt, MaxGo: retryGo - 1,
			Site: in(stmt+"ExecContext", "resultFromStatement")},
		{Name: "stmt_exec_conn_18", Program: "sq_conn_exec", Group: groupStmt, MaxGo: retryGo - 1, Optional: true, Lost: conn,
			Site: noConn(stmt+"ExecContext", false)},
		{Name: "stmt_query_start", Program: "sq_stmt", Group: groupStmtRows, Site: entry(3, stmt+"QueryContext")},
		{Name: "stmt_query_end", Program: "sq_stmt_query", Group: groupStmtRows, MinGo: retryGo,
			Site: inClosure(stmt+"QueryContext", "rowsiFromStatement")},
		{Name: "stmt_query_conn", Program: "sq_conn_query", Group: groupStmtRows, MinGo: retryGo, Optional: true, Lost: conn,
			Site: noConn(stmt+"QueryContext", true)},
		{Name: "stmt_query_end_18", Program: "sq_stmt_query", Group: groupStmtRows, MaxGo: retryGo - 1,
			Site: in(stmt+"QueryContext", "rowsiFromStatement")},
		{Name: "stmt_query_conn_18", Program: "sq_conn_query", Group: groupStmtRows, MaxGo: retryGo - 1, Optional: true, Lost: conn,
			Site: noConn(stmt+"QueryContext", false)},

		{Name: "begin", Program: "sq_begin", Group: groupTx, Site: entry(5, p+"ctxDriverBegin")},
		{Name: "begin_end", Program: "sq_begin_end", Group: groupTx, Site: inClosure(db+"beginDC", "ctxDriverBegin")},
		{Name: "commit", Program: "sq_commit", Group: groupTx, Site: entry(0, tx+"Commit.func1")},
		{Name: "rollback", Program: "sq_rollback", Group: groupTx, Site: entry(0, tx+"rollback.func1")},
		{Name: "commit_end", Program: "sq_tx_end", Group: groupTx, Site: isBad(tx + "Commit")},
		{Name: "rollback_end", Program: "sq_tx_end", Group: groupTx, Site: isBad(tx + "rollback")},
	}
}

// retryGo is the minor Go release that put the body of Stmt's methods into a closure.
const retryGo = 20

func pgxPoints() []probe.Point {
	const conn, rows, reader = pathPgx + ".(*Conn).", pathPgx + ".(*baseRows).", pathPgx + "/pgconn.(*ResultReader)."
	got := func(nth int) probe.Site {
		return probe.Site{Kind: probe.AfterNthCall, Funcs: []string{conn + "Query"}, Callees: []string{conn + "getRows"},
			Nth: nth, Results: 1}
	}
	return []probe.Point{
		{Name: "pgx_exec", Program: "sq_pgx_exec", Group: groupPgxExec, Site: entry(5, conn+"Exec")},
		{Name: pointExecEnd, Program: "sq_pgx_exec_end", Group: groupPgxExec,
			Site: probe.Site{Kind: probe.AfterCall, Funcs: []string{conn + "Exec"}, Callees: []string{conn + "exec"}, Results: 4}},

		{Name: "pgx_query", Program: "sq_pgx_query", Group: groupPgxQuery, Site: got(0)},
		{Name: "pgx_query_2", Program: "sq_pgx_query2", Group: groupPgxQuery, Optional: true, Site: got(1),
			Lost: "nothing, where there is but one call"},
		{Name: pointClose, Program: "sq_pgx_close", Group: groupPgxQuery,
			Site: probe.Site{Kind: probe.AfterCall, Funcs: []string{rows + "Close"}, Callees: []string{reader + "Close"}, Results: 4}},
		// Where Close asks whether there is a reader, which a query that has failed has not:
		// once, while rows are closed several times. Elsewhere fatal, or Close where the
		// compiler made fatal a part of its callers.
		{Name: pointFatal, Program: "sq_pgx_fatal", Group: groupPgxQuery,
			Site: probe.Site{Kind: probe.Guard, Funcs: []string{rows + "fatal", rows + "Close"}, Callees: []string{reader + "Close"}, Args: 3}},
	}
}

func pgxFields() []goexe.Field {
	f := func(typ, name string) goexe.Field {
		return goexe.Field{Module: pathPgx, Type: pathPgx + typ, Name: name}
	}
	return []goexe.Field{
		f(".Conn", "config"), f(".ConnConfig", "Config"),
		f(".baseRows", "ctx"), f(".baseRows", "sql"), f(".baseRows", "conn"),
		f("/pgconn.Config", "Host"), f("/pgconn.Config", "Port"), f("/pgconn.Config", "Database"),
		f("/pgconn.PgError", "Code"),
	}
}

func checkPgx(p *probe.Placed) error {
	var missing []string
	for _, f := range pgxFields() {
		if p.Offset(f) == probe.OffNone {
			missing = append(missing, f.String())
		}
	}
	if len(missing) > 0 {
		version, _ := p.Exe.Module(pathPgx)
		return fmt.Errorf("%w: offsets of %v are not known for %s %s", probe.ErrRefused, missing, pathPgx, version)
	}
	return nil
}

// sparing is a group's check that spares ends where they are of no use.
func sparing(check func(*probe.Placed) error, points ...string) func(*probe.Placed) error {
	return func(p *probe.Placed) error {
		err := check(p)
		if err == nil {
			spare(p, points...)
		}
		return err
	}
}

// errArch: the receiver of (*baseRows).Close is found by the frame pointer.
var errArch = errors.New("queries of pgx are seen on amd64 only")

func checkPgxQuery(p *probe.Placed) error {
	if p.Exe.Arch() != "amd64" {
		return errArch
	}
	return checkPgx(p)
}
