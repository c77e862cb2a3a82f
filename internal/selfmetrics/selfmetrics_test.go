package selfmetrics

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestText(t *testing.T) {
	r := New()
	r.Records("nethttp").Add(12)
	r.Lost(RingFull, "nethttp").Inc()
	r.Lost(QueueFull, "nethttp", L("exporter", "otlp")).Add(3)
	r.Lost(QueueFull, "nethttp", L("exporter", "otlp")).Add(4)
	length := 5.0
	r.Func(NameQueueLength, "", KindGauge, func(emit Emit) { emit(length, L("exporter", "otlp")) })
	r.Func("tracer_agent_odd", "Two\nlines.", KindGauge, func(emit Emit) {
		emit(0.5, L("name", "a\"b\\c\nd"))
		emit(1e21)
	})
	r.Func("tracer_agent_silent", "Never has a value.", KindCounter, func(Emit) {})
	// A callback may use the registry.
	r.Func(NameRSS, "", KindGauge, func(emit Emit) { emit(float64(len(render(nil)) + int(r.Records("nethttp").Value()))) })
	var out bytes.Buffer
	if err := r.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	want := `# TYPE tracer_agent_odd gauge
tracer_agent_odd 1e+21
tracer_agent_odd{name="a\"b\\c\nd"} 0.5
`
	want = `# HELP tracer_agent_odd Two lines.
` + want + `# HELP tracer_agent_queue_length Spans waiting for an exporter.
# TYPE tracer_agent_queue_length gauge
tracer_agent_queue_length{exporter="otlp"} 5
# HELP tracer_agent_records_lost_total Records or spans lost, by the place where they were lost, and by probe.
# TYPE tracer_agent_records_lost_total counter
tracer_agent_records_lost_total{place="queue_full",probe="nethttp",exporter="otlp"} 7
tracer_agent_records_lost_total{place="ring_full",probe="nethttp"} 1
# HELP tracer_agent_records_total Records read from the kernel, by probe.
# TYPE tracer_agent_records_total counter
tracer_agent_records_total{probe="nethttp"} 12
# HELP tracer_agent_resident_memory_bytes Resident memory of the agent.
# TYPE tracer_agent_resident_memory_bytes gauge
tracer_agent_resident_memory_bytes 12
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// TestHelp: every name this package hands out says what it means.
func TestHelp(t *testing.T) {
	for _, name := range []string{
		NameRecords, NameRecordsLost, NameSpans, NameExportErrors, NameQueueLength, NameDiskQueue, NameDiskDelivered,
		NameNoResource, NameRSS,
	} {
		if help[name] == "" {
			t.Errorf("%s has no help text", name)
		}
	}
	if len(help) != 9 {
		t.Errorf("%d help texts for 9 names", len(help))
	}
}

func TestNil(t *testing.T) {
	var r *Registry
	c := r.Records("p")
	c.Inc()
	if c.Value() != 1 {
		t.Error("a counter without a registry does not count")
	}
	r.Func("f", "", KindGauge, nil)
	r.RegisterRSS()
	if r.Snapshot() != nil {
		t.Error("a nil registry has values")
	}
	var none *Counter
	none.Inc()
	if none.Value() != 0 {
		t.Error("a nil counter counts")
	}
}

func TestConcurrent(t *testing.T) {
	r := New()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				r.Lost(DecodeError, "p").Inc()
				_ = r.Snapshot()
			}
		})
	}
	wg.Wait()
	if got := r.Lost(DecodeError, "p").Value(); got != 4000 {
		t.Errorf("counted %d of 4000", got)
	}
}

func TestRSS(t *testing.T) {
	rss, ok := residentBytes("/proc/self/statm")
	if !ok || rss < 1<<20 || rss > 1<<34 {
		t.Errorf("resident memory of this test: %d, %v", rss, ok)
	}
	for name, content := range map[string]string{"empty": "", "short": "1", "text": "1 x 2"} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if v, ok := residentBytes(path); ok {
			t.Errorf("%s: got %d", name, v)
		}
	}
	if _, ok := residentBytes("/nonexistent"); ok {
		t.Error("a missing file has a value")
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestWriteError(t *testing.T) {
	r := New()
	r.Records("p").Inc()
	if err := r.WriteText(broken{}); err == nil {
		t.Error("a failed write is not reported")
	}
}

func BenchmarkCounter(b *testing.B) {
	c := New().Records("p")
	b.ReportAllocs()
	for b.Loop() {
		c.Inc()
	}
}
