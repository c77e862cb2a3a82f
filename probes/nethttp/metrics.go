package nethttp

import (
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/httpattr"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// The metrics of this probe, for every request, sampled or not.
var (
	serverDuration     = httpattr.ServerDuration
	serverRequestSize  = httpattr.ServerRequestSize
	serverResponseSize = httpattr.ServerResponseSize
	clientDuration     = &telemetry.Instrument{
		Name: "http.client.request.duration", Unit: "s", Kind: telemetry.Histogram,
		Description: "Duration of HTTP client requests.", Bounds: telemetry.DurationBounds,
	}
	clientRequestSize  = httpattr.ClientRequestSize
	clientResponseSize = httpattr.ClientResponseSize
)

// CountedAttributes are what operations that are only counted have: the attributes of
// their metrics.
var CountedAttributes = []string{
	string(semconv.HTTPRequestMethodKey), string(semconv.URLSchemeKey), string(semconv.HTTPRouteKey),
	string(semconv.HTTPResponseStatusCodeKey), string(semconv.ErrorTypeKey), string(semconv.NetworkProtocolVersionKey),
	string(semconv.ServerAddressKey), string(semconv.ServerPortKey),
}

// setKey is what the attributes of a request's metrics are made of.
type setKey struct {
	kind                         trace.SpanKind
	method, route, scheme, error string
	host                         string // client: host[:port]
	status                       int
	major, minor                 uint8
}

// maxSets bounds the sets kept; what is beyond is made anew.
const maxSets = 8192

func (d *decoder) sampled() bool { return d.ev.TraceFlags&uint8(trace.FlagsSampled) != 0 }

// counted is an operation that is no span. It is the decoder's own, used again.
func (d *decoder) counted(rec event.Record, ms []telemetry.Measurement, kind trace.SpanKind) *telemetry.Operation {
	d.only = telemetry.Operation{
		Process: telemetry.ProcessKey{PID: rec.PID, StartNs: rec.ProcStartNs},
		Probe:   "nethttp", MetricsOnly: true, Measurements: ms,
		Kind: kind, StartKtimeNs: d.ev.StartNs, EndKtimeNs: d.ev.EndNs,
	}
	if ms[0].Attributes.HasValue(semconv.ErrorTypeKey) {
		d.only.Status = codes.Error
	}
	return &d.only
}

func (d *decoder) serverMetrics(ms []telemetry.Measurement) []telemetry.Measurement {
	key := setKey{
		kind: trace.SpanKindServer, method: d.lowMethod(), route: d.route(), scheme: "http",
		status: d.serverStatus(), major: d.ev.ProtoMajor, minor: d.ev.ProtoMinor,
	}
	if d.has(bpfNhFlagF_TLS) {
		key.scheme = "https"
	}
	var outcome telemetry.Operation
	if d.has(bpfNhFlagF_PANIC) || d.has(bpfNhFlagF_GOEXIT) || key.status >= 500 {
		d.serverOutcome(&outcome, key.status)
		key.error = errorType(&outcome)
	}
	withResponse := key.status > 0 && key.method != "HEAD" && !d.has(bpfNhFlagF_HIJACKED)
	return d.measure(ms, key, serverDuration, serverRequestSize, serverResponseSize, withResponse)
}

func (d *decoder) clientMetrics(ms []telemetry.Measurement) []telemetry.Measurement {
	key := setKey{
		kind: trace.SpanKindClient, method: d.lowMethod(), scheme: d.name(bpfNhStrS_SCHEME), host: d.name(bpfNhStrS_HOST),
		status: int(d.ev.Status), major: d.ev.ProtoMajor, minor: d.ev.ProtoMinor,
	}
	switch {
	case d.has(bpfNhFlagF_ERROR):
		key.status = 0
		info := d.errorInfo(d.ev.Hdr.ExeId)
		key.error, _ = info.Kind()
	case key.status >= 400:
		key.error = strconv.Itoa(key.status)
	}
	return d.measure(ms, key, clientDuration, clientRequestSize, clientResponseSize, d.ev.RespSize >= 0 && key.error == "" && key.method != "HEAD")
}

func (d *decoder) measure(ms []telemetry.Measurement, key setKey, duration, request, response *telemetry.Instrument,
	withResponse bool,
) []telemetry.Measurement {
	set := d.set(key)
	e := &d.ev
	seconds := 0.0
	if e.EndNs > e.StartNs {
		seconds = float64(e.EndNs-e.StartNs) / 1e9
	}
	ms = append(ms, telemetry.Measurement{Instrument: duration, Value: seconds, Attributes: set})
	if e.ReqSize >= 0 {
		ms = append(ms, telemetry.Measurement{Instrument: request, Value: float64(e.ReqSize), Attributes: set})
	}
	if withResponse && e.RespSize >= 0 {
		ms = append(ms, telemetry.Measurement{Instrument: response, Value: float64(e.RespSize), Attributes: set})
	}
	return ms
}

// set finds or makes the attributes, which are few: a set costs more than a lookup.
func (d *decoder) set(key setKey) attribute.Set {
	if s, ok := d.sets[key]; ok {
		return s
	}
	a := []attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(key.method), semconv.URLScheme(key.scheme),
	}
	if key.method == "HTTP" {
		a[0] = semconv.HTTPRequestMethodOther
	}
	if key.route != "" {
		a = append(a, semconv.HTTPRoute(key.route))
	}
	if key.status > 0 {
		a = append(a, semconv.HTTPResponseStatusCode(key.status))
	}
	if key.error != "" {
		a = append(a, semconv.ErrorTypeKey.String(key.error))
	}
	if key.major > 0 {
		a = append(a, semconv.NetworkProtocolVersion(d.version()))
	}
	if key.kind == trace.SpanKindClient {
		a = httpattr.ServerAddress(a, key.host, key.scheme)
	}
	s := attribute.NewSet(a...)
	if len(d.sets) >= maxSets {
		clear(d.sets)
	}
	d.sets[key] = s
	return s
}

// lowMethod is the method, "HTTP" for one that is not known.
func (d *decoder) lowMethod() string {
	switch m := d.name(bpfNhStrS_METHOD); {
	case m == "":
		return "GET" // what an empty method means to a client
	case httpattr.Known(m):
		return m
	default:
		return "HTTP"
	}
}

func errorType(op *telemetry.Operation) string {
	if op.Status != codes.Error {
		return ""
	}
	for _, kv := range op.Attributes {
		if kv.Key == semconv.ErrorTypeKey {
			return kv.Value.AsString()
		}
	}
	return ""
}
