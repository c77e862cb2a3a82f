package grpc

import (
	"net/netip"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/goerror"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// server fills op from the record of an RPC that was served.
func (d *decoder) server(op *telemetry.Operation, exeID uint32) *telemetry.Operation {
	op.Kind = trace.SpanKindServer
	op.ParentRemote = d.has(bpfGrFlagF_REMOTE_PARENT)
	op.TraceState = d.traceState()
	st, known := d.status(exeID)
	a := op.Attributes[:0]
	a = append(a, semconv.RPCSystemNameGRPC)
	method := strings.TrimPrefix(d.name(bpfGrStrS_METHOD), "/")
	if st.code == codeUnimplemented && unknownMethod(st.message) {
		op.Name = "grpc"
		a = append(a, semconv.RPCMethod("_OTHER"), semconv.RPCMethodOriginal(method))
	} else {
		op.Name = method
		a = append(a, semconv.RPCMethod(method))
	}
	a = address(a, d.name(bpfGrStrS_TARGET))
	if ip, ok := d.peer(); ok {
		a = append(a, semconv.ClientAddress(ip), semconv.NetworkPeerAddress(ip), semconv.NetworkPeerPort(int(d.ev.PeerPort)))
	}
	if known {
		a = append(a, semconv.RPCResponseStatusCode(st.name()))
	}
	op.Attributes = a
	switch {
	case d.has(bpfGrFlagF_PANIC):
		typ, _ := d.panicked(exeID)
		d.fail(op, typ, "handler panicked")
	case d.has(bpfGrFlagF_GOEXIT):
		d.fail(op, "runtime.Goexit", "handler called runtime.Goexit")
	case known && serverError[st.code]:
		d.fail(op, st.name(), d.description(st))
	case d.has(bpfGrFlagF_UNSENT) && !known:
		d.fail(op, "connection_closed", "the response could not be sent")
	}
	d.exception(op, exeID)
	return op
}

// client fills op from the record of a call.
func (d *decoder) client(op *telemetry.Operation, exeID uint32) *telemetry.Operation {
	op.Kind = trace.SpanKindClient
	a := op.Attributes[:0]
	op.Name = strings.TrimPrefix(d.name(bpfGrStrS_METHOD), "/")
	a = append(a, semconv.RPCSystemNameGRPC, semconv.RPCMethod(op.Name))
	a = address(a, endpoint(d.name(bpfGrStrS_TARGET)))
	if ip, ok := d.peer(); ok {
		a = append(a, semconv.NetworkPeerAddress(ip), semconv.NetworkPeerPort(int(d.ev.PeerPort)))
	}
	st, known := d.status(exeID)
	if !known {
		st = grpcStatus{code: codeOK} // finish(nil)
	}
	op.Attributes = append(a, semconv.RPCResponseStatusCode(st.name()))
	if st.code != codeOK {
		d.fail(op, st.name(), d.description(st))
	}
	return op
}

func (d *decoder) fail(op *telemetry.Operation, errorType, description string) {
	op.Status, op.StatusDescription = codes.Error, description
	op.Attributes = append(op.Attributes, semconv.ErrorTypeKey.String(errorType))
}

// traceState is left out when it was cut: a part of it is another.
func (d *decoder) traceState() string {
	if d.ev.Str[bpfGrStrS_TRACESTATE].Len >= maxString {
		return ""
	}
	return d.str(bpfGrStrS_TRACESTATE)
}

// maxString is STR_MAX.
const maxString = 511

func (d *decoder) panicked(exeID uint32) (typ, message string) {
	if !d.has(bpfGrFlagF_SAW_PANIC) {
		return "panic", ""
	}
	typ = d.env.ErrTypeName(exeID, d.ev.PanicType.TypeName, d.ev.PanicType.Tflag)
	if typ == "" {
		return "panic", ""
	}
	return typ, goerror.PanicMessage(typ, d.ev.PanicRaw, d.str(bpfGrStrS_PANIC))
}

// exception adds the event of a panic, recovered by an interceptor or by nobody. One
// that the handler dealt with itself, so that the RPC did not fail, is its own affair.
func (d *decoder) exception(op *telemetry.Operation, exeID uint32) {
	if !d.has(bpfGrFlagF_SAW_PANIC) || op.Status != codes.Error {
		return
	}
	typ, msg := d.panicked(exeID)
	ev := telemetry.Event{Name: "exception", KtimeNs: d.call.EndNs, Attributes: []attribute.KeyValue{semconv.ExceptionType(typ)}}
	if msg != "" {
		ev.Attributes = append(ev.Attributes, semconv.ExceptionMessage(msg))
	}
	op.Events = append(op.Events, ev)
}

func (d *decoder) peer() (string, bool) {
	ip, ok := netip.AddrFromSlice(d.ev.PeerIp[:d.ev.PeerIpLen])
	return ip.Unmap().String(), ok
}

// endpoint is the endpoint part of a target "scheme://authority/endpoint"; targets
// without a scheme are endpoints.
func endpoint(target string) string {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok {
		if s, rest, ok := strings.Cut(target, ":"); ok && (s == "unix" || s == "dns" || s == "passthrough") {
			return rest
		}
		return target
	}
	if scheme == "unix" {
		return rest
	}
	if _, path, ok := strings.Cut(rest, "/"); ok && path != "" {
		return path
	}
	return rest
}

// address appends server.address and server.port from a host[:port].
func address(a []attribute.KeyValue, hostport string) []attribute.KeyValue {
	if hostport == "" {
		return a
	}
	host, port := hostport, 0
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 && strings.IndexByte(hostport[i:], ']') < 0 && hostport[0] != '/' {
		if n, err := strconv.ParseUint(hostport[i+1:], 10, 16); err == nil {
			host, port = hostport[:i], int(n)
		}
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	a = append(a, semconv.ServerAddress(host))
	if port > 0 {
		a = append(a, semconv.ServerPort(port))
	}
	return a
}
