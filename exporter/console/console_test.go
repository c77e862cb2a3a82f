package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
}

func service(name string) *telemetry.Resource {
	return &telemetry.Resource{Attributes: []attribute.KeyValue{
		attribute.Int("process.pid", 42), attribute.String("service.name", name),
	}}
}

var (
	epoch        = time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)
	bot, backend = service("bot"), service("backend")
)

// op makes a span; times are in microseconds from epoch.
func op(tr, id, parent byte, res *telemetry.Resource, kind trace.SpanKind, name string, from, to int, attrs ...attribute.KeyValue) *telemetry.Operation {
	return &telemetry.Operation{
		Probe: "nethttp", TraceID: trace.TraceID{15: tr}, SpanID: trace.SpanID{7: id}, ParentSpanID: trace.SpanID{7: parent}, Flags: 1,
		Resource: res, Kind: kind, Name: name, Attributes: attrs,
		Start: epoch.Add(time.Duration(from) * time.Microsecond), End: epoch.Add(time.Duration(to) * time.Microsecond),
	}
}

// sample is two traces of a bot, a backend and a broker, as they end.
func sample() []*telemetry.Operation {
	ok, bad := attribute.Int("http.response.status_code", 200), attribute.Int("http.response.status_code", 503)
	method := attribute.String("http.request.method", "POST")
	ops := []*telemetry.Operation{
		op(1, 4, 3, backend, trace.SpanKindClient, "GET", 2000, 5500, method, ok, attribute.String("url.full", "https://broker.example/quote?symbol=X&token=REDACTED")),
		op(1, 5, 3, backend, trace.SpanKindClient, "POST", 6000, 16000, method, attribute.String("error.type", "503"), bad),
		op(1, 3, 2, backend, trace.SpanKindServer, "POST /signals", 1000, 17000, method, attribute.String("http.route", "/signals"),
			attribute.String("url.scheme", "http"), attribute.String("server.address", "::1"), attribute.Int("server.port", 8080),
			attribute.String("client.address", "::1"), attribute.String("user_agent.original", "bot"),
			attribute.String("x.note", "bot/1.0 "+strings.Repeat("x", 80)), bad),
		op(1, 2, 0, bot, trace.SpanKindClient, "POST", 0, 18000, method, bad),
		op(2, 6, 9, backend, trace.SpanKindServer, "GET /health", 30000, 30042, ok),
		op(2, 7, 8, backend, trace.SpanKindInternal, "evil\x1b[31m\nname \xff\u202e", 30010, 130e6, attribute.String("empty", ""), attribute.String("two words", "a b")),
	}
	ops[1].Status, ops[2].Status = codes.Error, codes.Error
	ops[2].Events = []telemetry.Event{{Name: "exception", Time: epoch, Attributes: []attribute.KeyValue{
		attribute.String("exception.type", "runtime.Error"), attribute.String("exception.message", "a \"b\"\n\xff"),
	}}}
	ops[3].Status, ops[3].StatusDescription = codes.Error, "broker says no"
	ops[4].ParentRemote, ops[4].TraceState, ops[4].Status = true, "vendor=1", codes.Ok
	ops[5].Resource = nil
	return ops
}

func TestLinesGolden(t *testing.T) {
	for _, color := range []bool{false, true} {
		var out bytes.Buffer
		if err := New(&out, Options{Color: color, Location: time.UTC}).ExportSpans(context.Background(), sample()); err != nil {
			t.Fatal(err)
		}
		golden(t, map[bool]string{false: "lines.golden", true: "lines-color.golden"}[color], out.Bytes())
		if n := strings.Count(out.String(), "\n"); n != len(sample()) {
			t.Errorf("%d lines for %d spans", n, len(sample()))
		}
	}
}

func TestJSONGolden(t *testing.T) {
	ops := sample()
	ops[4].Attributes = []attribute.KeyValue{
		attribute.Bool("b", true), attribute.Float64("f", 0.1), attribute.Float64("nan", math.NaN()), attribute.Float64("inf", math.Inf(-1)),
		attribute.Float64("big", 1e300), attribute.StringSlice("ss", []string{"a", "\""}), attribute.BoolSlice("bs", []bool{true, false}),
		attribute.Int64Slice("is", []int64{math.MinInt64}), attribute.Float64Slice("fs", []float64{1, math.Inf(1)}), attribute.StringSlice("none", nil),
	}
	var out bytes.Buffer
	if err := NewJSON(&out).ExportSpans(context.Background(), ops); err != nil {
		t.Fatal(err)
	}
	golden(t, "spans.jsonl.golden", out.Bytes())
	for line := range bytes.Lines(out.Bytes()) {
		var v struct {
			TraceID  string    `json:"trace_id"`
			Start    time.Time `json:"start"`
			End      time.Time `json:"end"`
			Duration int64     `json:"duration_ns"`
		}
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if len(v.TraceID) != 32 || v.End.Sub(v.Start) != time.Duration(v.Duration) {
			t.Errorf("%+v", v)
		}
	}
}

func FuzzJSON(f *testing.F) {
	f.Add("name", "key", "\x00\"\\\u2028\xff", 1.5)
	f.Fuzz(func(t *testing.T, name, key, value string, number float64) {
		o := op(1, 1, 1, service(value), trace.SpanKindServer, name, 0, 1,
			attribute.String(key, value), attribute.Float64("f", number), attribute.StringSlice("l", []string{key, value}))
		o.StatusDescription, o.TraceState = value, key
		o.Events = []telemetry.Event{{Name: value, Attributes: o.Attributes}}
		b := appendSpan(nil, o)
		var v struct{ Name string }
		if err := json.Unmarshal(b, &v); err != nil || bytes.IndexByte(b, '\n') >= 0 {
			t.Fatalf("%v: %q", err, b)
		}
		if want := strings.ToValidUTF8(name, "\uFFFD"); strings.ToValidUTF8(v.Name, "") != v.Name || len([]rune(v.Name)) < len([]rune(want)) {
			t.Errorf("name %q became %q", name, v.Name)
		}
		line := New(io.Discard, Options{}).line(nil, o)
		if bytes.ContainsAny(line[:len(line)-1], "\n\r\x1b\x00") {
			t.Errorf("a span can write control characters: %q", line)
		}
	})
}

func TestTreeGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		tree := NewTree(&out, 0, Options{Location: time.UTC})
		for _, o := range sample() {
			if err := tree.ExportSpans(t.Context(), []*telemetry.Operation{o}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
		}
		synctest.Wait()
		if got := strings.Count(out.String(), "trace "); got != 1 {
			t.Errorf("%d traces printed while the second is under way, want 1", got)
		}
		if err := tree.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		golden(t, "tree.golden", out.Bytes())
	})
}

// TestTreeHostile: rings, spans that are their own parent, chains that are too
// deep, traces that are too large and too many: every span appears once or is
// counted, and memory is bounded.
func TestTreeHostile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		tree := NewTree(&out, time.Hour, Options{})
		defer tree.Shutdown(t.Context())
		n := 0
		send := func(o *telemetry.Operation) {
			o.Name = fmt.Sprintf("span-%d;", n)
			n++
			if err := tree.ExportSpans(t.Context(), []*telemetry.Operation{o}); err != nil {
				t.Fatal(err)
			}
		}
		send(op(1, 1, 2, bot, 0, "", 0, 1)) // ring
		send(op(1, 2, 1, bot, 0, "", 0, 1))
		send(op(1, 3, 3, bot, 0, "", 0, 1)) // own parent
		send(op(1, 3, 0, bot, 0, "", 0, 1)) // same id again
		for i := range 100 {                // deep
			send(op(2, byte(i+1), byte(i), bot, 0, "", i, i+1))
		}
		for i := range maxSpans + 5 { // large
			send(op(3, byte(i), 0, bot, 0, "", i, i+1))
		}
		for i := range 3 * maxTraces { // many
			o := op(4, 1, 0, bot, 0, "", i, i+1)
			o.TraceID[0], o.TraceID[1] = byte(i), byte(i>>8)
			send(o)
			if len(tree.traces) > maxTraces {
				t.Fatalf("%d traces are held", len(tree.traces))
			}
			time.Sleep(time.Millisecond)
		}
		tree.Shutdown(t.Context())
		seen := strings.Count(out.String(), "span-")
		if !strings.Contains(out.String(), "… 5 more") || seen != n-5 {
			t.Errorf("%d spans printed, want %d and 5 counted", seen, n-5)
		}
		for i := range 104 {
			if c := strings.Count(out.String(), fmt.Sprintf("span-%d;", i)); c != 1 {
				t.Errorf("span %d is printed %d times", i, c)
			}
		}
	})
}

// TestClosedPipe: `tracer-agent run | head` ends without a signal.
func TestClosedPipe(t *testing.T) {
	for _, mk := range []func(io.Writer) exporter.Exporter{
		func(w io.Writer) exporter.Exporter { return New(w, Options{}) },
		func(w io.Writer) exporter.Exporter { return NewJSON(w) },
		func(w io.Writer) exporter.Exporter { return NewTree(w, time.Millisecond, Options{}) },
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		e := mk(w)
		if err := e.ExportSpans(context.Background(), sample()); err != nil {
			t.Errorf("%s: open pipe: %v", e.Name(), err)
		}
		r.Close()
		for deadline := time.Now().Add(5 * time.Second); err == nil; time.Sleep(time.Millisecond) {
			if err = e.ExportSpans(context.Background(), sample()); time.Now().After(deadline) {
				break
			}
		}
		if !errors.Is(err, exporter.ErrGone) {
			t.Errorf("%s: closed pipe: %v, want ErrGone", e.Name(), err)
		}
		e.Shutdown(context.Background())
		w.Close()
	}
}

func TestStdout(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	old := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = old }()
	f, err := Stdout()
	if err != nil {
		t.Fatal(err)
	}
	if f.Fd() <= 2 || IsTerminal(f) {
		t.Errorf("descriptor %d, terminal %v", f.Fd(), IsTerminal(f))
	}
	fmt.Fprint(f, "x")
	f.Close()
	w.Close()
	if got, _ := io.ReadAll(r); string(got) != "x" {
		t.Errorf("standard output got %q", got)
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0µs", 1500: "1.5µs", 999 * time.Microsecond: "999.0µs", 3421 * time.Microsecond: "3.42ms",
		1234 * time.Millisecond: "1.23s", 130 * time.Second: "2m10s", -time.Second: "-1000000.0µs",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("%d ns: %q, want %q", d, got, want)
		}
	}
}

func BenchmarkLines(b *testing.B) {
	ops := sample()[:4]
	l, j := New(io.Discard, Options{}), NewJSON(io.Discard)
	b.Run("console", func(b *testing.B) {
		for b.Loop() {
			l.ExportSpans(context.Background(), ops)
		}
	})
	b.Run("json", func(b *testing.B) {
		for b.Loop() {
			j.ExportSpans(context.Background(), ops)
		}
	})
}
