package sql

import (
	"fmt"
	"strconv"
	"strings"
	"unsafe"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/goerror"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const headLen = int(unsafe.Offsetof(bpfSqlEvent{}.Tail))

// affectedRows is not in the semantic conventions, which have only returned rows.
const affectedRows = attribute.Key("db.response.affected_rows")

// maxStatements bounds the texts whose analysis is kept.
const maxStatements = 2048

// statementKey is a text and the language that it was taken for.
type statementKey struct {
	text    string
	dialect dialect
}

// decoder turns records into operations. Its state is the record that it works on and
// what texts it has seen, bounded.
type decoder struct {
	env   probe.DecoderEnv
	cfg   Config
	ev    bpfSqlEvent
	tail  []byte
	texts map[statementKey]statement
	pools dbpool.Finder // of database/sql

	pgxPools dbpool.Finder
	native   probe.Asking // for the ends of pgx's calls

	duration *telemetry.DurationOf
}

// Decode implements probe.Decoder.
func (d *decoder) Decode(rec event.Record, emit func(*telemetry.Operation)) error {
	if rec.Type == probe.TypeUnsane {
		check, err := probe.ParseUnsane(rec.Raw)
		if err != nil {
			return fmt.Errorf("sql: %w", err)
		}
		d.env.Refuse(rec.ExeID, probe.UnsaneReason(check, map[uint32]string{uint32(bpfSqCheckCHECK_TEXT): "the statement"}))
		return nil
	}
	if bpfSqlEventType(rec.Type) != bpfSqlEventTypeSQ_CALL {
		return fmt.Errorf("sql: %w: type %d", probe.ErrRecord, rec.Type)
	}
	call, own, tail, err := probe.ParseCall(rec.Raw, headLen)
	if err != nil {
		return fmt.Errorf("sql: %w", err)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&d.ev)), headLen), rec.Raw)
	d.tail = tail
	key := telemetry.ProcessKey{PID: rec.PID, StartNs: rec.ProcStartNs}
	switch pgx := d.has(bpfSqFlagF_PGX); {
	case bpfSqKind(d.ev.Kind) == bpfSqKindK_POOL && pgx:
		d.pgxPools.Found(key, rec.ExeID, d.ev.Pool, "pgxpool")
		return nil
	case bpfSqKind(d.ev.Kind) == bpfSqKindK_POOL:
		d.pools.Found(key, rec.ExeID, d.ev.Pool, d.system())
		return nil
	case bpfSqKind(d.ev.Kind) == bpfSqKindK_NATIVE:
		d.unspare(rec.ExeID, call.StartNs)
		return nil
	case pgx:
		d.pgxPools.Seek(key, rec.ExeID, call.EndNs)
	default:
		d.pools.Seek(key, rec.ExeID, call.EndNs)
	}
	op := call.Operation(rec, "sql")
	if d.fill(op, own, call.Cut) {
		d.duration.Measure(op)
		emit(op)
	}
	return nil
}

func (d *decoder) bytes(i bpfSqStr) []byte {
	s := d.ev.Str[i]
	return probe.Str(d.tail, s.Off, s.Len)
}

func (d *decoder) str(i bpfSqStr) string { return string(d.bytes(i)) }

func (d *decoder) has(f bpfSqFlag) bool { return d.ev.Call.Flags&uint32(f) != 0 }

// fill sets name, attributes and status; false for what is no statement of the program.
func (d *decoder) fill(op *telemetry.Operation, own []byte, cut bool) bool {
	system := d.system()
	var st statement
	switch bpfSqKind(d.ev.Kind) {
	case bpfSqKindK_BEGIN:
		st.operation = "BEGIN"
	case bpfSqKindK_COMMIT:
		st.operation = "COMMIT"
	case bpfSqKindK_ROLLBACK:
		st.operation = "ROLLBACK"
	default:
		raw := d.str(bpfSqStrS_TEXT)
		if ping(raw) {
			return false
		}
		st = d.statement(raw, system, cut)
	}
	a := op.Attributes[:0]
	a = append(a, semconv.DBSystemNameKey.String(system))
	op.Name = system
	if st.operation != "" {
		a = append(a, semconv.DBOperationName(st.operation))
		op.Name = st.operation
		if st.table != "" {
			a = append(a, semconv.DBCollectionName(st.table))
			op.Name += " " + st.table
		}
	}
	if db := d.str(bpfSqStrS_DATABASE); db != "" {
		a = append(a, semconv.DBNamespace(db))
	}
	if st.text != "" && d.cfg.QueryText != TextOff {
		a = append(a, semconv.DBQueryText(st.text))
	}
	if host := d.str(bpfSqStrS_HOST); host != "" {
		a = append(a, semconv.ServerAddress(host))
		if d.ev.Port > 0 && host[0] != '/' {
			a = append(a, semconv.ServerPort(int(d.ev.Port)))
		}
	}
	a = d.rows(a)
	op.Attributes = d.failure(op, a, own)
	return true
}

// ping says that a text is what pgx sends to see whether a connection lives.
func ping(text string) bool { return text == "-- ping" || text == ";" }

// statement analyses a text, or remembers it: programs have few.
func (d *decoder) statement(raw, system string, cut bool) statement {
	dia := dialectUnknown
	switch system {
	case "postgresql":
		dia = dialectPostgres
	case "mysql":
		dia = dialectMySQL
	}
	key := statementKey{raw, dia}
	st, ok := d.texts[key]
	if !ok {
		st = analyse(raw, dia)
		if len(d.texts) >= maxStatements {
			clear(d.texts)
		}
		d.texts[key] = st
	}
	if d.cfg.QueryText == TextFull {
		st.text = strings.ToValidUTF8(raw, "")
	}
	if cut && st.text != "" {
		st.text += " ..."
	}
	return st
}

// systems names databases by the package that a driver's types are in.
var systems = map[string]string{
	"pq": "postgresql", "stdlib": "postgresql", "pgx": "postgresql", "pgdriver": "postgresql",
	"mysql": "mysql", "sqlite": "sqlite", "sqlite3": "sqlite", "driver": "sqlite",
	"mssql": "microsoft.sql_server", "clickhouse": "clickhouse", "godror": "oracle.db", "go_ora": "oracle.db",
	"hdb": "sap.hana", "snowflake": "other_sql", "gosnowflake": "other_sql",
}

// system is db.system.name: pgx's own, or by the driver's type.
func (d *decoder) system() string {
	if d.has(bpfSqFlagF_PGX) {
		return "postgresql"
	}
	exe := d.ev.Call.Hdr.ExeId
	for _, t := range []struct {
		name  int32
		tflag uint8
	}{{d.ev.Driver.TypeName, d.ev.Driver.Tflag}, {d.ev.Driver2.TypeName, d.ev.Driver2.Tflag}} {
		if t.name == 0 {
			continue
		}
		pkg, _, _ := strings.Cut(strings.TrimLeft(d.env.ErrTypeName(exe, t.name, t.tflag), "*"), ".")
		if s := systems[pkg]; s != "" {
			return s
		}
	}
	return "other_sql"
}

// rows appends how many rows there were, where that is known.
func (d *decoder) rows(a []attribute.KeyValue) []attribute.KeyValue {
	if d.has(bpfSqFlagF_TAG) {
		word, rest, _ := strings.Cut(d.str(bpfSqStrS_TAG), " ")
		n, err := strconv.Atoi(rest[strings.LastIndexByte(rest, ' ')+1:])
		switch {
		case err != nil || n < 0:
		case word == "SELECT" || word == "FETCH":
			a = append(a, semconv.DBResponseReturnedRows(n))
		default:
			a = append(a, affectedRows.Int(n))
		}
		return a
	}
	if !d.has(bpfSqFlagF_RESULT) {
		return a
	}
	raw := d.ev.ResultRaw
	switch d.env.ErrTypeName(d.ev.Call.Hdr.ExeId, d.ev.Result.TypeName, d.ev.Result.Tflag) {
	case "driver.RowsAffected": // int64
		return append(a, affectedRows.Int64(int64(raw[0])))
	case "*sqlite.result", "*sqlite3.SQLiteResult": // lastInsertID, rowsAffected
		return append(a, affectedRows.Int64(int64(raw[1])))
	case "*mysql.mysqlResult": // affectedRows []int64, by statement
		if raw[1] == 1 {
			return append(a, affectedRows.Int64(int64(d.ev.Code[0])))
		}
	}
	return a
}

// failure sets the operation's status and appends what is known of its error.
func (d *decoder) failure(op *telemetry.Operation, a []attribute.KeyValue, own []byte) []attribute.KeyValue {
	if !d.has(bpfSqFlagF_ERROR) {
		return a
	}
	info := d.env.ErrorInfo(d.ev.Call.Hdr.ExeId, own, d.bytes(bpfSqStrS_ERR))
	kind, description := info.Kind()
	op.Status = codes.Error
	if code := d.code(info); code != "" {
		op.StatusDescription = code
		return append(a, semconv.DBResponseStatusCode(code), semconv.ErrorTypeKey.String(code))
	}
	switch info.Text {
	case "driver: bad connection":
		kind, description = "connection_closed", info.Text
	case "sql: database is closed", "sql: connection is already closed", "conn closed":
		kind, description = "client_closed", info.Text
	}
	op.StatusDescription = description
	return append(a, semconv.ErrorTypeKey.String(kind))
}

// code is what the database said: an SQLSTATE, or the number of MySQL or SQLite.
func (d *decoder) code(info goerror.Info) string {
	if c := d.str(bpfSqStrS_CODE); len(c) == 5 && plain(c) {
		return c
	}
	if len(info.Types) == 0 {
		return ""
	}
	switch info.Types[len(info.Types)-1] {
	case "*mysql.MySQLError": // Number uint16; SQLState [5]byte
		return strconv.Itoa(int(info.Raw[0] & 0xffff))
	case "*sqlite.Error": // msg string; code int
		if d.has(bpfSqFlagF_CODE) {
			return strconv.Itoa(int(int32(d.ev.Code[0])))
		}
	case "sqlite3.Error": // Code, ExtendedCode int
		return strconv.Itoa(int(int32(info.Raw[1])))
	}
	return ""
}

// plain: digits and capitals only.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; !digit(c) && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}
