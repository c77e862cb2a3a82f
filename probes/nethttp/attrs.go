package nethttp

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/goerror"
	"github.com/tracer-agent/tracer-agent/internal/httpattr"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// errAbortHandler is the text of http.ErrAbortHandler.
const errAbortHandler = "net/http: abort Handler"

// server fills op from the record of a server request.
func (d *decoder) server(op *telemetry.Operation) *telemetry.Operation {
	e := &d.ev
	op.Kind = trace.SpanKindServer
	op.TraceState = d.traceState()
	method, a := d.method(op.Attributes[:0])
	op.Name = method
	path, query := d.target(method)
	route := d.route()
	if route != "" {
		op.Name = d.names.get([]byte(method + " " + route))
		a = append(a, semconv.HTTPRoute(route))
	}
	scheme := "http"
	if d.has(bpfNhFlagF_TLS) {
		scheme = "https"
	}
	a = append(a, semconv.URLScheme(scheme))
	if path != "" {
		a = append(a, semconv.URLPath(path))
	}
	if query != "" {
		a = append(a, semconv.URLQuery(d.cfg.Redact.Query(query)))
	}
	a = httpattr.ServerAddress(a, d.name(bpfNhStrS_HOST), scheme)
	a = d.peer(a)
	a = append(a, semconv.NetworkProtocolVersion(d.version()))
	if ua := d.name(bpfNhStrS_USER_AGENT); ua != "" {
		a = append(a, semconv.UserAgentOriginal(ua))
	}
	if e.ReqSize > 0 {
		a = append(a, semconv.HTTPRequestBodySize(int(e.ReqSize)))
	}
	status := d.serverStatus()
	if status > 0 {
		a = append(a, semconv.HTTPResponseStatusCode(status))
		if method != "HEAD" && !d.has(bpfNhFlagF_HIJACKED) {
			a = append(a, semconv.HTTPResponseBodySize(int(e.RespSize)))
		}
	}
	op.Attributes = d.answered(d.captured(a))
	d.serverOutcome(op, status)
	return op
}

// traceState is the tracestate header, "" when it is malformed: then it does not count.
// Of one that was too long to be kept whole, the last member may be torn and is left out.
func (d *decoder) traceState() string {
	s := d.str(bpfNhStrS_TRACESTATE)
	if s == "" {
		return ""
	}
	if len(s) >= strMax {
		s = s[:max(strings.LastIndexByte(s, ','), 0)]
	}
	if _, err := trace.ParseTraceState(s); err != nil {
		return ""
	}
	return s
}

// answered appends the configured response headers.
func (d *decoder) answered(a []attribute.KeyValue) []attribute.KeyValue {
	for i, name := range d.answers {
		if v := d.str(bpfNhStrS_ANSWER0 + bpfNhStr(i)); v != "" {
			a = append(a, attribute.StringSlice(name, []string{d.cfg.Redact.Value(v)}))
		}
	}
	return a
}

// captured appends the configured request headers.
func (d *decoder) captured(a []attribute.KeyValue) []attribute.KeyValue {
	for _, h := range d.capture {
		if v := d.str(bpfNhStr(h.Slot)); v != "" {
			a = append(a, attribute.StringSlice("http.request.header."+strings.ToLower(h.Name), []string{v}))
		}
	}
	return a
}

// serverStatus is the status code that was sent, 0 when none was.
func (d *decoder) serverStatus() int {
	status := int(d.ev.Status)
	unwound := d.has(bpfNhFlagF_PANIC) || d.has(bpfNhFlagF_GOEXIT) || d.has(bpfNhFlagF_HIJACKED)
	switch {
	case d.has(bpfNhFlagF_HIJACKED) && d.ev.Str[bpfNhStrS_UPGRADE].Len > 0 && status == 0:
		return 101 // written by the handler itself once it had the connection
	case unwound && !d.has(bpfNhFlagF_WROTE_HEADER):
		return 0
	case status == 0 && !unwound:
		return 200 // the handler wrote nothing: the server says 200
	case status < 100 || status > 999:
		return 0
	}
	return status
}

func (d *decoder) serverOutcome(op *telemetry.Operation, status int) {
	e := &d.ev
	fail := func(errorType, description string) {
		op.Status, op.StatusDescription = codes.Error, description
		op.Attributes = append(op.Attributes, semconv.ErrorTypeKey.String(errorType))
	}
	typ, msg := "", ""
	if d.has(bpfNhFlagF_SAW_PANIC) {
		typ = d.typeName(e.Hdr.ExeId, e.PanicType.TypeName, e.PanicType.Tflag)
		msg = goerror.PanicMessage(typ, e.PanicRaw, d.str(bpfNhStrS_PANIC_MSG))
	}
	switch {
	case d.has(bpfNhFlagF_PANIC) && msg == errAbortHandler:
		fail("http.ErrAbortHandler", "handler aborted the response")
		return
	case d.has(bpfNhFlagF_PANIC):
		if typ == "" {
			typ = "panic"
		}
		fail(typ, "handler panicked")
	case d.has(bpfNhFlagF_GOEXIT):
		fail("runtime.Goexit", "handler called runtime.Goexit")
		return
	case status >= 500:
		fail(strconv.Itoa(status), "")
	default:
		return
	}
	if typ == "" || !d.has(bpfNhFlagF_SAW_PANIC) {
		return
	}
	ev := telemetry.Event{Name: "exception", KtimeNs: e.EndNs, Attributes: []attribute.KeyValue{
		semconv.ExceptionType(typ)}}
	if msg != "" {
		ev.Attributes = append(ev.Attributes, semconv.ExceptionMessage(msg))
	}
	op.Events = append(op.Events, ev)
}

// client fills op from the record of a client attempt.
func (d *decoder) client(op *telemetry.Operation) *telemetry.Operation {
	e := &d.ev
	op.Kind = trace.SpanKindClient
	op.TraceState = d.traceState()
	method, a := d.method(op.Attributes[:0])
	op.Name = method
	scheme, host := d.name(bpfNhStrS_SCHEME), d.name(bpfNhStrS_HOST)
	a = append(a, semconv.URLFull(d.fullURL(scheme, host)))
	a = httpattr.ServerAddress(a, host, scheme)
	if name := d.peerName(host); name != "" {
		a = append(a, attribute.String("peer.service", name))
	}
	if e.PeerIpLen > 0 {
		if ip, ok := netip.AddrFromSlice(e.PeerIp[:e.PeerIpLen]); ok {
			a = append(a, semconv.NetworkPeerAddress(ip.Unmap().String()), semconv.NetworkPeerPort(int(e.PeerPort)))
		}
	}
	if e.ProtoMajor > 0 {
		a = append(a, semconv.NetworkProtocolVersion(d.version()))
	}
	if e.ReqSize > 0 {
		a = append(a, semconv.HTTPRequestBodySize(int(e.ReqSize)))
	}
	if e.Resend > 0 {
		a = append(a, semconv.HTTPRequestResendCount(int(e.Resend)))
	}
	a = d.connection(op, a)
	a = d.answered(d.captured(a))
	if d.has(bpfNhFlagF_ERROR) {
		info := d.errorInfo(e.Hdr.ExeId)
		typ, desc := info.Kind()
		a = append(a, semconv.ErrorTypeKey.String(typ))
		op.Status, op.StatusDescription = codes.Error, desc
		op.Attributes = a
		return op
	}
	if e.Status > 0 {
		a = append(a, semconv.HTTPResponseStatusCode(int(e.Status)))
	}
	if e.RespSize >= 0 && method != "HEAD" {
		a = append(a, semconv.HTTPResponseBodySize(int(e.RespSize)))
	}
	if e.Status >= 400 {
		a = append(a, semconv.ErrorTypeKey.String(strconv.Itoa(int(e.Status))))
		op.Status = codes.Error
	}
	op.Attributes = a
	return op
}

// peerName names the service at host[:port]; what was found is kept.
func (d *decoder) peerName(hostport string) string {
	if d.cfg.PeerName == nil {
		return ""
	}
	name, ok := d.peers[hostport]
	if !ok {
		host := hostport
		if h, _, err := net.SplitHostPort(hostport); err == nil {
			host = h
		}
		if len(d.peers) >= maxInterned {
			clear(d.peers)
		}
		name = d.cfg.PeerName(host)
		d.peers[hostport] = name
	}
	return name
}

// method appends the method attributes and returns the method of low cardinality.
func (d *decoder) method(a []attribute.KeyValue) (string, []attribute.KeyValue) {
	m := d.name(bpfNhStrS_METHOD)
	if m == "" {
		m = "GET" // what an empty method means to a client
	}
	return httpattr.Method(a, m)
}

// route returns the path part of ServeMux's pattern "[METHOD ][HOST]/[PATH]".
func (d *decoder) route() string {
	p := d.name(bpfNhStrS_ROUTE)
	i := strings.IndexByte(p, '/')
	if i < 0 {
		return ""
	}
	if d.has(bpfNhFlagF_ROUTE_ECHO) && d.ev.Status == 404 {
		// Some releases give the path of a request that has no route.
		path, _, _ := strings.Cut(d.str(bpfNhStrS_URI), "?")
		if path == "" || path == p {
			return ""
		}
	}
	return p[i:]
}

// target splits the request target; of an absolute one only path and query are kept.
// CONNECT's is an authority, OPTIONS's may be "*": neither has a path.
func (d *decoder) target(method string) (path, query string) {
	t := d.str(bpfNhStrS_URI)
	if t == "*" || method == "CONNECT" && t != "" && t[0] != '/' {
		return "", ""
	}
	if i := strings.Index(t, "://"); i > 0 && t[0] != '/' {
		rest := t[i+3:]
		j := strings.IndexAny(rest, "/?")
		if j < 0 {
			return "/", ""
		}
		t = rest[j:]
	}
	path, query, _ = strings.Cut(t, "?")
	return path, query
}

func (d *decoder) version() string {
	switch e := &d.ev; {
	case e.ProtoMajor == 1 && e.ProtoMinor == 1:
		return "1.1"
	case e.ProtoMajor == 2:
		return "2"
	case e.ProtoMajor == 1:
		return "1.0"
	default:
		return strconv.Itoa(int(e.ProtoMajor))
	}
}

// fullURL puts the URL together with credentials and secret query values hidden.
func (d *decoder) fullURL(scheme, host string) string {
	path := d.str(bpfNhStrS_URI)
	if !d.has(bpfNhFlagF_RAW_PATH) {
		path = (&url.URL{Path: path}).EscapedPath()
	}
	var b strings.Builder
	query := d.bytes(bpfNhStrS_QUERY)
	b.Grow(len(scheme) + len(host) + len(path) + len(query) + 32)
	b.WriteString(scheme)
	b.WriteString("://")
	if d.has(bpfNhFlagF_USERINFO) {
		b.WriteString("REDACTED:REDACTED@")
	}
	b.WriteString(host)
	if path != "" && path[0] != '/' {
		b.WriteByte('/')
	}
	b.WriteString(path)
	if len(query) > 0 {
		b.WriteByte('?')
		b.WriteString(d.cfg.Redact.Query(string(query)))
	}
	return b.String()
}

// hostPort is an address as it was split; port is 0 where there is none.
type hostPort struct {
	host string
	port int
}

// remote splits RemoteAddr, which is the same for all requests of a connection.
func (d *decoder) remote() hostPort {
	b := d.bytes(bpfNhStrS_PEER)
	if p, ok := d.addrs[string(b)]; ok {
		return p
	}
	p := hostPort{host: string(b)}
	if host, port, err := net.SplitHostPort(p.host); err == nil {
		n, _ := strconv.ParseUint(port, 10, 16)
		p = hostPort{host, int(n)}
	}
	if len(d.addrs) >= maxInterned {
		clear(d.addrs)
	}
	d.addrs[string(b)] = p
	return p
}

// peer appends the peer's address and the client's: the first in X-Forwarded-For or
// Forwarded where there is one.
func (d *decoder) peer(a []attribute.KeyValue) []attribute.KeyValue {
	peer := d.remote()
	client := peer.host
	if fwd := httpattr.ForwardedFor(d.str(bpfNhStrS_FORWARDED), d.str(bpfNhStrS_FORWARDED_FOR)); fwd != "" {
		client = fwd
	}
	if client != "" {
		a = append(a, semconv.ClientAddress(client))
	}
	if peer.host != "" {
		a = append(a, semconv.NetworkPeerAddress(peer.host))
	}
	if peer.port != 0 {
		a = append(a, semconv.NetworkPeerPort(peer.port))
	}
	return a
}
