package exporter

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Metrics is a destination that metrics are sent to, once per interval.
//
// ExportMetrics is called once per resource, then FlushMetrics once, from one
// goroutine at a time; rm is used again after ExportMetrics has returned.
type Metrics interface {
	// Name is short and stable; it labels the agent's own metrics.
	Name() string
	// Temporality and Aggregation say what form it wants.
	Temporality(metric.InstrumentKind) metricdata.Temporality
	Aggregation(metric.InstrumentKind) metric.Aggregation
	// ExportMetrics delivers rm, or keeps what it needs of it for later.
	ExportMetrics(ctx context.Context, rm *metricdata.ResourceMetrics) error
	// FlushMetrics returns when everything is delivered or given up. A
	// *RejectedPointsError, of either, means that some was refused.
	FlushMetrics(ctx context.Context) error
	Shutdown(ctx context.Context) error
}

// MetricsPull is a destination that asks for metrics itself.
type MetricsPull interface {
	Name() string
	// Aggregation says what form it wants.
	Aggregation(metric.InstrumentKind) metric.Aggregation
	// Open returns a reader for one resource, which also reads from the producer, and
	// the function that ends it.
	Open(p metric.Producer) (r metric.Reader, end func(), err error)
	Shutdown(ctx context.Context) error
}

// RejectedPointsError says that the destination took a request but refused some of it.
type RejectedPointsError struct {
	Points  int64
	Message string
}

// Error implements error.
func (e *RejectedPointsError) Error() string {
	return fmt.Sprintf("destination refused %d data points: %s", e.Points, e.Message)
}
