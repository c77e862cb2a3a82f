// Package console prints spans for people: one line each, or whole traces as
// trees. It knows no protocol: what a line shows follows from the order in
// which a probe sets its attributes.
package console

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Options are about looks.
type Options struct {
	// Color uses ANSI colours; see IsTerminal.
	Color bool
	// Location is the time zone of printed times; nil is the host's.
	Location *time.Location
}

const (
	promptDelay = 100 * time.Millisecond
	// maxAttributes and maxValueRunes keep a line on a screen.
	maxAttributes = 5
	maxValueRunes = 60
)

// Lines prints one line per span. Use New.
type Lines struct {
	w    io.Writer
	opts Options
	buf  []byte
}

var (
	_ exporter.Exporter = (*Lines)(nil)
	_ exporter.Prompt   = (*Lines)(nil)
)

// New prints to w, usually Stdout().
func New(w io.Writer, o Options) *Lines {
	if o.Location == nil {
		o.Location = time.Local
	}
	return &Lines{w: w, opts: o}
}

// Name implements exporter.Exporter.
func (*Lines) Name() string { return "console" }

// MaxDelay implements exporter.Prompt.
func (*Lines) MaxDelay() time.Duration { return promptDelay }

// Shutdown implements exporter.Exporter.
func (*Lines) Shutdown(context.Context) error { return nil }

// ExportSpans prints the batch with one write.
func (l *Lines) ExportSpans(_ context.Context, ops []*telemetry.Operation) error {
	l.buf = l.buf[:0]
	for _, op := range ops {
		l.buf = l.line(l.buf, op)
	}
	return write(l.w, l.buf)
}

// line: time, service, kind, name, duration, status, attributes, trace id.
func (l *Lines) line(b []byte, op *telemetry.Operation) []byte {
	b = op.Start.In(l.opts.Location).AppendFormat(b, "15:04:05.000")
	b = append(b, ' ')
	b = pad(b, serviceOf(op), 16)
	b = append(b, ' ')
	b = pad(b, strings.ToUpper(op.Kind.String()), 8)
	b = append(b, ' ')
	b = pad(b, Printable(op.Name), 32)
	b = append(b, ' ')
	b = padLeft(b, formatDuration(op.End.Sub(op.Start)), 9)
	b = append(b, ' ', ' ')
	b = l.status(b, op)
	b = appendAttributes(b, op)
	b = append(b, " trace="...)
	b = append(b, op.TraceID.String()...)
	return append(b, '\n')
}

const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	dim   = "\x1b[2m"
	reset = "\x1b[0m"
)

func (l *Lines) status(b []byte, op *telemetry.Operation) []byte {
	text, color := "ok   ", green
	if op.Status == codes.Error {
		text, color = "ERROR", red
	}
	return colored(b, l.opts.Color, color, text)
}

func colored(b []byte, on bool, color, text string) []byte {
	if !on {
		return append(b, text...)
	}
	b = append(b, color...)
	b = append(b, text...)
	return append(b, reset...)
}

// appendAttributes prints the error type, then the first attributes that the
// name does not already tell; those about the two ends come last.
func appendAttributes(b []byte, op *telemetry.Operation) []byte {
	shown := 0
	for _, kv := range op.Attributes {
		if kv.Key == "error.type" {
			b = appendAttribute(b, kv)
			shown++
		}
	}
	if op.Status == codes.Error && op.StatusDescription != "" && shown == 0 {
		b = appendAttribute(b, attribute.String("error", op.StatusDescription))
	}
	for _, ends := range []bool{false, true} {
		for _, kv := range op.Attributes {
			if shown >= maxAttributes {
				return b
			}
			if kv.Key != "error.type" && aboutEnds(kv.Key) == ends && !inName(op.Name, kv.Value) {
				b = appendAttribute(b, kv)
				shown++
			}
		}
	}
	return b
}

// aboutEnds covers the conventions' general attributes, which nearly every span
// of whatever protocol has, and which rarely tell spans apart.
func aboutEnds(key attribute.Key) bool {
	namespace, _, _ := strings.Cut(string(key), ".")
	switch namespace {
	case "server", "client", "network", "user_agent":
		return true
	default:
		return key == "url.scheme"
	}
}

// inName says that the span's name has the value as one of its words.
func inName(name string, v attribute.Value) bool {
	if v.Type() != attribute.STRING || v.AsString() == "" {
		return false
	}
	for word := range strings.SplitSeq(name, " ") {
		if word == v.AsString() {
			return true
		}
	}
	return false
}

func appendAttribute(b []byte, kv attribute.KeyValue) []byte {
	value := Printable(kv.Value.String())
	if n := utf8.RuneCountInString(value); n > maxValueRunes {
		value = string([]rune(value)[:maxValueRunes-1]) + "…"
	}
	if strings.ContainsAny(value, " ") || value == "" {
		value = `"` + value + `"`
	}
	b = append(b, ' ')
	b = append(b, Printable(string(kv.Key))...)
	b = append(b, '=')
	return append(b, value...)
}

// Printable makes a text safe to print: what others name must not be able to move the
// cursor, recolour the screen or start a line of its own.
func Printable(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if unprintable(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// unprintable covers control characters, bidirectional overrides and bytes that
// are no UTF-8.
func unprintable(r rune) bool {
	return r < 0x20 || r >= 0x7f && r < 0xa0 || r == utf8.RuneError ||
		r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

func serviceOf(op *telemetry.Operation) string {
	if op.Resource != nil {
		for _, kv := range op.Resource.Attributes {
			if kv.Key == "service.name" {
				return Printable(kv.Value.String())
			}
		}
	}
	return "unknown_service"
}

// pad writes s in at least width columns; longer texts are not cut.
func pad(b []byte, s string, width int) []byte {
	b = append(b, s...)
	for n := utf8.RuneCountInString(s); n < width; n++ {
		b = append(b, ' ')
	}
	return b
}

func padLeft(b []byte, s string, width int) []byte {
	for n := utf8.RuneCountInString(s); n < width; n++ {
		b = append(b, ' ')
	}
	return append(b, s...)
}

// formatDuration keeps three significant places or so, in one unit.
func formatDuration(d time.Duration) string {
	switch {
	case d >= 100*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return fmt.Sprintf("%.2fs", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.2fms", float64(d)/float64(time.Millisecond))
	default:
		return fmt.Sprintf("%.1fµs", float64(d)/float64(time.Microsecond))
	}
}
