package console

import (
	"context"
	"fmt"
	"io"

	"go.opentelemetry.io/otel/exporters/stdout/stdoutmetric"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tracer-agent/tracer-agent/exporter"
)

// Metrics prints metrics as the SDK's own exporter does, a JSON document a process.
type Metrics struct{ metric.Exporter }

var _ exporter.Metrics = (*Metrics)(nil)

// NewMetrics prints to w.
func NewMetrics(w io.Writer) (*Metrics, error) {
	e, err := stdoutmetric.New(stdoutmetric.WithWriter(w))
	if err != nil {
		return nil, fmt.Errorf("open metrics console: %w", err)
	}
	return &Metrics{e}, nil
}

// Name implements exporter.Metrics.
func (*Metrics) Name() string { return "console" }

// ExportMetrics implements exporter.Metrics.
func (m *Metrics) ExportMetrics(ctx context.Context, rm *metricdata.ResourceMetrics) error {
	if err := m.Export(ctx, rm); err != nil {
		return fmt.Errorf("print metrics: %w", err)
	}
	return nil
}

// FlushMetrics implements exporter.Metrics: nothing is kept.
func (*Metrics) FlushMetrics(context.Context) error { return nil }
