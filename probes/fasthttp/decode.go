package fasthttp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unsafe"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/httpattr"
	"github.com/tracer-agent/tracer-agent/internal/httpbody"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const headLen = int(unsafe.Offsetof(bpfFhEvent{}.Tail))

type decoder struct {
	env probe.DecoderEnv
	cfg Config

	bodies   *httpbody.Open // nil when nobody asks for them
	duration *telemetry.DurationOf
}

func newDecoder(env probe.DecoderEnv, cfg Config) *decoder {
	d := &decoder{env: env, cfg: cfg, duration: httpattr.NewServerDuration()}
	if cfg.Bodies.Want() != 0 {
		d.bodies, _ = httpbody.New(cfg.Bodies, cfg.Redact) // New has seen that it can be done
	}
	return d
}

// request is a record, read.
type request struct {
	probe.Call
	reqSize, respSize int64
	status            int32
	peerPort          uint32
	peerIP            [16]byte
	str               [bpfFhStrFS_COUNT]string
}

// Decode implements probe.Decoder.
func (d *decoder) Decode(rec event.Record, emit func(*telemetry.Operation)) error {
	switch rec.Type {
	case probe.TypeUnsane:
		check, err := probe.ParseUnsane(rec.Raw)
		if err != nil {
			return err
		}
		d.env.Refuse(rec.ExeID, probe.UnsaneReason(check, map[uint32]string{
			uint32(bpfFhCheckFH_CHECK_METHOD): "fasthttp.RequestHeader.method",
		}))
		return nil
	case uint8(bpfFhTypeFH_SERVER):
		r, err := parse(rec.Raw)
		if err != nil {
			return err
		}
		op := d.server(rec, r)
		d.duration.Measure(op)
		r.measureSizes(op)
		if d.bodies != nil {
			d.bodies.Give(op, httpbody.Key{PID: rec.PID, Goid: r.Goid, Start: r.StartNs}, []byte(r.str[bpfFhStrFS_METHOD]))
		}
		emit(op)
		return nil
	case httpbody.RecordType:
		if d.bodies == nil {
			return fmt.Errorf("%w: a body that nobody asked for", probe.ErrRecord)
		}
		return d.bodies.Take(rec)
	default:
		return fmt.Errorf("%w: type %d", probe.ErrRecord, rec.Type)
	}
}

// measureSizes adds the sizes of the bodies, by the attributes of the duration.
func (r *request) measureSizes(op *telemetry.Operation) {
	size := func(i *telemetry.Instrument, n int64) {
		op.Measurements = append(op.Measurements, telemetry.Measurement{Instrument: i, Value: float64(n), Attributes: op.Measurements[0].Attributes})
	}
	switch r.reqSize {
	case -1: // chunked
	case -2:
		size(httpattr.ServerRequestSize, 0) // none said: there is no body
	default:
		size(httpattr.ServerRequestSize, max(r.reqSize, 0))
	}
	if r.respSize >= 0 && r.str[bpfFhStrFS_METHOD] != "HEAD" {
		size(httpattr.ServerResponseSize, r.respSize)
	}
}

func parse(raw []byte) (r request, err error) {
	call, own, tail, err := probe.ParseCall(raw, headLen)
	if err != nil {
		return r, err
	}
	r.Call = call
	ne := binary.NativeEndian
	r.reqSize, r.respSize = int64(ne.Uint64(own)), int64(ne.Uint64(own[8:]))
	r.status, r.peerPort = int32(ne.Uint32(own[16:])), ne.Uint32(own[20:])
	copy(r.peerIP[:], own[24:])
	for i := range r.str {
		at := own[40+4*i:]
		b := probe.Str(tail, ne.Uint16(at), ne.Uint16(at[2:]))
		r.str[i] = string(b)
	}
	return r, nil
}

func (d *decoder) server(rec event.Record, r request) *telemetry.Operation {
	op := r.Operation(rec, "fasthttp")
	op.Kind = trace.SpanKindServer
	op.ParentRemote = r.Flags&uint32(bpfFhFlagFH_REMOTE_PARENT) != 0
	if op.ParentRemote {
		op.TraceState = r.str[bpfFhStrFS_TRACESTATE]
	}
	a := op.Attributes[:0]
	method, a := httpattr.Method(a, r.str[bpfFhStrFS_METHOD])
	op.Name = method
	if route := r.str[bpfFhStrFS_ROUTE]; strings.HasPrefix(route, "/") {
		op.Name = method + " " + route
		a = append(a, semconv.HTTPRoute(route))
	}
	scheme := "http"
	if r.Flags&uint32(bpfFhFlagFH_TLS) != 0 {
		scheme = "https"
	}
	a = append(a, semconv.URLScheme(scheme))
	path, query, _ := strings.Cut(r.str[bpfFhStrFS_URI], "?")
	if strings.HasPrefix(path, "/") {
		a = append(a, semconv.URLPath(path))
	}
	if query != "" {
		a = append(a, semconv.URLQuery(d.cfg.Redact.Query(query)))
	}
	a = httpattr.ServerAddress(a, r.str[bpfFhStrFS_HOST], scheme)
	a = r.peer(a)
	version := "1.1"
	if r.Flags&uint32(bpfFhFlagFH_HTTP10) != 0 {
		version = "1.0"
	}
	a = append(a, semconv.NetworkProtocolVersion(version))
	if ua := r.str[bpfFhStrFS_USER_AGENT]; ua != "" {
		a = append(a, semconv.UserAgentOriginal(ua))
	}
	if r.reqSize > 0 {
		a = append(a, semconv.HTTPRequestBodySize(int(r.reqSize)))
	}
	status := int(r.status)
	if status == 0 {
		status = 200 // what fasthttp sends then
	}
	if status >= 100 && status <= 999 {
		a = append(a, semconv.HTTPResponseStatusCode(status))
	}
	if r.respSize >= 0 && method != "HEAD" {
		a = append(a, semconv.HTTPResponseBodySize(int(r.respSize)))
	}
	if status >= 500 {
		a = append(a, semconv.ErrorTypeKey.String(strconv.Itoa(status)))
		op.Status = codes.Error
	}
	op.Attributes = d.configured(a, &r)
	return op
}

// peer appends who is at the other end, and the client behind proxies.
func (r *request) peer(a []attribute.KeyValue) []attribute.KeyValue {
	client := httpattr.ForwardedFor(r.str[bpfFhStrFS_FORWARDED], r.str[bpfFhStrFS_FORWARDED_FOR])
	ip := netip.AddrFrom16(r.peerIP).Unmap()
	known := r.peerPort != 0
	if client == "" && known {
		client = ip.String()
	}
	if client != "" {
		a = append(a, semconv.ClientAddress(client))
	}
	if known {
		a = append(a, semconv.NetworkPeerAddress(ip.String()), semconv.NetworkPeerPort(int(r.peerPort)))
	}
	return a
}
