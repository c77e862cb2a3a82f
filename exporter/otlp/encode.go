package otlp

import (
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// scopePrefix and a probe's name are the instrumentation scope.
const scopePrefix = "github.com/tracer-agent/tracer-agent/probes/"

// Field numbers of opentelemetry/proto/trace/v1/trace.proto, common.proto and
// resource.proto, version 1.
const (
	resourceSpansResource, resourceSpansScopeSpans, resourceSpansSchemaURL = 1, 2, 3
	resourceAttributes                                                     = 1
	scopeSpansScope, scopeSpansSpans, scopeSpansSchemaURL                  = 1, 2, 3
	scopeName, scopeVersion                                                = 1, 2

	spanTraceID, spanSpanID, spanTraceState, spanParentSpanID = 1, 2, 3, 4
	spanName, spanKind, spanStart, spanEnd                    = 5, 6, 7, 8
	spanAttributes, spanEvents, spanStatus, spanFlags         = 9, 11, 15, 16
	eventTime, eventName, eventAttributes                     = 1, 2, 3
	statusMessage, statusCode                                 = 2, 3

	keyValueKey, keyValueValue                                = 1, 2
	anyString, anyBool, anyInt, anyDouble, anyArray, arrayAny = 1, 2, 3, 4, 5, 1
)

// encoder writes operations as OTLP protobuf by hand: building message structs
// and marshalling them by reflection costs eight times as much as all the rest
// of the agent's work on a span. The SDK's client wants message structs, so it
// gets ResourceSpans that hold everything as unknown fields, which protobuf
// copies to the wire as they are.
//
// All memory is used again for the next batch; the client has marshalled it by
// the time UploadTraces returns.
type encoder struct {
	version string

	groups []group // by first appearance
	items  []item
	arena  []byte // encoded spans, one after the other
	span   []byte // one message being built
	nested []byte // one message inside it
	list   []byte // one array value inside that

	wire []byte // all ResourceSpans, one after the other
	ends []int  // where each ends in wire
	out  []*tracepb.ResourceSpans
}

// group is the spans of one process and probe. A batch has few of them, so
// they are found by looking at each.
type group struct {
	resource    *telemetry.Resource
	probe       string
	first, last int // of items, chained by next
	size        int // of its spans with tags and lengths
	done        bool
}

// item is one encoded span in the arena.
type item struct{ from, to, next int }

func newEncoder(version string) *encoder { return &encoder{version: version} }

// encode takes as many operations from the front as fit into limit bytes, at
// least one, and says how many. The result is valid until the next call.
func (e *encoder) encode(ops []*telemetry.Operation, limit int) (out []*tracepb.ResourceSpans, n int) {
	e.groups, e.items, e.arena = e.groups[:0], e.items[:0], e.arena[:0]
	for _, op := range ops {
		e.appendSpan(op)
		if n > 0 && len(e.arena)+len(e.span) > limit {
			break
		}
		from := len(e.arena)
		e.arena = appendBytes(e.arena, scopeSpansSpans, e.span)
		e.add(op, item{from: from, to: len(e.arena), next: -1})
		n++
	}
	return e.assemble(), n
}

// add puts an item into its group.
func (e *encoder) add(op *telemetry.Operation, it item) {
	e.items = append(e.items, it)
	at := len(e.items) - 1
	for i := len(e.groups) - 1; i >= 0; i-- {
		if g := &e.groups[i]; g.resource == op.Resource && g.probe == op.Probe {
			e.items[g.last].next, g.last = at, at
			g.size += it.to - it.from
			return
		}
	}
	e.groups = append(e.groups, group{
		resource: op.Resource, probe: op.Probe, first: at, last: at, size: it.to - it.from,
	})
}

// assemble makes one ResourceSpans per process of its groups.
func (e *encoder) assemble() []*tracepb.ResourceSpans {
	e.wire, e.ends = e.wire[:0], e.ends[:0]
	for i := range e.groups {
		g := &e.groups[i]
		if g.done {
			continue
		}
		schema := ""
		e.span = e.span[:0]
		if g.resource != nil {
			schema = valid(g.resource.SchemaURL)
			e.span = e.appendAttributes(e.span, resourceAttributes, g.resource.Attributes)
		}
		e.wire = appendBytes(e.wire, resourceSpansResource, e.span)
		for j := i; j < len(e.groups); j++ {
			if other := &e.groups[j]; other.resource == g.resource {
				e.appendScope(other, schema)
				other.done = true
			}
		}
		e.wire = appendText(e.wire, resourceSpansSchemaURL, schema)
		e.ends = append(e.ends, len(e.wire))
	}
	from := 0
	for i, to := range e.ends {
		if i == len(e.out) {
			e.out = append(e.out, &tracepb.ResourceSpans{})
		}
		e.out[i].ProtoReflect().SetUnknown(e.wire[from:to:to])
		from = to
	}
	// The operations are not kept alive by what waits for the next batch.
	clear(e.groups)
	return e.out[:len(e.ends)]
}

// appendScope writes a ScopeSpans.
func (e *encoder) appendScope(g *group, schema string) {
	scope := appendText(e.nested[:0], scopeName, scopePrefix+g.probe)
	scope = appendText(scope, scopeVersion, e.version)
	e.nested = scope
	size := protowire.SizeTag(scopeSpansScope) + protowire.SizeBytes(len(scope)) + g.size
	if schema != "" {
		size += protowire.SizeTag(scopeSpansSchemaURL) + protowire.SizeBytes(len(schema))
	}
	b := protowire.AppendTag(e.wire, resourceSpansScopeSpans, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = appendBytes(b, scopeSpansScope, scope)
	for i := g.first; i >= 0; i = e.items[i].next {
		b = append(b, e.arena[e.items[i].from:e.items[i].to]...)
	}
	e.wire = appendText(b, scopeSpansSchemaURL, schema)
}

// appendSpan builds a Span in e.span.
func (e *encoder) appendSpan(op *telemetry.Operation) {
	b := e.span[:0]
	b = appendBytes(b, spanTraceID, op.TraceID[:])
	b = appendBytes(b, spanSpanID, op.SpanID[:])
	b = appendText(b, spanTraceState, op.TraceState)
	if op.ParentSpanID.IsValid() {
		b = appendBytes(b, spanParentSpanID, op.ParentSpanID[:])
	}
	b = appendText(b, spanName, op.Name)
	b = appendVarint(b, spanKind, uint64(kind(op.Kind)))
	b = appendFixed64(b, spanStart, nano(op.Start))
	b = appendFixed64(b, spanEnd, nano(op.End))
	b = e.appendAttributes(b, spanAttributes, op.Attributes)
	for i := range op.Events {
		ev := &op.Events[i]
		n := appendFixed64(e.nested[:0], eventTime, nano(ev.Time))
		n = appendText(n, eventName, ev.Name)
		e.nested = e.appendAttributes(n, eventAttributes, ev.Attributes)
		b = appendBytes(b, spanEvents, e.nested)
	}
	status := appendText(e.nested[:0], statusMessage, op.StatusDescription)
	if code := otlpStatus(op.Status); code != 0 {
		status = appendVarint(status, statusCode, uint64(code))
	}
	e.nested = status
	b = appendBytes(b, spanStatus, status)
	b = protowire.AppendTag(b, spanFlags, protowire.Fixed32Type)
	e.span = protowire.AppendFixed32(b, flags(op))
}

func flags(op *telemetry.Operation) uint32 {
	f := uint32(op.Flags) | uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	if op.ParentRemote {
		f |= uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	return f
}

func kind(k trace.SpanKind) tracepb.Span_SpanKind {
	switch k {
	case trace.SpanKindInternal:
		return tracepb.Span_SPAN_KIND_INTERNAL
	case trace.SpanKindServer:
		return tracepb.Span_SPAN_KIND_SERVER
	case trace.SpanKindClient:
		return tracepb.Span_SPAN_KIND_CLIENT
	case trace.SpanKindProducer:
		return tracepb.Span_SPAN_KIND_PRODUCER
	case trace.SpanKindConsumer:
		return tracepb.Span_SPAN_KIND_CONSUMER
	default:
		return tracepb.Span_SPAN_KIND_UNSPECIFIED
	}
}

func otlpStatus(c codes.Code) tracepb.Status_StatusCode {
	switch c {
	case codes.Ok:
		return tracepb.Status_STATUS_CODE_OK
	case codes.Error:
		return tracepb.Status_STATUS_CODE_ERROR
	default:
		return tracepb.Status_STATUS_CODE_UNSET
	}
}

func nano(t time.Time) uint64 { return uint64(max(0, t.UnixNano())) }

// appendAttributes writes a repeated KeyValue field. Most of them are shorter
// than 128 bytes, so that every length is one byte, like every tag here.
func (e *encoder) appendAttributes(b []byte, field protowire.Number, attrs []attribute.KeyValue) []byte {
	for i := range attrs {
		key := valid(string(attrs[i].Key))
		var v anyValue
		v.read(e, attrs[i].Value)
		size := v.size()
		if inner := 4 + len(key) + size; inner < 128 && key != "" {
			b = append(b, tag(field, protowire.BytesType), byte(inner), tag(keyValueKey, protowire.BytesType), byte(len(key)))
			b = append(b, key...)
			b = append(b, tag(keyValueValue, protowire.BytesType), byte(size))
			b = v.append(b)
			continue
		}
		inner := 1 + protowire.SizeBytes(size)
		if key != "" {
			inner += 1 + protowire.SizeBytes(len(key))
		}
		b = append(b, tag(field, protowire.BytesType))
		b = protowire.AppendVarint(b, uint64(inner))
		b = appendText(b, keyValueKey, key)
		b = append(b, tag(keyValueValue, protowire.BytesType))
		b = protowire.AppendVarint(b, uint64(size))
		b = v.append(b)
	}
	return b
}

// tag is a field's tag in one byte, for field numbers below 16.
func tag(field protowire.Number, kind protowire.Type) byte { return byte(field)<<3 | byte(kind) }

// anyValue is an AnyValue before it is written: one field of three shapes.
type anyValue struct {
	field protowire.Number
	kind  protowire.Type
	num   uint64
	str   string
	raw   []byte
}

// read takes a value apart; a list is encoded into e.list at once.
func (a *anyValue) read(e *encoder, v attribute.Value) {
	switch v.Type() {
	case attribute.BOOL:
		a.field, a.kind, a.num = anyBool, protowire.VarintType, protowire.EncodeBool(v.AsBool())
	case attribute.INT64:
		a.field, a.kind, a.num = anyInt, protowire.VarintType, uint64(v.AsInt64())
	case attribute.FLOAT64:
		a.field, a.kind, a.num = anyDouble, protowire.Fixed64Type, math.Float64bits(v.AsFloat64())
	case attribute.STRING:
		a.text(v.AsString())
	case attribute.BOOLSLICE:
		readList(a, e, v.AsBoolSlice(), attribute.BoolValue)
	case attribute.INT64SLICE:
		readList(a, e, v.AsInt64Slice(), attribute.Int64Value)
	case attribute.FLOAT64SLICE:
		readList(a, e, v.AsFloat64Slice(), attribute.Float64Value)
	case attribute.STRINGSLICE:
		readList(a, e, v.AsStringSlice(), attribute.StringValue)
	default:
		// A type this version does not know keeps its text.
		a.text(v.String())
	}
}

func (a *anyValue) text(s string) {
	a.field, a.kind, a.str = anyString, protowire.BytesType, valid(s)
}

// readList: items are of basic types, so e.list is not needed twice at once.
func readList[T any](a *anyValue, e *encoder, items []T, wrap func(T) attribute.Value) {
	b := e.list[:0]
	for _, item := range items {
		var one anyValue
		one.read(e, wrap(item))
		b = protowire.AppendTag(b, arrayAny, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(one.size()))
		b = one.append(b)
	}
	e.list = b
	a.field, a.kind, a.raw = anyArray, protowire.BytesType, b
}

func (a *anyValue) size() int {
	const n = 1 // the tag
	switch a.kind {
	case protowire.VarintType:
		return n + protowire.SizeVarint(a.num)
	case protowire.Fixed64Type:
		return n + protowire.SizeFixed64()
	default:
		return n + protowire.SizeBytes(len(a.str)+len(a.raw))
	}
}

func (a *anyValue) append(b []byte) []byte {
	b = append(b, tag(a.field, a.kind))
	switch a.kind {
	case protowire.VarintType:
		return protowire.AppendVarint(b, a.num)
	case protowire.Fixed64Type:
		return protowire.AppendFixed64(b, a.num)
	default:
		b = protowire.AppendVarint(b, uint64(len(a.str)+len(a.raw)))
		b = append(b, a.str...)
		return append(b, a.raw...)
	}
}

// appendText writes a string field; an empty one is left out, as proto3 does.
func appendText(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, valid(s))
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendBytes(b, v)
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}

func appendFixed64(b []byte, field protowire.Number, v uint64) []byte {
	b = protowire.AppendTag(b, field, protowire.Fixed64Type)
	return protowire.AppendFixed64(b, v)
}

// valid replaces invalid UTF-8: receivers refuse a whole batch for one such
// string, and what a client sends to a watched program may hold anything.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
