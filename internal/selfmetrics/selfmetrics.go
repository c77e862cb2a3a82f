// Package selfmetrics counts what the agent itself does: records, losses by
// place and probe, spans exported, memory. It is a small registry of atomic
// counters and of callbacks read at collection time; it knows neither who
// counts nor who reads.
//
// Its invariant: counting never blocks and never allocates once the counter is
// in the caller's hand, and a name always has one help text and one kind.
package selfmetrics

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Names of the metrics that more than one package needs to agree on.
const (
	NameRecords       = "tracer_agent_records_total"
	NameRecordsLost   = "tracer_agent_records_lost_total"
	NameSpans         = "tracer_agent_spans_exported_total"
	NameExportErrors  = "tracer_agent_export_failures_total"
	NameQueueLength   = "tracer_agent_queue_length"
	NameDiskQueue     = "tracer_agent_disk_queue_bytes"
	NameDiskDelivered = "tracer_agent_disk_queue_spans_delivered_total"
	NameNoResource    = "tracer_agent_spans_without_resource_total"
	NameRSS           = "tracer_agent_resident_memory_bytes"
)

// help is the one place for the texts of the names above.
var help = map[string]string{
	NameRecords:       "Records read from the kernel, by probe.",
	NameRecordsLost:   "Records or spans lost, by the place where they were lost, and by probe.",
	NameSpans:         "Spans handed over to a destination, by exporter.",
	NameExportErrors:  "Batches that an exporter gave up, by exporter.",
	NameQueueLength:   "Spans waiting for an exporter.",
	NameDiskQueue:     "Size of the batches that wait on disk, by exporter.",
	NameDiskDelivered: "Spans delivered after they had waited on disk, by exporter.",
	NameNoResource:    "Spans of a process that was not known (any more).",
	NameRSS:           "Resident memory of the agent.",
}

// Place is where a record or a span was lost.
type Place string

// The four places, in the order a data item passes them.
const (
	RingFull      Place = "ring_full"
	DecodeError   Place = "decode_error"
	NotSelected   Place = "not_selected" // of a process that the kernel let in and no rule selects
	QueueFull     Place = "queue_full"
	ExportFailure Place = "export_failure"
	DiskFull      Place = "disk_full" // the oldest on disk made room
)

// Kind says how a value behaves.
type Kind uint8

const (
	// KindCounter only grows while the agent runs.
	KindCounter Kind = iota
	// KindGauge goes up and down.
	KindGauge
)

// String is the name of the kind in the text format.
func (k Kind) String() string {
	if k == KindGauge {
		return "gauge"
	}
	return "counter"
}

// Label is one dimension of a metric.
type Label struct{ Key, Value string }

// L is short for Label{key, value}.
func L(key, value string) Label { return Label{key, value} }

// Counter is a number that grows. The zero value is ready; a nil Counter
// discards.
type Counter struct{ v atomic.Uint64 }

// Add adds n.
func (c *Counter) Add(n uint64) {
	if c != nil {
		c.v.Add(n)
	}
}

// Inc adds one.
func (c *Counter) Inc() { c.Add(1) }

// Value is the current count.
func (c *Counter) Value() uint64 {
	if c == nil {
		return 0
	}
	return c.v.Load()
}

// Emit reports one value of a callback metric.
type Emit func(value float64, labels ...Label)

// Registry holds the agent's metrics. A nil Registry hands out counters that
// nobody reads, so that a package can be used without one.
type Registry struct {
	mu       sync.RWMutex
	families map[string]*family
}

type family struct {
	name, help string
	kind       Kind
	counters   map[string]*labelled // by rendered labels
	callbacks  []func(Emit)
}

type labelled struct {
	labels  []Label
	counter Counter
}

// New returns an empty registry.
func New() *Registry {
	return &Registry{families: map[string]*family{}}
}

// Counter returns the counter of that name and those labels; it is made at the
// first call. Callers on a hot path keep the result.
func (r *Registry) Counter(name string, labels ...Label) *Counter {
	if r == nil {
		return &Counter{}
	}
	key := render(labels)
	r.mu.RLock()
	if f := r.families[name]; f != nil {
		if c := f.counters[key]; c != nil {
			r.mu.RUnlock()
			return &c.counter
		}
	}
	r.mu.RUnlock()

	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.family(name, KindCounter, "")
	c := f.counters[key]
	if c == nil {
		c = &labelled{labels: slices.Clone(labels)}
		f.counters[key] = c
	}
	return &c.counter
}

// Records is the counter of records read for a probe.
func (r *Registry) Records(probe string) *Counter {
	return r.Counter(NameRecords, L("probe", probe))
}

// Lost is the counter of what a probe lost at a place. Losses behind the queue
// belong to one exporter and name it in extra.
func (r *Registry) Lost(place Place, probe string, extra ...Label) *Counter {
	return r.Counter(NameRecordsLost, append([]Label{L("place", string(place)), L("probe", probe)}, extra...)...)
}

// Func registers a metric whose values are asked for at collection time.
// The help text may be empty for the names this package knows. Several
// callbacks may share a name.
func (r *Registry) Func(name, helpText string, kind Kind, f func(Emit)) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	fam := r.family(name, kind, helpText)
	fam.callbacks = append(fam.callbacks, f)
}

// family finds or makes a family; r.mu is held for writing.
func (r *Registry) family(name string, kind Kind, helpText string) *family {
	f := r.families[name]
	if f == nil {
		if helpText == "" {
			helpText = help[name]
		}
		f = &family{name: name, help: helpText, kind: kind, counters: map[string]*labelled{}}
		r.families[name] = f
	}
	if f.help == "" {
		f.help = helpText
	}
	return f
}

// Family is one metric with all its values at one moment.
type Family struct {
	Name, Help string
	Kind       Kind
	Samples    []Sample
}

// Sample is one value.
type Sample struct {
	Labels []Label
	Value  float64
}

// Snapshot reads all metrics, sorted by name and labels.
func (r *Registry) Snapshot() []Family {
	if r == nil {
		return nil
	}
	r.mu.RLock()
	families := make([]*family, 0, len(r.families))
	callbacks := map[*family][]func(Emit){}
	out := make([]Family, 0, len(r.families))
	for _, f := range r.families {
		families = append(families, f)
		callbacks[f] = slices.Clone(f.callbacks)
	}
	slices.SortFunc(families, func(a, b *family) int { return cmp.Compare(a.name, b.name) })
	for _, f := range families {
		fam := Family{Name: f.name, Help: f.help, Kind: f.kind}
		for _, c := range f.counters {
			fam.Samples = append(fam.Samples, Sample{c.labels, float64(c.counter.Value())})
		}
		out = append(out, fam)
	}
	r.mu.RUnlock()

	// Callbacks may take locks of their own: they run without ours.
	for i, f := range families {
		for _, cb := range callbacks[f] {
			cb(func(v float64, labels ...Label) {
				out[i].Samples = append(out[i].Samples, Sample{slices.Clone(labels), v})
			})
		}
		slices.SortFunc(out[i].Samples, func(a, b Sample) int {
			return cmp.Compare(render(a.Labels), render(b.Labels))
		})
	}
	return out
}

// render is the label part of the text format, and the key of a counter.
func render(labels []Label) string {
	if len(labels) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteByte('{')
	for i, l := range labels {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(l.Key)
		b.WriteString(`="`)
		b.WriteString(escaper.Replace(l.Value))
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

var escaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
