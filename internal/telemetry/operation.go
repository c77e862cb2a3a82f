package telemetry

import (
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// ProcessKey identifies one process for as long as the machine runs: a pid
// alone is reused, a pid with its start time is not.
type ProcessKey struct {
	PID int32
	// StartNs is the process's start on CLOCK_BOOTTIME in nanoseconds
	// (task_struct.start_boottime of the group leader).
	StartNs uint64
}

// Operation is one finished span. Probes fill it; the pipeline adds the wall
// clock times and the resource; exporters only read it.
type Operation struct {
	Process ProcessKey
	// Probe is the name of the probe that saw it; exporters use it as the
	// instrumentation scope's last element.
	Probe string

	TraceID      trace.TraceID
	SpanID       trace.SpanID
	ParentSpanID trace.SpanID // zero for a root
	// ParentRemote says that the parent came from the wire (traceparent).
	ParentRemote bool
	TraceState   string
	Flags        trace.TraceFlags

	Kind trace.SpanKind
	// Name is of low cardinality.
	Name string

	// StartKtimeNs and EndKtimeNs are CLOCK_MONOTONIC nanoseconds from the kernel.
	StartKtimeNs, EndKtimeNs uint64
	// Start and End are set by the pipeline's clock.
	Start, End time.Time

	Attributes        []attribute.KeyValue
	Events            []Event
	Status            codes.Code
	StatusDescription string

	// Measurements are counted for every operation, sampled or not. They are read
	// before Emit returns and not kept: a decoder may use their memory again.
	Measurements []Measurement
	// RequestFields and ResponseFields are the fields of its JSON bodies that rules of metrics
	// ask for, by path. Who measures by the rules takes them off: no exporter sees them.
	RequestFields, ResponseFields map[string]any
	// MetricsOnly: the operation is not sampled and no span; of what it is, only the
	// attributes of its measurements may be known. It is not used after Emit has returned.
	MetricsOnly bool
	// TakesBack: its measurements undo some that were taken before; no setting of its
	// probe that has changed since stops it.
	TakesBack bool

	// Resource is set by enrichment.
	Resource *Resource

	spare   bool  // it comes from NewOperation
	holders int32 // who have not released it; see Share
}

// Event is a span event, for example an exception.
type Event struct {
	Name       string
	KtimeNs    uint64
	Time       time.Time
	Attributes []attribute.KeyValue
}

// Resource describes what produced operations; one pointer per process, shared
// by all of its operations, so that exporters can group by identity.
type Resource struct {
	SchemaURL  string
	Attributes []attribute.KeyValue
}
