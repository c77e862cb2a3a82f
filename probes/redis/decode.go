package redis

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"unsafe"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/tracer-agent/tracer-agent/internal/dbpool"
	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const (
	headLen = int(unsafe.Offsetof(bpfRedisEvent{}.Tail))
	maxCmds = len(bpfRedisEvent{}.N_args)
	maxArgs = len(bpfRedisEvent{}.ArgKind)
)

// keyCount says how many keys a command has: not in the semantic conventions.
const keyCount = attribute.Key("db.redis.key_count")

// decoder turns records into operations. Its state is the record that it works on, and
// the attribute sets of its metric.
type decoder struct {
	env  probe.DecoderEnv
	cfg  Config
	ev   bpfRedisEvent
	tail []byte

	pools     dbpool.Finder // redigo's
	databases databases     // which its connections have selected
	duration  *telemetry.DurationOf
}

// Decode implements probe.Decoder.
func (d *decoder) Decode(rec event.Record, emit func(*telemetry.Operation)) error {
	if rec.Type == probe.TypeUnsane {
		check, err := probe.ParseUnsane(rec.Raw)
		if err != nil {
			return fmt.Errorf("redis: %w", err)
		}
		d.env.Refuse(rec.ExeID, probe.UnsaneReason(check, map[uint32]string{
			uint32(bpfRdCheckCHECK_OPTIONS): "the client's Options",
			uint32(bpfRdCheckCHECK_ARGS):    "the command's arguments",
		}))
		return nil
	}
	typ := bpfRedisEventType(rec.Type)
	if typ != bpfRedisEventTypeRD_CALL && typ != bpfRedisEventTypeRD_POOL {
		return fmt.Errorf("redis: %w: type %d", probe.ErrRecord, rec.Type)
	}
	call, own, tail, err := probe.ParseCall(rec.Raw, headLen)
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&d.ev)), headLen), rec.Raw)
	d.tail = tail
	key := telemetry.ProcessKey{PID: rec.PID, StartNs: rec.ProcStartNs}
	if typ == bpfRedisEventTypeRD_POOL {
		d.pools.Found(key, rec.ExeID, d.ev.Pool[1], "redis")
		return nil
	}
	if bpfRdLib(d.ev.Lib) == bpfRdLibLIB_REDIGO {
		d.pools.Seek(key, rec.ExeID, call.EndNs)
	}
	op := call.Operation(rec, "redis")
	d.fill(op, own, key)
	d.pool(rec)
	d.duration.Measure(op)
	emit(op)
	return nil
}

func (d *decoder) str(i int) string {
	s := d.ev.Str[i]
	return string(probe.Str(d.tail, s.Off, s.Len))
}

func (d *decoder) has(f bpfRdFlag) bool { return d.ev.Call.Flags&uint32(f) != 0 }

func (d *decoder) fill(op *telemetry.Operation, own []byte, process telemetry.ProcessKey) {
	cmds, batch := d.commands()
	name := operationName(cmds, batch, d.batchKind())
	a := op.Attributes[:0]
	a = append(a, semconv.DBSystemNameRedis, semconv.DBOperationName(name))
	if batch > 1 {
		a = append(a, semconv.DBOperationBatchSize(batch))
	}
	if db, ok := d.database(process); ok {
		a = append(a, semconv.DBNamespace(strconv.Itoa(db)))
	}
	if !d.has(bpfRdFlagF_BATCH) && len(cmds) == 1 {
		if n, ok := keys(cmds[0].name, cmds[0].words-1); ok {
			a = append(a, keyCount.Int(n))
		}
	}
	if d.cfg.QueryText != TextOff {
		if text := d.queryText(cmds, batch); text != "" {
			a = append(a, semconv.DBQueryText(text))
		}
	}
	a = serverAddress(a, d.address())
	op.Name = name
	op.Attributes = d.failure(op, a, own)
}

// command is one command's name, upper case, and its number of words.
type command struct {
	name  string
	words int
}

// unknownCommand stands for what is no name of a command; it may be anything.
const unknownCommand = "UNKNOWN"

// commands returns the commands whose names are known and how many there were; the
// MULTI and EXEC around a transaction do not count.
func (d *decoder) commands() (cmds []command, batch int) {
	n := 1
	if d.has(bpfRdFlagF_BATCH) {
		n = int(d.ev.Batch)
	}
	if d.isRedigo() && d.has(bpfRdFlagF_BATCH) {
		if d.batchKind() == kindMulti {
			return nil, n - 2
		}
		return nil, n
	}
	for i := range min(n, maxCmds) {
		cmds = append(cmds, command{commandName(d.str(int(bpfRdStrS_NAME0) + i)), int(d.ev.N_args[i])})
	}
	if d.batchKind() == kindMulti {
		cmds = cmds[1:]
		n -= 2
		if len(cmds) > n {
			cmds = cmds[:max(n, 0)]
		}
	}
	return cmds, n
}

func (d *decoder) isRedigo() bool { return bpfRdLib(d.ev.Lib) == bpfRdLibLIB_REDIGO }

// Names of batches, as the semantic conventions for Redis have them.
const (
	kindMulti    = "MULTI"
	kindPipeline = "PIPELINE"
)

// batchKind tells a transaction, "" for a single command.
func (d *decoder) batchKind() string {
	if !d.has(bpfRdFlagF_BATCH) {
		return ""
	}
	first := commandName(d.str(int(bpfRdStrS_NAME0)))
	if d.isRedigo() && first == "EXEC" && d.ev.Batch >= 2 || !d.isRedigo() && first == kindMulti && d.ev.Batch >= 2 {
		return kindMulti
	}
	return kindPipeline
}

// operationName is the command's, or the batch's kind, with the command's behind it
// when all are the same.
func operationName(cmds []command, batch int, kind string) string {
	if kind == "" {
		return cmds[0].name
	}
	if len(cmds) == 0 || len(cmds) < batch {
		return kind
	}
	for _, c := range cmds[1:] {
		if c.name != cmds[0].name {
			return kind
		}
	}
	return kind + " " + cmds[0].name
}

// commandName makes a program's spelling a name of low cardinality.
func commandName(s string) string {
	if len(s) == 0 || len(s) > 32 {
		return unknownCommand
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '.', c == '_', c == '-', i > 0 && c >= '0' && c <= '9':
		default:
			return unknownCommand
		}
	}
	return strings.ToUpper(s)
}

// maxMarks bounds the question marks of one command.
const maxMarks = 64

// queryText is the commands, one after the other, with their values or without.
func (d *decoder) queryText(cmds []command, batch int) string {
	var b strings.Builder
	for i, c := range cmds {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(c.name)
		for w := range min(c.words-1, maxMarks) {
			b.WriteByte(' ')
			if d.cfg.QueryText == TextFull && !d.has(bpfRdFlagF_BATCH) && w < maxArgs {
				b.WriteString(d.argument(w))
			} else {
				b.WriteByte('?')
			}
		}
		if c.words-1 > maxMarks {
			b.WriteString(" ...")
		}
	}
	if len(cmds) > 0 && len(cmds) < batch {
		b.WriteString("; ...")
	}
	return b.String()
}

// Kinds of arguments: reflect.Kind.
const kindString, kindSlice, kindInt, kindUint, kindFloat64 = 24, 23, 2, 7, 14

// argument is the value of argument i as it was read, ? for one that was not.
func (d *decoder) argument(i int) string {
	s := d.str(int(bpfRdStrS_ARG0) + i)
	switch k := d.ev.ArgKind[i]; {
	case k == kindString || k == kindSlice:
		return strconv.Quote(s)
	case len(s) != 8:
	case k == kindFloat64:
		return strconv.FormatFloat(math.Float64frombits(binary.NativeEndian.Uint64([]byte(s))), 'g', -1, 64)
	case k == kindInt || k == kindInt+4: // int and int64
		return strconv.FormatInt(int64(binary.NativeEndian.Uint64([]byte(s))), 10)
	case k == kindUint || k == kindUint+4: // uint and uint64
		return strconv.FormatUint(binary.NativeEndian.Uint64([]byte(s)), 10)
	}
	return "?"
}

// serverAddress appends server.address and server.port from what the client was
// configured with: host:port or the path of a socket. A sentinel's or cluster's
// stand-in is neither.
func serverAddress(a []attribute.KeyValue, addr string) []attribute.KeyValue {
	if strings.HasPrefix(addr, "/") {
		return append(a, semconv.ServerAddress(addr))
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return a
	}
	a = append(a, semconv.ServerAddress(host))
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		a = append(a, semconv.ServerPort(int(n)))
	}
	return a
}

// failure sets the operation's status and appends what is known of its error. That
// there is no such key is none.
func (d *decoder) failure(op *telemetry.Operation, a []attribute.KeyValue, own []byte) []attribute.KeyValue {
	if !d.has(bpfRdFlagF_ERROR) {
		return a
	}
	info := d.env.ErrorInfo(d.ev.Call.Hdr.ExeId, own, []byte(d.str(int(bpfRdStrS_ERR))))
	if len(info.Types) > 0 && serverError(info.Types[len(info.Types)-1]) {
		if strings.HasPrefix(info.Text, "redis: ") {
			if info.Text == "redis: nil" {
				return a
			}
			op.Status = codes.Error
			op.StatusDescription = clientText(info.Text)
			return append(a, semconv.ErrorTypeKey.String(op.StatusDescription))
		}
		code := errorPrefix(info.Text)
		op.Status, op.StatusDescription = codes.Error, code
		return append(a, semconv.DBResponseStatusCode(code), semconv.ErrorTypeKey.String(code))
	}
	kind, description := info.Kind()
	if t := clientText(info.Text); t != "_OTHER" {
		kind, description = t, t
	}
	op.Status, op.StatusDescription = codes.Error, description
	return append(a, semconv.ErrorTypeKey.String(kind))
}

// serverError says that an error of the type is the server's reply; its text is, too.
func serverError(typ string) bool {
	return typ == "proto.RedisError" || typ == "redis.Error" ||
		strings.HasPrefix(typ, "*proto.") && strings.HasSuffix(typ, "Error")
}

// clientText names errors of the clients themselves.
func clientText(text string) string {
	switch text {
	case "redis: transaction failed":
		return "transaction_failed"
	case "redis: connection pool timeout":
		return "pool_timeout"
	case "redis: client is closed":
		return "client_closed"
	case "redigo: connection pool exhausted":
		return "pool_exhausted"
	}
	return "_OTHER"
}

// errorPrefix is an error reply's first word, by which Redis classes errors; what
// follows may hold values.
func errorPrefix(text string) string {
	word, _, _ := strings.Cut(text, " ")
	if word == "" || len(word) > 32 {
		return "ERR"
	}
	for i := range len(word) {
		if c := word[i]; (c < 'A' || c > 'Z') && c != '_' {
			return "ERR"
		}
	}
	return word
}
