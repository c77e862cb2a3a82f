package harness

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"time"
)

// Span is one line of the agent's JSON output.
type Span struct {
	TraceID      string         `json:"trace_id"`
	SpanID       string         `json:"span_id"`
	ParentSpanID string         `json:"parent_span_id"`
	ParentRemote bool           `json:"parent_remote"`
	TraceState   string         `json:"trace_state"`
	Flags        int            `json:"flags"`
	Name         string         `json:"name"`
	Kind         string         `json:"kind"`
	Start        time.Time      `json:"start"`
	End          time.Time      `json:"end"`
	DurationNs   int64          `json:"duration_ns"`
	Status       string         `json:"status"`
	StatusText   string         `json:"status_description"`
	Attributes   map[string]any `json:"attributes"`
	Events       []SpanEvent    `json:"events"`
	Resource     map[string]any `json:"resource"`
}

// SpanEvent is an event of a span.
type SpanEvent struct {
	Name       string         `json:"name"`
	Time       time.Time      `json:"time"`
	Attributes map[string]any `json:"attributes"`
}

// Attr is an attribute as text, "" when the span has none of that name.
func (s Span) Attr(key string) string {
	v, ok := s.Attributes[key]
	if !ok {
		return ""
	}
	return text(v)
}

// Res is a resource attribute as text.
func (s Span) Res(key string) string {
	v, ok := s.Resource[key]
	if !ok {
		return ""
	}
	return text(v)
}

func text(v any) string {
	if f, ok := v.(float64); ok && f == float64(int64(f)) {
		return fmt.Sprint(int64(f))
	}
	return fmt.Sprint(v)
}

// Texts is all attributes as text.
func (s Span) Texts() map[string]string {
	m := make(map[string]string, len(s.Attributes))
	for k, v := range s.Attributes {
		m[k] = text(v)
	}
	return m
}

// String is for messages: kind, name, ids, attributes in order.
func (s Span) String() string {
	var kv []string
	for k, v := range s.Texts() {
		kv = append(kv, k+"="+v)
	}
	sort.Strings(kv)
	return fmt.Sprintf("%s %q trace=%s span=%s parent=%s status=%s(%s) pid=%s {%s}", s.Kind, s.Name, s.TraceID,
		s.SpanID, s.ParentSpanID, s.Status, s.StatusText, s.Res("process.pid"), strings.Join(kv, " "))
}

// Of returns the spans that f wants.
func Of(spans []Span, f func(Span) bool) []Span {
	var out []Span
	for _, s := range spans {
		if f(s) {
			out = append(out, s)
		}
	}
	return out
}

// Kind selects by span kind: "server", "client".
func Kind(kind string) func(Span) bool {
	return func(s Span) bool { return s.Kind == kind }
}

func decodeSpan(line []byte) (Span, error) {
	var s Span
	err := json.Unmarshal(line, &s)
	return s, err
}
