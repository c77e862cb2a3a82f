// Package prom serves metrics to Prometheus: the OpenTelemetry SDK's own bridge, one
// collector for each resource, behind one HTTP endpoint.
package prom

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/config"
)

const (
	// A scrape reads /proc: some at once are enough.
	maxScrapes    = 4
	scrapeTimeout = 30 * time.Second
	headerTimeout = 5 * time.Second
	idleTimeout   = 2 * time.Minute
	// What a native histogram of Prometheus can have.
	exponentialBuckets = 160
	exponentialScale   = 8
)

// Endpoint implements exporter.MetricsPull. Use New.
type Endpoint struct {
	group *group
	agg   metric.AggregationSelector
	srv   *http.Server
	addr  net.Addr
}

var _ exporter.MetricsPull = (*Endpoint)(nil)

// New listens at once: a port that is taken is an error here.
func New(cfg config.Metrics, log *slog.Logger) (*Endpoint, error) {
	e := &Endpoint{group: &group{members: map[*member]struct{}{}}, agg: metric.DefaultAggregationSelector}
	reg := prometheus.NewRegistry()
	if err := reg.Register(e.group); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if cfg.Histogram == config.HistogramExponential {
		e.agg = exponential
	}
	host := cfg.PrometheusHost
	if host == "localhost" {
		host = "127.0.0.1" // RFC 6761; the default must not need a resolver or /etc/hosts
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(cfg.PrometheusPort)))
	if err != nil {
		return nil, fmt.Errorf("listen for Prometheus: %w", err)
	}
	e.addr = l.Addr()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(plural(reg), promhttp.HandlerOpts{
		// Exemplars are only in this format.
		EnableOpenMetrics: true, MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout,
		ErrorHandling: promhttp.ContinueOnError, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}))
	e.srv = &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout}
	go func() {
		if err := e.srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the Prometheus endpoint ended", "error", err)
		}
	}()
	log.Info("metrics for Prometheus", "url", "http://"+e.addr.String()+"/metrics")
	return e, nil
}

func exponential(k metric.InstrumentKind) metric.Aggregation {
	if k == metric.InstrumentKindHistogram {
		return metric.AggregationBase2ExponentialHistogram{MaxSize: exponentialBuckets, MaxScale: exponentialScale}
	}
	return metric.DefaultAggregationSelector(k)
}

// Addr is where it listens.
func (e *Endpoint) Addr() net.Addr { return e.addr }

// Name implements exporter.MetricsPull.
func (*Endpoint) Name() string { return "prometheus" }

// Aggregation implements exporter.MetricsPull.
func (e *Endpoint) Aggregation(k metric.InstrumentKind) metric.Aggregation { return e.agg(k) }

// identity are the resource attributes that every series carries: what tells the
// processes behind one endpoint apart. All others are in target_info.
var identity = attribute.NewAllowKeysFilter("service.name", "service.namespace", "service.instance.id")

// Open implements exporter.MetricsPull.
func (e *Endpoint) Open(p metric.Producer) (metric.Reader, func(), error) {
	m := &member{group: e.group}
	r, err := otelprom.New(otelprom.WithRegisterer(m), otelprom.WithProducer(p), otelprom.WithoutScopeInfo(),
		otelprom.WithResourceAsConstantLabels(identity))
	if err != nil {
		return nil, nil, fmt.Errorf("make a collector: %w", err)
	}
	return r, func() { m.Unregister(m.c) }, nil
}

// Shutdown ends the server.
func (e *Endpoint) Shutdown(ctx context.Context) error {
	if err := e.srv.Shutdown(ctx); err != nil {
		return fmt.Errorf("stop the Prometheus endpoint: %w", err)
	}
	return nil
}
