// Package exporter is the one interface between the pipeline and the places
// spans go to. An exporter knows no protocol of a watched program: everything
// it prints or sends stands in the operation.
package exporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Exporter sends finished operations somewhere.
//
// The pipeline calls ExportSpans from one goroutine at a time. The operations
// are shared with other exporters: they must not be changed. The memory of the
// slice is used again after the call, that of the operations only when all
// exporters are Transient.
type Exporter interface {
	// Name is short and stable: "otlp", "console", "json". It labels metrics.
	Name() string
	// ExportSpans returns when the batch is delivered or given up. An error
	// means that the whole batch is lost, except a *RejectedError, which says
	// how many spans are. An error that wraps ErrGone ends the exporter.
	ExportSpans(ctx context.Context, ops []*telemetry.Operation) error
	// Shutdown releases what the exporter holds, after the last ExportSpans.
	Shutdown(ctx context.Context) error
}

// Transient is implemented by exporters that use no operation, and nothing its pointers
// and slices lead to, after ExportSpans has returned.
type Transient interface{ Transient() }

// Prompt is implemented by exporters somebody is looking at: it says how long
// a span may wait for its batch, instead of the configured schedule delay.
type Prompt interface {
	MaxDelay() time.Duration
}

// Noter is implemented by exporters that have more to say of their state than whether the
// last batch went well; "" is nothing.
type Noter interface {
	Note() string
}

// ErrGone says that the destination is gone for good, for example a closed pipe.
var ErrGone = errors.New("destination is gone")

// RejectedError says that the destination took a batch but refused some of it.
type RejectedError struct {
	Spans   int64
	Message string
}

// Error implements error.
func (e *RejectedError) Error() string {
	return fmt.Sprintf("destination refused %d spans of a batch: %s", e.Spans, e.Message)
}
