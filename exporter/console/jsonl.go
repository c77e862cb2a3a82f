package console

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"math"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// JSON prints one JSON object per span and line. Use NewJSON.
type JSON struct {
	w   io.Writer
	buf []byte
}

var (
	_ exporter.Exporter = (*JSON)(nil)
	_ exporter.Prompt   = (*JSON)(nil)
)

// NewJSON prints to w, usually Stdout().
func NewJSON(w io.Writer) *JSON { return &JSON{w: w} }

// Name implements exporter.Exporter.
func (*JSON) Name() string { return "json" }

// MaxDelay implements exporter.Prompt.
func (*JSON) MaxDelay() time.Duration { return promptDelay }

// Shutdown implements exporter.Exporter.
func (*JSON) Shutdown(context.Context) error { return nil }

// ExportSpans prints the batch with one write.
func (j *JSON) ExportSpans(_ context.Context, ops []*telemetry.Operation) error {
	j.buf = j.buf[:0]
	for _, op := range ops {
		j.buf = appendSpan(j.buf, op)
		j.buf = append(j.buf, '\n')
	}
	return write(j.w, j.buf)
}

// appendSpan writes the object by hand: the order of keys is fixed, and
// attributes keep the order in which they were set.
func appendSpan(b []byte, op *telemetry.Operation) []byte {
	b = append(b, `{"trace_id":"`...)
	b = hex.AppendEncode(b, op.TraceID[:])
	b = append(b, `","span_id":"`...)
	b = hex.AppendEncode(b, op.SpanID[:])
	b = append(b, '"')
	if op.ParentSpanID.IsValid() {
		b = append(b, `,"parent_span_id":"`...)
		b = hex.AppendEncode(b, op.ParentSpanID[:])
		b = append(b, `","parent_remote":`...)
		b = strconv.AppendBool(b, op.ParentRemote)
	}
	if op.TraceState != "" {
		b = appendField(b, "trace_state", op.TraceState)
	}
	b = append(b, `,"flags":`...)
	b = strconv.AppendUint(b, uint64(op.Flags), 10)
	b = appendField(b, "name", op.Name)
	b = appendField(b, "kind", op.Kind.String())
	b = appendTime(append(b, `,"start":`...), op.Start)
	b = appendTime(append(b, `,"end":`...), op.End)
	b = append(b, `,"duration_ns":`...)
	b = strconv.AppendInt(b, int64(op.End.Sub(op.Start)), 10)
	b = appendField(b, "status", statusText(op.Status))
	if op.StatusDescription != "" {
		b = appendField(b, "status_description", op.StatusDescription)
	}
	b = appendField(b, "probe", op.Probe)
	b = append(b, `,"attributes":`...)
	b = appendMap(b, op.Attributes)
	b = append(b, `,"events":[`...)
	for i := range op.Events {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendEvent(b, &op.Events[i])
	}
	b = append(b, `],"resource":`...)
	if op.Resource == nil {
		b = append(b, `{}`...)
	} else {
		b = appendMap(b, op.Resource.Attributes)
	}
	return append(b, '}')
}

func statusText(c codes.Code) string {
	switch c {
	case codes.Error:
		return "error"
	case codes.Ok:
		return "ok"
	default:
		return "unset"
	}
}

func appendEvent(b []byte, ev *telemetry.Event) []byte {
	b = appendString(append(b, `{"name":`...), ev.Name)
	b = appendTime(append(b, `,"time":`...), ev.Time)
	b = append(b, `,"attributes":`...)
	return append(appendMap(b, ev.Attributes), '}')
}

func appendField(b []byte, key, value string) []byte {
	b = append(b, `,"`...)
	b = append(b, key...)
	return appendString(append(b, `":`...), value)
}

func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

func appendMap(b []byte, attrs []attribute.KeyValue) []byte {
	b = append(b, '{')
	for i, kv := range attrs {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, string(kv.Key))
		b = append(b, ':')
		b = appendValue(b, kv.Value)
	}
	return append(b, '}')
}

func appendValue(b []byte, v attribute.Value) []byte {
	switch v.Type() {
	case attribute.BOOL:
		return strconv.AppendBool(b, v.AsBool())
	case attribute.INT64:
		return strconv.AppendInt(b, v.AsInt64(), 10)
	case attribute.FLOAT64:
		return appendFloat(b, v.AsFloat64())
	case attribute.BOOLSLICE:
		return appendList(b, v.AsBoolSlice(), strconv.AppendBool)
	case attribute.INT64SLICE:
		return appendList(b, v.AsInt64Slice(), func(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) })
	case attribute.FLOAT64SLICE:
		return appendList(b, v.AsFloat64Slice(), appendFloat)
	case attribute.STRINGSLICE:
		return appendList(b, v.AsStringSlice(), appendString)
	default:
		return appendString(b, v.String())
	}
}

// appendFloat: JSON has no NaN and no infinity; they become texts.
func appendFloat(b []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return appendString(b, strconv.FormatFloat(f, 'g', -1, 64))
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}

func appendList[T any](b []byte, items []T, one func([]byte, T) []byte) []byte {
	b = append(b, '[')
	for i, item := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = one(b, item)
	}
	return append(b, ']')
}

// appendString quotes s; anything but plain ASCII is left to encoding/json,
// which also replaces invalid UTF-8.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x7f {
			quoted, err := json.Marshal(s)
			if err != nil { // a string always has a JSON form
				return append(b, `""`...)
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
