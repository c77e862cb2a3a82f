package nethttp

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/goerror"
	"github.com/tracer-agent/tracer-agent/internal/httpattr"
	"github.com/tracer-agent/tracer-agent/internal/httpbody"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// ErrRecord says that a record does not have the shape of this probe's records.
var ErrRecord = errors.New("nethttp: bad record")

const (
	headLen     = int(unsafe.Offsetof(bpfNethttpEvent{}.Tail))
	countedHead = int(unsafe.Offsetof(bpfNethttpCounted{}.Route))
	tailLen     = int(unsafe.Sizeof(bpfNethttpEvent{}.Tail))
	nStr        = int(bpfNhStrS_COUNT)
	strMax      = 511 // STR_MAX: how much of a string a record holds
)

// decoder turns records into operations. Its state is bounded: interned strings,
// and what is learned per executable.
type decoder struct {
	env     probe.DecoderEnv
	cfg     Config
	capture []httpattr.Wanted
	answers []string // attributes of response headers
	ev      bpfNethttpEvent
	short   bpfNethttpCounted
	names   interned
	peers   map[string]string // peer.service by host[:port]
	mux     map[uint32]*muxState
	sets    map[setKey]attribute.Set
	addrs   map[string]hostPort      // by RemoteAddr, one a connection
	few     [3]telemetry.Measurement // of the operation in work
	only    telemetry.Operation      // one that is only counted
	bodies  *httpbody.Open           // nil when nobody asks for them
}

func newDecoder(env probe.DecoderEnv, cfg Config, hdrs []httpattr.Wanted) *decoder {
	d := &decoder{env: env, cfg: cfg, names: interned{}, peers: map[string]string{}, addrs: map[string]hostPort{}, mux: map[uint32]*muxState{}, sets: map[setKey]attribute.Set{}}
	for _, h := range hdrs {
		if h.Slot >= uint32(bpfNhStrS_CAPTURE0) && h.Slot < uint32(bpfNhStrS_ANSWER0) {
			d.capture = append(d.capture, h)
		}
	}
	if cfg.Bodies.Want() != 0 {
		d.bodies, _ = httpbody.New(cfg.Bodies, cfg.Redact) // New has seen that it can be done
	}
	for _, name := range cfg.AnswerHeaders {
		d.answers = append(d.answers, "http.response.header."+strings.ToLower(name))
	}
	return d
}

// Decode implements probe.Decoder.
func (d *decoder) Decode(rec event.Record, emit func(*telemetry.Operation)) error {
	if rec.Type == httpbody.RecordType {
		if d.bodies == nil {
			return fmt.Errorf("%w: a body that nobody asked for", ErrRecord)
		}
		return d.bodies.Take(rec)
	}
	load := d.load
	if bpfNethttpEventType(rec.Type) == bpfNethttpEventTypeNH_COUNTED {
		load = d.loadCounted
	}
	if err := load(rec.Raw); err != nil {
		return err
	}
	e := &d.ev
	switch bpfNethttpEventType(rec.Type) {
	case bpfNethttpEventTypeNH_UNSANE:
		d.env.Refuse(rec.ExeID, unsaneReason(bpfNhCheck(e.Status)))
		return nil
	case bpfNethttpEventTypeNH_SERVER:
		d.learnMux(rec.ExeID)
		if !d.sampled() && !d.cfg.CountFull {
			emit(d.withBodies(rec, d.counted(rec, d.serverMetrics(d.few[:0]), trace.SpanKindServer)))
			return nil
		}
		op := d.server(d.operation(rec))
		op.Measurements = d.serverMetrics(d.few[:0])
		emit(d.withBodies(rec, op))
	case bpfNethttpEventTypeNH_COUNTED:
		d.learnMux(rec.ExeID)
		emit(d.counted(rec, d.serverMetrics(d.few[:0]), trace.SpanKindServer))
	case bpfNethttpEventTypeNH_CLIENT:
		if !d.sampled() && !d.cfg.CountFull {
			emit(d.withBodies(rec, d.counted(rec, d.clientMetrics(d.few[:0]), trace.SpanKindClient)))
			return nil
		}
		op := d.client(d.operation(rec))
		op.Measurements = d.clientMetrics(d.few[:0])
		emit(d.withBodies(rec, op))
	default:
		return fmt.Errorf("%w: type %d", ErrRecord, rec.Type)
	}
	return nil
}

// withBodies adds the fields of bodies that were asked for.
func (d *decoder) withBodies(rec event.Record, op *telemetry.Operation) *telemetry.Operation {
	if d.bodies != nil {
		d.bodies.Give(op, httpbody.Key{PID: rec.PID, Goid: d.ev.Goid, Start: d.ev.StartNs}, d.bytes(bpfNhStrS_METHOD))
	}
	if d.ev.ProtoMajor == 2 && d.cfg.Unseen != nil {
		d.unseen()
	}
	return op
}

// What Config.Unseen is told.
const (
	UnseenRequest  = "request_body"
	UnseenResponse = "response_body"
	UnseenAnswer   = "response_header"
)

// unseen counts what is asked for and not seen of HTTP/2: bodies of responses got, and others
// where the executable's layout is not known.
func (d *decoder) unseen() {
	if d.has(bpfNhFlagF_PANIC) || d.has(bpfNhFlagF_GOEXIT) {
		return // what was not answered cannot be seen
	}
	if len(d.cfg.Bodies.Request) > 0 && d.ev.ReqSize != 0 && !d.has(bpfNhFlagF_LOOKED_REQUEST) {
		d.cfg.Unseen(UnseenRequest)
	}
	if len(d.cfg.Bodies.Response) > 0 && d.ev.RespSize != 0 && !d.has(bpfNhFlagF_LOOKED_RESPONSE) {
		d.cfg.Unseen(UnseenResponse)
	}
	if len(d.answers) > 0 && !d.has(bpfNhFlagF_ANSWERED) && !d.has(bpfNhFlagF_LOOKED_RESPONSE) {
		d.cfg.Unseen(UnseenAnswer)
	}
}

// load copies a record, whose tail is cut to what it holds, into d.ev.
func (d *decoder) load(raw []byte) error {
	if len(raw) < headLen || len(raw) > headLen+tailLen {
		return fmt.Errorf("%w: %d bytes", ErrRecord, len(raw))
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&d.ev)), headLen+tailLen), raw)
	if int(d.ev.TailLen) > len(raw)-headLen {
		return fmt.Errorf("%w: tail of %d bytes in a record of %d", ErrRecord, d.ev.TailLen, len(raw))
	}
	for i := range nStr {
		if s := d.ev.Str[i]; int(s.Off)+int(s.Len) > int(d.ev.TailLen) {
			return fmt.Errorf("%w: string %d ends at %d of %d bytes", ErrRecord, i, int(s.Off)+int(s.Len), d.ev.TailLen)
		}
	}
	if int(d.ev.Err.N) > len(d.ev.Err.Type) || int(d.ev.PeerIpLen) > len(d.ev.PeerIp) {
		return fmt.Errorf("%w: %d errors, address of %d bytes", ErrRecord, d.ev.Err.N, d.ev.PeerIpLen)
	}
	return nil
}

// loadCounted does the same with a record of a request that is counted only.
func (d *decoder) loadCounted(raw []byte) error {
	if len(raw) < countedHead || len(raw) > int(unsafe.Sizeof(d.short)) {
		return fmt.Errorf("%w: counted, %d bytes", ErrRecord, len(raw))
	}
	c := &d.short
	copy(unsafe.Slice((*byte)(unsafe.Pointer(c)), unsafe.Sizeof(*c)), raw)
	if int(c.RouteLen) != len(raw)-countedHead {
		return fmt.Errorf("%w: route of %d bytes in a record of %d", ErrRecord, c.RouteLen, len(raw))
	}
	e := &d.ev
	clear(unsafe.Slice((*byte)(unsafe.Pointer(e)), headLen))
	e.Hdr, e.StartNs, e.EndNs = c.Hdr, c.StartNs, c.EndNs
	e.ReqSize, e.RespSize, e.Status, e.Flags = c.ReqSize, c.RespSize, c.Status, c.Flags
	e.ProtoMajor, e.ProtoMinor = c.ProtoMajor, c.ProtoMinor
	method := (*[8]byte)(unsafe.Pointer(&c.Method))[:]
	if n := bytes.IndexByte(method, 0); n >= 0 {
		method = method[:n]
	}
	n := copy(e.Tail[:], method)
	e.Str[bpfNhStrS_METHOD].Len = uint16(n)
	e.Str[bpfNhStrS_ROUTE].Off, e.Str[bpfNhStrS_ROUTE].Len = uint16(n), c.RouteLen
	e.TailLen = uint32(n + copy(e.Tail[n:], c.Route[:c.RouteLen]))
	return nil
}

func unsaneReason(c bpfNhCheck) string {
	what := map[bpfNhCheck]string{
		bpfNhCheckCHECK_G:       "the goroutine structure (runtime.g)",
		bpfNhCheckCHECK_METHOD:  "http.Request.Method",
		bpfNhCheckCHECK_URL:     "http.Request.URL",
		bpfNhCheckCHECK_CONTEXT: "http.Request.ctx",
	}[c]
	if what == "" {
		what = fmt.Sprintf("check %d", c)
	}
	return what + " is not where the known layouts of this Go version have it"
}

// bytes returns string i of the record; it is only valid until the next record.
func (d *decoder) bytes(i bpfNhStr) []byte {
	s := d.ev.Str[i]
	return d.ev.Tail[s.Off : int(s.Off)+int(s.Len)]
}

func (d *decoder) str(i bpfNhStr) string { return string(d.bytes(i)) }

// name is for strings of few distinct values: they are allocated once.
func (d *decoder) name(i bpfNhStr) string { return d.names.get(d.bytes(i)) }

func (d *decoder) has(f bpfNhFlag) bool { return d.ev.Flags&uint32(f) != 0 }

func (d *decoder) operation(rec event.Record) *telemetry.Operation {
	e := &d.ev
	op := telemetry.NewOperation()
	op.Process = telemetry.ProcessKey{PID: rec.PID, StartNs: rec.ProcStartNs}
	op.Probe = "nethttp"
	op.MetricsOnly = !d.sampled()
	op.ParentRemote = d.has(bpfNhFlagF_REMOTE_PARENT)
	op.Flags = trace.TraceFlags(e.TraceFlags)
	op.StartKtimeNs, op.EndKtimeNs = e.StartNs, e.EndNs
	op.TraceID = *(*trace.TraceID)(unsafe.Pointer(&e.TraceId))
	op.SpanID = *(*trace.SpanID)(unsafe.Pointer(&e.SpanId))
	op.ParentSpanID = *(*trace.SpanID)(unsafe.Pointer(&e.ParentId))
	return op
}

// errorInfo resolves the error in the record.
func (d *decoder) errorInfo(exeID uint32) goerror.Info {
	info := goerror.Info{Raw: d.ev.Err.Raw, Text: d.str(bpfNhStrS_ERR_MSG)}
	for i := range int(d.ev.Err.N) {
		info.Types = append(info.Types, d.typeName(exeID, d.ev.Err.Type[i].TypeName, d.ev.Err.Type[i].Tflag))
	}
	return info
}

func (d *decoder) typeName(exeID uint32, nameOff int32, tflag uint8) string {
	return d.env.ErrTypeName(exeID, nameOff, tflag)
}

// interned keeps one copy of each of a bounded number of strings.
type interned map[string]string

const maxInterned = 4096

func (m interned) get(b []byte) string {
	if s, ok := m[string(b)]; ok {
		return s
	}
	if len(m) >= maxInterned {
		clear(m)
	}
	s := string(b)
	m[s] = s
	return s
}

// muxState is what is known of one executable's use of ServeMux. The point on
// findHandler is there to find the request that carries the pattern when middleware
// hands ServeMux a copy; once it has only ever seen the server's own request it is
// taken off, and put back when a served request has no route. Asking for either may
// fail: that it is on is known when a record says that it ran.
type muxState struct {
	point       muxPoint
	copies      bool
	same, limit int // records that saw the server's own request; when to take the point off
	bare, askAt int // while asked for: records without a route; when to ask again
}

type muxPoint uint8

const (
	muxOn    muxPoint = iota
	muxOff            // asked to be taken off
	muxAsked          // asked to be put back
)

const muxTrial = 64

func (d *decoder) learnMux(exeID uint32) {
	s := d.mux[exeID]
	if s == nil {
		if len(d.mux) >= maxInterned {
			clear(d.mux)
		}
		s = &muxState{limit: muxTrial}
		d.mux[exeID] = s
	}
	switch {
	case d.has(bpfNhFlagF_MUX_COPY):
		s.copies = true
		if s.point == muxAsked {
			s.point = muxOn
		}
	case d.has(bpfNhFlagF_MUX_SAME):
		if s.point == muxAsked {
			s.point, s.same = muxOn, 0
		}
		s.same++
		if !s.copies && s.same >= s.limit && s.same%muxTrial == 0 {
			s.point = muxOff
			d.env.SetPoint(exeID, false, pointMux)
		}
	case s.point != muxOn && d.ev.Status < 400 && d.ev.Str[bpfNhStrS_ROUTE].Len == 0:
		if s.point == muxOff {
			s.point, s.bare, s.askAt = muxAsked, 0, 1
			s.limit = min(s.limit*16, 1<<30)
		}
		if s.bare++; s.bare == s.askAt {
			s.askAt = min(s.askAt*16, 1<<30)
			d.env.SetPoint(exeID, true, pointMux)
		}
	}
}
