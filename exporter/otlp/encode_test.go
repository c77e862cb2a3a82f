package otlp

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)

var shop = &telemetry.Resource{
	SchemaURL:  "https://opentelemetry.io/schemas/1.43.0",
	Attributes: []attribute.KeyValue{attribute.String("service.name", "shop"), attribute.Int("process.pid", 42)},
}

// operations makes n spans with what a server span usually carries.
func operations(n int) []*telemetry.Operation {
	out := make([]*telemetry.Operation, n)
	for i := range out {
		op := &telemetry.Operation{
			Probe: "nethttp", Kind: trace.SpanKindServer, Name: "GET /orders/{id}", Resource: shop, Flags: 1,
			Start: epoch.Add(time.Duration(i) * time.Millisecond), End: epoch.Add(time.Duration(i)*time.Millisecond + 1500*time.Microsecond),
			Attributes: []attribute.KeyValue{
				attribute.String("http.request.method", "GET"), attribute.String("http.route", "/orders/{id}"),
				attribute.String("url.path", fmt.Sprintf("/orders/%d", i)), attribute.String("url.query", "page=2&size=50"),
				attribute.String("url.scheme", "http"), attribute.Int("http.response.status_code", 200),
				attribute.String("server.address", "shop.example"), attribute.Int("server.port", 8080),
				attribute.String("network.peer.address", "10.1.2.3"), attribute.Int("network.peer.port", 40000+i%1000),
				attribute.String("client.address", "10.1.2.3"), attribute.String("network.protocol.version", "1.1"),
				attribute.String("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64) Chrome/120.0"),
				attribute.Int("http.response.body.size", 512+i),
			},
		}
		copy(op.TraceID[:], fmt.Sprintf("%016x", i+1))
		copy(op.SpanID[:], fmt.Sprintf("%08x", i+1))
		out[i] = op
	}
	return out
}

// decode is what a receiver does.
func decode(t testing.TB, spans []*tracepb.ResourceSpans) []*tracepb.ResourceSpans {
	t.Helper()
	raw, err := proto.Marshal(&coltracepb.ExportTraceServiceRequest{ResourceSpans: spans})
	if err != nil {
		t.Fatal(err)
	}
	var back coltracepb.ExportTraceServiceRequest
	if err := proto.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	return back.ResourceSpans
}

func TestEncodeGroups(t *testing.T) {
	ops := operations(6)
	bank := &telemetry.Resource{Attributes: []attribute.KeyValue{attribute.String("service.name", "bank")}}
	ops[1].Resource, ops[2].Resource = bank, bank
	ops[2].Probe, ops[4].Probe = "sql", "sql"
	ops[5].Resource = nil
	e := newEncoder("1.2.3")
	for round := range 2 { // the second round overwrites the first one's memory
		got, n := e.encode(ops, 1<<20)
		if n != len(ops) {
			t.Fatalf("encoded %d of %d", n, len(ops))
		}
		var layout []string
		for _, rs := range decode(t, got) {
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					layout = append(layout, fmt.Sprintf("%d %s %s %x", len(rs.Resource.Attributes), ss.Scope.Name, ss.Scope.Version, s.SpanId[6:]))
				}
			}
		}
		const p = "github.com/tracer-agent/tracer-agent/probes/"
		want := []string{
			"2 " + p + "nethttp 1.2.3 3031", "2 " + p + "nethttp 1.2.3 3034", "2 " + p + "sql 1.2.3 3035",
			"1 " + p + "nethttp 1.2.3 3032", "1 " + p + "sql 1.2.3 3033", "0 " + p + "nethttp 1.2.3 3036",
		}
		if diff := cmp.Diff(want, layout); diff != "" {
			t.Errorf("round %d: %s", round, diff)
		}
	}
}

// TestEncodeReuse encodes a full batch, then a smaller one with less in each
// span: nothing of the first may show.
func TestEncodeReuse(t *testing.T) {
	rich := operations(600)
	for _, op := range rich {
		op.ParentSpanID, op.ParentRemote, op.TraceState = op.SpanID, true, "a=b"
		op.Status, op.StatusDescription = codes.Error, "boom"
		op.Events = []telemetry.Event{{Name: "exception", Time: epoch, Attributes: op.Attributes[:2]}}
	}
	poor := operations(3)
	for _, op := range poor {
		op.Attributes = op.Attributes[5:6]
	}
	used := newEncoder("v")
	used.encode(rich, 1<<30)
	got, _ := used.encode(poor, 1<<30)
	want, _ := newEncoder("v").encode(poor, 1<<30)
	if diff := cmp.Diff(decode(t, want), decode(t, got), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestEncodeValues(t *testing.T) {
	op := operations(1)[0]
	op.Name = "bad \xff name"
	op.Attributes = []attribute.KeyValue{
		attribute.String("s", "\xc3\x28"), attribute.Bool("b", true), attribute.Float64("f", 1.5), attribute.Int64("i", -1),
		attribute.StringSlice("ss", []string{"a", "\xff"}), attribute.Int64Slice("is", []int64{1, 2}),
		attribute.BoolSlice("bs", []bool{false}), attribute.Float64Slice("fs", []float64{0.5}), attribute.String("k\xff", ""),
	}
	spans, _ := newEncoder("v").encode([]*telemetry.Operation{op}, 1<<20)
	s := decode(t, spans)[0].ScopeSpans[0].Spans[0]
	got := map[string]string{"name": s.Name}
	for _, kv := range s.Attributes {
		got[kv.Key] = strings.ReplaceAll(fmt.Sprint(kv.Value), "  ", " ")
	}
	want := map[string]string{
		"name": "bad \uFFFD name", "s": `string_value:"` + "\uFFFD" + `("`, "b": "bool_value:true", "f": "double_value:1.5", "i": "int_value:-1",
		"ss": `array_value:{values:{string_value:"a"} values:{string_value:"` + "\uFFFD" + `"}}`,
		"is": "array_value:{values:{int_value:1} values:{int_value:2}}", "bs": "array_value:{values:{bool_value:false}}",
		"fs": "array_value:{values:{double_value:0.5}}", "k\uFFFD": `string_value:""`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestEncodeSpan compares every field with the generated types' own encoding.
func TestEncodeSpan(t *testing.T) {
	op := operations(1)[0]
	op.ParentSpanID, op.ParentRemote, op.TraceState, op.Flags = trace.SpanID{9}, true, "vendor=1,b=2", 3
	op.Kind, op.Status, op.StatusDescription = trace.SpanKindClient, codes.Error, "refused"
	op.Attributes = []attribute.KeyValue{attribute.String("a", "x"), attribute.Int("n", 300)}
	op.Events = []telemetry.Event{
		{Name: "exception", Time: epoch, Attributes: op.Attributes[:1]},
		{Time: epoch.Add(1)},
	}
	spans, _ := newEncoder("1.2.3").encode([]*telemetry.Operation{op}, 1<<20)
	text := func(key, v string) *commonpb.KeyValue {
		return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: v}}}
	}
	number := func(key string, v int64) *commonpb.KeyValue {
		return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: v}}}
	}
	want := []*tracepb.ResourceSpans{{
		Resource:  &resourcepb.Resource{Attributes: []*commonpb.KeyValue{text("service.name", "shop"), number("process.pid", 42)}},
		SchemaUrl: "https://opentelemetry.io/schemas/1.43.0",
		ScopeSpans: []*tracepb.ScopeSpans{{
			Scope:     &commonpb.InstrumentationScope{Name: "github.com/tracer-agent/tracer-agent/probes/nethttp", Version: "1.2.3"},
			SchemaUrl: "https://opentelemetry.io/schemas/1.43.0",
			Spans: []*tracepb.Span{{
				TraceId: op.TraceID[:], SpanId: op.SpanID[:], ParentSpanId: []byte{9, 0, 0, 0, 0, 0, 0, 0}, TraceState: "vendor=1,b=2",
				Flags: 0x303, Name: "GET /orders/{id}", Kind: tracepb.Span_SPAN_KIND_CLIENT,
				StartTimeUnixNano: uint64(epoch.UnixNano()), EndTimeUnixNano: uint64(epoch.Add(1500 * time.Microsecond).UnixNano()),
				Attributes: []*commonpb.KeyValue{text("a", "x"), number("n", 300)},
				Events: []*tracepb.Span_Event{
					{Name: "exception", TimeUnixNano: uint64(epoch.UnixNano()), Attributes: []*commonpb.KeyValue{text("a", "x")}},
					{TimeUnixNano: uint64(epoch.UnixNano() + 1)},
				},
				Status: &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: "refused"},
			}},
		}},
	}}
	if diff := cmp.Diff(want, decode(t, spans), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// TestEncodeLimit: a batch that is too large for one request is cut, a span
// that is too large by itself is sent alone.
func TestEncodeLimit(t *testing.T) {
	ops := operations(10)
	ops[5].Attributes = append(ops[5].Attributes, attribute.String("big", strings.Repeat("x", 5000)))
	e := newEncoder("v")
	var sizes []int
	for rest := ops; len(rest) > 0; {
		spans, n := e.encode(rest, 2000)
		if size := proto.Size(&tracepb.TracesData{ResourceSpans: spans}); n > 1 && size > 2400 {
			t.Errorf("%d spans make %d bytes", n, size)
		}
		sizes = append(sizes, n)
		rest = rest[n:]
	}
	if diff := cmp.Diff([]int{3, 2, 1, 3, 1}, sizes); diff != "" {
		t.Error(diff)
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("name", "key", "value", "state", int64(-5), []byte{1})
	f.Add("", "", "", "", int64(0), []byte{})
	f.Add("\xff", "\x80", "\xed\xa0\x80", "\xfe", int64(1<<62), []byte("\xff\x00"))
	f.Fuzz(func(t *testing.T, name, key, value, state string, n int64, list []byte) {
		op := operations(1)[0]
		op.Name, op.TraceState, op.Probe, op.StatusDescription = name, state, key, value
		op.Start, op.End = time.Unix(0, n), time.Unix(0, -n)
		op.Attributes = []attribute.KeyValue{
			attribute.String(key, value), attribute.Int64(name, n), attribute.StringSlice(key, []string{string(list), value}),
		}
		op.Events = []telemetry.Event{{Name: value, Attributes: op.Attributes}}
		op.Resource = &telemetry.Resource{SchemaURL: state, Attributes: op.Attributes}
		spans, _ := newEncoder(value).encode([]*telemetry.Operation{op}, 0)
		got := decode(t, spans)[0].ScopeSpans[0].Spans[0]
		if got.Name != valid(name) || got.TraceState != valid(state) {
			t.Errorf("name %q, trace state %q", got.Name, got.TraceState)
		}
		for _, attrs := range [][]*commonpb.KeyValue{got.Attributes, got.Events[0].Attributes} {
			if len(attrs) != 3 || attrs[0].Key != valid(key) || attrs[0].Value.GetStringValue() != valid(value) ||
				attrs[1].Value.GetIntValue() != n || attrs[2].Value.GetArrayValue().Values[0].GetStringValue() != valid(string(list)) {
				t.Errorf("attributes %v", attrs)
			}
		}
	})
}
