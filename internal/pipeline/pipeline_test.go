package pipeline

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// recorder is an exporter that remembers, and can be made to hang or fail.
type recorder struct {
	name   string
	delay  time.Duration // MaxDelay, if not zero
	block  chan struct{} // ExportSpans waits for it, or for its context
	deaf   bool          // ... and ignores the context
	err    error
	mu     sync.Mutex
	spans  []trace.SpanID
	sizes  []int
	closed int
}

func (r *recorder) Name() string { return r.name }

func (r *recorder) ExportSpans(ctx context.Context, ops []*telemetry.Operation) error {
	if r.block != nil {
		done := ctx.Done()
		if r.deaf {
			done = nil
		}
		select {
		case <-r.block:
		case <-done:
			return ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sizes = append(r.sizes, len(ops))
	for _, op := range ops {
		r.spans = append(r.spans, op.SpanID)
	}
	return r.err
}

func (r *recorder) Shutdown(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed++
	return nil
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.spans)
}

// prompt is a recorder somebody looks at.
type prompt struct{ recorder }

func (p *prompt) MaxDelay() time.Duration { return p.delay }

func spanID(i int) (id trace.SpanID) {
	binary.BigEndian.PutUint64(id[:], uint64(i+1))
	return id
}

func op(i int) *telemetry.Operation {
	return &telemetry.Operation{Probe: "p", SpanID: spanID(i), StartKtimeNs: 1000, EndKtimeNs: 2000}
}

// lost sums up what was lost, by place and exporter.
func lost(m *selfmetrics.Registry) map[string]int {
	out := map[string]int{}
	for _, f := range m.Snapshot() {
		if f.Name != selfmetrics.NameRecordsLost {
			continue
		}
		for _, s := range f.Samples {
			out[s.Labels[0].Value+" "+s.Labels[2].Value] += int(s.Value)
		}
	}
	return out
}

func exported(m *selfmetrics.Registry, name string) int {
	return int(m.Counter(selfmetrics.NameSpans, selfmetrics.L("exporter", name)).Value())
}

func shutdown(t *testing.T, p *Pipeline) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func TestDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &recorder{name: "a"}, &recorder{name: "b"}
		m := selfmetrics.New()
		p := New(Options{Exporters: []exporter.Exporter{a, b}, Metrics: m, BatchSize: 10, QueueSize: 100})
		var want []trace.SpanID
		for i := range 25 {
			p.Submit(op(i))
			want = append(want, spanID(i))
		}
		shutdown(t, p)
		for _, r := range []*recorder{a, b} {
			if diff := cmp.Diff(want, r.spans); diff != "" {
				t.Errorf("%s: %s", r.name, diff)
			}
			if r.closed != 1 || exported(m, r.name) != 25 {
				t.Errorf("%s: closed %d times, %d counted as exported", r.name, r.closed, exported(m, r.name))
			}
		}
		shutdown(t, p)
		if a.closed != 1 {
			t.Error("a second Shutdown closed the exporter again")
		}
		p.Submit(op(99))
		if got := lost(m)["queue_full a"]; got != 1 {
			t.Errorf("a span after Shutdown: %d counted as lost, want 1", got)
		}
	})
}

// TestDelay: a batch leaves when it is full or when its first span is old
// enough, sooner for an exporter somebody looks at.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &recorder{name: "slow"}
		quick := &prompt{recorder{name: "quick", delay: 100 * time.Millisecond}}
		p := New(Options{Exporters: []exporter.Exporter{slow, quick}, BatchSize: 10, ScheduleDelay: time.Second})
		defer shutdown(t, p)
		check := func(when string, wantSlow, wantQuick int) {
			t.Helper()
			synctest.Wait()
			if slow.count() != wantSlow || quick.count() != wantQuick {
				t.Errorf("%s: slow has %d, quick %d; want %d and %d", when, slow.count(), quick.count(), wantSlow, wantQuick)
			}
		}
		p.Submit(op(0))
		check("at once", 0, 0)
		time.Sleep(100 * time.Millisecond)
		check("after 100 ms", 0, 1)
		time.Sleep(900 * time.Millisecond)
		check("after 1 s", 1, 1)
		for i := range 10 {
			p.Submit(op(i))
		}
		check("full batch", 11, 11)
	})
}

// TestDeadExporter: one exporter hangs; the other gets everything, Submit never
// waits, and every span is accounted for.
func TestDeadExporter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, alive := &recorder{name: "dead", block: make(chan struct{})}, &recorder{name: "alive"}
		m := selfmetrics.New()
		p := New(Options{
			Exporters: []exporter.Exporter{dead, alive}, Metrics: m,
			QueueSize: 100, BatchSize: 10, ExportTimeout: 30 * time.Second,
		})
		const total = 5000
		start := time.Now()
		for i := range total {
			p.Submit(op(i))
			if i%50 == 49 {
				synctest.Wait() // let the living one keep up
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("Submit waited: %v", took)
		}
		time.Sleep(2 * time.Second) // the last batch of the living one may not be full
		synctest.Wait()
		if alive.count() != total {
			t.Errorf("the living exporter has %d of %d", alive.count(), total)
		}
		if got, want := lost(m)["queue_full dead"], total-100-10; got != want {
			t.Errorf("%d dropped for the dead one, want %d: queue and batch hold the rest", got, want)
		}
		close(dead.block)
		shutdown(t, p)
		if sum := exported(m, "dead") + lost(m)["queue_full dead"] + lost(m)["export_failure dead"]; sum != total {
			t.Errorf("%d of %d accounted for", sum, total)
		}
	})
}

func TestExportTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := &recorder{name: "dead", block: make(chan struct{})}
		m := selfmetrics.New()
		p := New(Options{Exporters: []exporter.Exporter{dead}, Metrics: m, BatchSize: 10, ExportTimeout: 3 * time.Second})
		for i := range 10 {
			p.Submit(op(i))
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if got := lost(m)["export_failure dead"]; got != 10 {
			t.Errorf("%d lost by timeout, want 10", got)
		}
		if got := m.Counter(selfmetrics.NameExportErrors, selfmetrics.L("exporter", "dead")).Value(); got != 1 {
			t.Errorf("%d failed batches, want 1", got)
		}
		shutdown(t, p)
	})
}

// TestShutdownDeadline: neither an exporter that waits nor one that does not
// listen holds up the end, and what they had is counted.
func TestShutdownDeadline(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprintf("deaf=%v", deaf), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dead := &recorder{name: "dead", block: make(chan struct{}), deaf: deaf}
				alive := &recorder{name: "alive"}
				m := selfmetrics.New()
				p := New(Options{Exporters: []exporter.Exporter{dead, alive}, Metrics: m, BatchSize: 10, QueueSize: 100})
				for i := range 50 {
					p.Submit(op(i))
				}
				synctest.Wait()
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				defer cancel()
				start := time.Now()
				err := p.Shutdown(ctx)
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "dead") {
					t.Errorf("Shutdown: %v, want the deadline of dead", err)
				}
				if took := time.Since(start); took > 2*time.Second+stuckGrace {
					t.Errorf("Shutdown took %v", took)
				}
				if alive.count() != 50 {
					t.Errorf("the living exporter has %d of 50", alive.count())
				}
				want := 50
				if deaf {
					want = 40 // the batch under way may still be delivered
				}
				if got := lost(m)["export_failure dead"]; got != want {
					t.Errorf("%d counted as lost, want %d", got, want)
				}
				close(dead.block)
			})
		})
	}
}

func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := &recorder{name: "gone", err: fmt.Errorf("write: %w", exporter.ErrGone)}
		alive := &recorder{name: "alive"}
		m := selfmetrics.New()
		p := New(Options{Exporters: []exporter.Exporter{gone, alive}, Metrics: m, BatchSize: 10})
		for i := range 30 {
			p.Submit(op(i))
		}
		synctest.Wait()
		p.Submit(op(30))
		time.Sleep(2 * time.Second)
		if alive.count() != 31 {
			t.Errorf("the living exporter has %d of 31", alive.count())
		}
		if got := lost(m)["export_failure gone"]; got != 31 {
			t.Errorf("%d counted as lost, want 31", got)
		}
		select {
		case <-p.Dead():
			t.Error("Dead with one exporter alive")
		default:
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		alive.mu.Lock()
		alive.err = exporter.ErrGone
		alive.mu.Unlock()
		p.Submit(op(31))
		time.Sleep(2 * time.Second)
		select {
		case <-p.Dead():
		default:
			t.Error("not Dead with no exporter left")
		}
		shutdown(t, p)
	})
}

func TestRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{name: "r", err: &exporter.RejectedError{Spans: 3, Message: "quota"}}
		m := selfmetrics.New()
		p := New(Options{Exporters: []exporter.Exporter{r}, Metrics: m})
		for i := range 10 {
			p.Submit(op(i))
		}
		shutdown(t, p)
		if e, l := exported(m, "r"), lost(m)["export_failure r"]; e != 7 || l != 3 {
			t.Errorf("exported %d, lost %d; want 7 and 3", e, l)
		}
	})
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{name: "r"}
		p := New(Options{Exporters: []exporter.Exporter{r}, ScheduleDelay: time.Hour, BatchSize: 10})
		if err := p.Flush(t.Context()); err != nil {
			t.Errorf("nothing to flush: %v", err)
		}
		for i := range 25 {
			p.Submit(op(i))
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		if r.count() != 25 {
			t.Errorf("%d of 25 exported after Flush", r.count())
		}
		r.block = make(chan struct{})
		p.Submit(op(25))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush of a hanging exporter: %v", err)
		}
		close(r.block)
		shutdown(t, p)
	})
}

// TestComplaints: hours of trouble make a handful of lines, and one when it is over.
func TestComplaints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := &recorder{name: "r", err: errors.New("connection refused")}
		p := New(Options{Exporters: []exporter.Exporter{r}, Log: slog.New(slog.NewTextHandler(&out, nil))})
		for i := range 600 { // ten minutes of failing batches
			p.Submit(op(i))
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		r.mu.Lock()
		r.err = nil
		r.mu.Unlock()
		for i := range 5 {
			p.Submit(op(i))
			time.Sleep(2 * time.Second)
		}
		shutdown(t, p)
		text := out.String()
		if n := strings.Count(text, "level=WARN"); n < 10 || n > 21 {
			t.Errorf("%d warnings in ten minutes, want one each half minute\n%s", n, text)
		}
		if n := strings.Count(text, "exporting again"); n != 1 || !strings.Contains(text, "spans_lost=600") {
			t.Errorf("want one line about 600 lost spans when it works again\n%s", text)
		}
	})
}

type lookup map[int32]*telemetry.Resource

func (l lookup) ResourceOf(k telemetry.ProcessKey) *telemetry.Resource { return l[k.PID] }

func TestResources(t *testing.T) {
	m := selfmetrics.New()
	known := &telemetry.Resource{}
	p := New(Options{Resources: lookup{7: known}, Metrics: m})
	a, b := op(0), op(1)
	a.Process.PID, b.Process.PID = 7, 8
	p.Submit(a)
	p.Submit(b)
	if a.Resource != known {
		t.Error("known process has not its resource")
	}
	if b.Resource == nil || m.Counter(selfmetrics.NameNoResource).Value() != 1 {
		t.Error("a span of an unknown process has no resource or is not counted")
	}
	shutdown(t, p)
}

// TestConcurrentSubmit is for the race detector, and adds up at the end.
func TestConcurrentSubmit(t *testing.T) {
	r := &recorder{name: "r"}
	m := selfmetrics.New()
	p := New(Options{Exporters: []exporter.Exporter{r}, Metrics: m, QueueSize: 64, BatchSize: 16, ScheduleDelay: time.Millisecond})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 2000 {
				p.Submit(op(i))
			}
		})
	}
	go func() { _ = m.WriteText(new(bytes.Buffer)) }()
	wg.Wait()
	shutdown(t, p)
	if sum := r.count() + lost(m)["queue_full r"]; sum != 8000 {
		t.Errorf("%d of 8000 accounted for", sum)
	}
}

func BenchmarkSubmit(b *testing.B) {
	for _, dead := range []bool{false, true} {
		b.Run(fmt.Sprintf("dead=%v", dead), func(b *testing.B) {
			r := &discard{}
			if dead {
				r.block = make(chan struct{})
			}
			p := New(Options{Exporters: []exporter.Exporter{r}, Metrics: selfmetrics.New()})
			o := op(1)
			b.ReportAllocs()
			for b.Loop() {
				o.TraceID[15]++
				p.Submit(o)
			}
			if dead {
				close(r.block)
			}
			_ = p.Shutdown(context.Background())
		})
	}
}

type discard struct{ block chan struct{} }

func (*discard) Name() string                   { return "discard" }
func (*discard) Shutdown(context.Context) error { return nil }
func (d *discard) ExportSpans(context.Context, []*telemetry.Operation) error {
	if d.block != nil {
		<-d.block
	}
	return nil
}
