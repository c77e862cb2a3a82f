package otlp

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"google.golang.org/grpc"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/config"
)

// Metrics implements exporter.Metrics by the SDK's own exporters. Use NewMetrics.
type Metrics struct {
	metric.Exporter
	together *together
	close    func()
}

var _ exporter.Metrics = (*Metrics)(nil)

// NewMetrics connects lazily, as New does.
func NewMetrics(ctx context.Context, cfg config.OTLP, m config.Metrics) (*Metrics, error) {
	u, err := cfg.MetricsURL()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	e := &Metrics{together: &together{}, close: func() {}}
	if cfg.Protocol == config.ProtocolGRPC {
		e.Exporter, err = e.grpc(ctx, cfg, m, u, tlsConfig)
	} else {
		h := httpClient(cfg, tlsConfig)
		e.together.next, h.Transport = h.Transport, e.together
		e.close = h.CloseIdleConnections
		e.Exporter, err = httpMetrics(ctx, cfg, m, u, h)
	}
	if err != nil {
		return nil, fmt.Errorf("start OTLP metrics exporter: %w", err)
	}
	return e, nil
}

func (e *Metrics) grpc(ctx context.Context, cfg config.OTLP, m config.Metrics, u *url.URL, tlsConfig *tls.Config) (metric.Exporter, error) {
	target, compressor, creds := grpcTarget(cfg, u, tlsConfig)
	var zip []otlpmetricgrpc.Option
	if compressor != "" {
		zip = append(zip, otlpmetricgrpc.WithCompressor(compressor))
	}
	return otlpmetricgrpc.New(ctx, append(zip,
		otlpmetricgrpc.WithEndpoint(target),
		otlpmetricgrpc.WithHeaders(cfg.Headers),
		otlpmetricgrpc.WithTimeout(cfg.Timeout),
		otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig{
			Enabled: true, InitialInterval: retryInitial, MaxInterval: retryMax, MaxElapsedTime: retryElapsed,
		}),
		otlpmetricgrpc.WithDialOption(grpc.WithTransportCredentials(creds), connectParams(),
			grpc.WithChainUnaryInterceptor(e.together.unary)),
		otlpmetricgrpc.WithTemporalitySelector(temporality(m)),
		otlpmetricgrpc.WithAggregationSelector(aggregation(m)),
	)...)
}

func httpMetrics(ctx context.Context, cfg config.OTLP, m config.Metrics, u *url.URL, h *http.Client) (metric.Exporter, error) {
	return otlpmetrichttp.New(ctx,
		otlpmetrichttp.WithEndpointURL(u.String()),
		otlpmetrichttp.WithHeaders(cfg.Headers),
		otlpmetrichttp.WithCompression(otlpmetrichttp.NoCompression), // httpClient does it
		otlpmetrichttp.WithHTTPClient(h),
		otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{
			Enabled: true, InitialInterval: retryInitial, MaxInterval: retryMax, MaxElapsedTime: retryElapsed,
		}),
		otlpmetrichttp.WithTemporalitySelector(temporality(m)),
		otlpmetrichttp.WithAggregationSelector(aggregation(m)),
	)
}

func temporality(m config.Metrics) metric.TemporalitySelector {
	switch m.Temporality {
	case config.TemporalityDelta:
		return metric.DeltaTemporalitySelector
	case config.TemporalityLowMemory:
		return metric.LowMemoryTemporalitySelector
	default:
		return metric.CumulativeTemporalitySelector
	}
}

func aggregation(m config.Metrics) metric.AggregationSelector {
	if m.Histogram != config.HistogramExponential {
		return metric.DefaultAggregationSelector
	}
	return func(k metric.InstrumentKind) metric.Aggregation {
		if k == metric.InstrumentKindHistogram {
			return metric.AggregationBase2ExponentialHistogram{MaxSize: exponentialBuckets, MaxScale: exponentialScale}
		}
		return metric.DefaultAggregationSelector(k)
	}
}

// The specification's defaults.
const (
	exponentialBuckets = 160
	exponentialScale   = 20
)

// Name implements exporter.Metrics.
func (*Metrics) Name() string { return "otlp" }

// ExportMetrics implements exporter.Metrics: rm is encoded and kept.
func (e *Metrics) ExportMetrics(ctx context.Context, rm *metricdata.ResourceMetrics) error {
	if err := e.Export(ctx, rm); err != nil {
		e.together.clear()
		return fmt.Errorf("encode metrics: %w", err)
	}
	if e.together.full() {
		return e.FlushMetrics(ctx)
	}
	return nil
}

// FlushMetrics implements exporter.Metrics.
func (e *Metrics) FlushMetrics(ctx context.Context) error {
	if e.together.empty() {
		return nil
	}
	e.together.last = true
	defer e.together.clear()
	err := e.Export(ctx, &metricdata.ResourceMetrics{Resource: resource.Empty()})
	if err == nil {
		return nil
	}
	if m := partialPoints.FindStringSubmatch(err.Error()); m != nil {
		if n, perr := strconv.ParseInt(m[2], 10, 64); perr == nil {
			return &exporter.RejectedPointsError{Points: n, Message: m[1]}
		}
	}
	return fmt.Errorf("send metrics: %w", err)
}

// partialPoints is the text of the SDK's error, whose type is internal to it.
var partialPoints = regexp.MustCompile(`OTLP partial success: (?s:(.*)) \((\d+) metric data points rejected\)`)

// Shutdown closes the connection.
func (e *Metrics) Shutdown(ctx context.Context) error {
	err := e.Exporter.Shutdown(ctx)
	e.close()
	if err != nil {
		return fmt.Errorf("stop OTLP metrics exporter: %w", err)
	}
	return nil
}
