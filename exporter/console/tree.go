package console

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Bounds of a Tree; what does not fit is printed early or counted as left out.
const (
	DefaultSettle = time.Second
	maxTraces     = 1000
	maxSpans      = 1000 // per trace
	maxDepth      = 32
	maxLabel      = 72 // columns before the durations; longer labels push theirs
)

// Tree prints whole traces: it collects the spans of each until none has come
// for a settle time. Use NewTree.
type Tree struct {
	w      io.Writer
	opts   Options
	settle time.Duration

	mu     sync.Mutex
	traces map[trace.TraceID]*pending
	gone   error
	stop   chan struct{}
	done   chan struct{}
	once   sync.Once
}

// pending is a trace that may not be complete.
type pending struct {
	spans   []*telemetry.Operation
	omitted int
	touched time.Time
}

var (
	_ exporter.Exporter = (*Tree)(nil)
	_ exporter.Prompt   = (*Tree)(nil)
)

// NewTree prints to w; a settle time of zero means DefaultSettle.
func NewTree(w io.Writer, settle time.Duration, o Options) *Tree {
	if settle <= 0 {
		settle = DefaultSettle
	}
	if o.Location == nil {
		o.Location = time.Local
	}
	t := &Tree{
		w: w, opts: o, settle: settle, traces: map[trace.TraceID]*pending{},
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go t.run()
	return t
}

// Name implements exporter.Exporter.
func (*Tree) Name() string { return "tree" }

// MaxDelay implements exporter.Prompt.
func (*Tree) MaxDelay() time.Duration { return promptDelay }

// run prints traces that have settled, until Shutdown.
func (t *Tree) run() {
	defer close(t.done)
	tick := time.NewTicker(t.settle / 2)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case now := <-tick.C:
			t.mu.Lock()
			t.print(func(p *pending) bool { return now.Sub(p.touched) >= t.settle })
			t.mu.Unlock()
		}
	}
}

// ExportSpans collects; it reports a destination that is gone.
func (t *Tree) ExportSpans(_ context.Context, ops []*telemetry.Operation) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for _, op := range ops {
		p := t.traces[op.TraceID]
		if p == nil {
			if len(t.traces) >= maxTraces {
				t.print(t.oldest())
			}
			p = &pending{}
			t.traces[op.TraceID] = p
		}
		p.touched = now
		if len(p.spans) >= maxSpans {
			p.omitted++
			continue
		}
		p.spans = append(p.spans, op)
	}
	return t.gone
}

// oldest picks the quarter of the traces that has been waiting longest.
func (t *Tree) oldest() func(*pending) bool {
	times := make([]time.Time, 0, len(t.traces))
	for _, p := range t.traces {
		times = append(times, p.touched)
	}
	slices.SortFunc(times, time.Time.Compare)
	limit := times[len(times)/4]
	return func(p *pending) bool { return !p.touched.After(limit) }
}

// Shutdown prints what is left, unless a write that hangs does not end in time.
func (t *Tree) Shutdown(ctx context.Context) error {
	t.once.Do(func() { close(t.stop) })
	select {
	case <-t.done:
	case <-ctx.Done():
		return fmt.Errorf("print the last traces: %w", ctx.Err())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.print(func(*pending) bool { return true })
	return nil
}

// print writes the traces that are ready, by their start; t.mu is held.
func (t *Tree) print(ready func(*pending) bool) {
	var out []*pending
	for id, p := range t.traces {
		if ready(p) {
			out = append(out, p)
			delete(t.traces, id)
		}
	}
	for _, p := range out {
		slices.SortStableFunc(p.spans, byStart)
	}
	slices.SortFunc(out, func(a, b *pending) int { return byStart(a.spans[0], b.spans[0]) })
	var b []byte
	for _, p := range out {
		b = t.appendTrace(b, p)
	}
	if len(b) > 0 && t.gone == nil {
		t.gone = write(t.w, b)
	}
}

func byStart(a, b *telemetry.Operation) int { return a.Start.Compare(b.Start) }

// appendTrace: a headline, then every root with what belongs to it.
func (t *Tree) appendTrace(b []byte, p *pending) []byte {
	children := map[trace.SpanID][]*telemetry.Operation{}
	known := make(map[trace.SpanID]bool, len(p.spans))
	services := map[string]bool{}
	end := p.spans[0].End
	errors := 0
	for _, op := range p.spans {
		known[op.SpanID] = true
		services[serviceOf(op)] = true
		if op.End.After(end) {
			end = op.End
		}
		if op.Status == codes.Error {
			errors++
		}
	}
	var roots []*telemetry.Operation
	for _, op := range p.spans {
		if known[op.ParentSpanID] && op.ParentSpanID != op.SpanID {
			children[op.ParentSpanID] = append(children[op.ParentSpanID], op)
		} else {
			roots = append(roots, op)
		}
	}
	first := p.spans[0]
	head := fmt.Sprintf("trace %s  %s  %s  %s, %s", first.TraceID, first.Start.In(t.opts.Location).Format("15:04:05.000"),
		formatDuration(end.Sub(first.Start)), plural(len(p.spans)+p.omitted, "span"), plural(len(services), "service"))
	b = append(b, head...)
	if errors > 0 {
		b = append(b, ", "...)
		b = colored(b, t.opts.Color, red, plural(errors, "error"))
	}
	b = append(b, '\n')

	d := drawing{children: children, drawn: make(map[*telemetry.Operation]bool, len(p.spans))}
	d.level(roots, "", 0)
	// Spans whose parents form a ring, and what is nested too deeply, are under
	// no root.
	for _, op := range p.spans {
		if !d.drawn[op] {
			d.level([]*telemetry.Operation{op}, "", 0)
		}
	}
	width := 0
	for _, r := range d.rows {
		width = max(width, utf8.RuneCountInString(r.label))
	}
	for _, r := range d.rows {
		b = t.appendRow(b, r, min(width, maxLabel))
	}
	if p.omitted > 0 {
		b = fmt.Appendf(b, "   … %d more\n", p.omitted)
	}
	return append(b, '\n')
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// row is one span of a drawn tree.
type row struct {
	label string
	op    *telemetry.Operation
}

// drawing turns parents and children into rows. Depth is bounded, because who
// is whose parent comes from the wire.
type drawing struct {
	children map[trace.SpanID][]*telemetry.Operation
	drawn    map[*telemetry.Operation]bool
	rows     []row
}

func (d *drawing) level(ops []*telemetry.Operation, indent string, depth int) {
	for i, op := range ops {
		if d.drawn[op] {
			continue
		}
		d.drawn[op] = true
		branch, below := "├─ ", "│  "
		if i == len(ops)-1 {
			branch, below = "└─ ", "   "
		}
		label := indent + branch + serviceOf(op) + "  " + strings.ToUpper(op.Kind.String()) + " " + Printable(op.Name)
		d.rows = append(d.rows, row{label, op})
		if depth < maxDepth {
			d.level(d.children[op.SpanID], indent+below, depth+1)
		}
	}
}

// appendRow: the label, the duration, the error, the telling attributes.
func (t *Tree) appendRow(b []byte, r row, width int) []byte {
	b = pad(b, r.label, width)
	b = padLeft(append(b, ' ', ' '), formatDuration(r.op.End.Sub(r.op.Start)), 9)
	if r.op.Status == codes.Error {
		b = colored(append(b, ' ', ' '), t.opts.Color, red, "✗")
	}
	b = append(b, ' ')
	from := len(b)
	b = appendAttributes(b, r.op)
	if t.opts.Color && len(b) > from {
		text := string(b[from:])
		b = colored(b[:from], true, dim, text)
	}
	return append(b, '\n')
}
