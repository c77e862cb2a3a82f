package pipeline

import (
	"sync"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// passing is an exporter that keeps nothing.
type passing struct{ recorder }

func (*passing) Transient() {}

// TestOperationsAreUsedAgain: several writers submit operations whose memory is taken again at
// once, while exporters are slow and full queues drop some. Every span that arrives is whole
// and arrives once; with an exporter that keeps operations none is touched.
func TestOperationsAreUsedAgain(t *testing.T) {
	const writers, each = 4, 2000
	run := func(t *testing.T, exporters ...exporter.Exporter) (kept []*telemetry.Operation) {
		p := New(Options{Exporters: exporters, Metrics: selfmetrics.New(), QueueSize: 64, BatchSize: 16, ScheduleDelay: time.Millisecond})
		var mu sync.Mutex
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					op := telemetry.NewOperation()
					op.Probe, op.SpanID = "p", spanID(w*each+i)
					mu.Lock()
					kept = append(kept, op)
					mu.Unlock()
					p.Submit(op)
				}
			})
		}
		wg.Wait()
		shutdown(t, p)
		return kept
	}
	t.Run("transient", func(t *testing.T) {
		a, b := &passing{recorder{name: "a"}}, &passing{recorder{name: "b"}}
		kept := run(t, a, b)
		for _, r := range []*passing{a, b} {
			seen := map[[8]byte]bool{}
			for _, id := range r.spans {
				if seen[id] || id == [8]byte{} {
					t.Fatalf("span %v came twice, or was taken while it was exported", id)
				}
				seen[id] = true
			}
			if len(seen) == 0 {
				t.Errorf("nothing came to %s", r.name)
			}
		}
		memory := map[*telemetry.Operation]bool{}
		for _, op := range kept {
			memory[op] = true
			if op.SpanID.IsValid() {
				t.Fatal("an operation is still held by somebody")
			}
		}
		if len(memory) > writers*each/2 {
			t.Errorf("%d operations were made for %d spans", len(memory), writers*each)
		}
	})
	t.Run("one keeps", func(t *testing.T) {
		for i, op := range run(t, &passing{recorder{name: "a"}}, &recorder{name: "b"}) {
			if !op.SpanID.IsValid() {
				t.Fatalf("operation %d was used again", i)
			}
		}
	})
}
