package config

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/metricrules"
	"github.com/tracer-agent/tracer-agent/internal/redact"
)

// Metrics says which metrics are made, where they go and in which form.
type Metrics struct {
	// Exporters are some of ExporterOTLP, ExporterPrometheus and ExporterConsole; empty
	// after Load when the user said none, or said nothing and no OTLP endpoint is set.
	Exporters []string `yaml:"exporters"`
	// Interval is how often metrics are sent; Timeout bounds one time.
	Interval time.Duration `yaml:"interval"`
	Timeout  time.Duration `yaml:"timeout"`
	// Temporality is one of the Temporality constants.
	Temporality string `yaml:"temporality"`
	// Histogram is HistogramExplicit or HistogramExponential.
	Histogram string `yaml:"histogram"`
	// SeriesLimit bounds the series of one metric of one process.
	SeriesLimit int `yaml:"series_limit"`
	// Process and Host switch the metrics that are read from /proc and cgroups.
	Process bool `yaml:"process"`
	Host    bool `yaml:"host"`
	// Runtime switches the Go runtime's values, read from the programs' memory.
	Runtime bool `yaml:"runtime"`
	// ApdexThreshold is the duration of a served request that satisfies.
	ApdexThreshold time.Duration `yaml:"apdex_threshold"`
	// PrometheusHost and PrometheusPort are where ExporterPrometheus listens.
	PrometheusHost string `yaml:"prometheus_host"`
	PrometheusPort int    `yaml:"prometheus_port"`
	// Rules derive metrics from operations.
	Rules []metricrules.Rule `yaml:"rules"`
}

// Values of Metrics.Temporality and Metrics.Histogram.
const (
	TemporalityCumulative = "cumulative"
	TemporalityDelta      = "delta"
	TemporalityLowMemory  = "lowmemory"

	HistogramExplicit    = "explicit_bucket_histogram"
	HistogramExponential = "base2_exponential_bucket_histogram"
)

// DefaultMetrics is what holds when nobody says anything else.
func DefaultMetrics() Metrics {
	return Metrics{
		Interval: time.Minute, Timeout: 30 * time.Second,
		Temporality: TemporalityCumulative, Histogram: HistogramExplicit, SeriesLimit: 2000,
		Process: true, Host: true, Runtime: true, ApdexThreshold: 500 * time.Millisecond, PrometheusHost: "localhost", PrometheusPort: 9464,
	}
}

const maxSeriesLimit = 100_000

// metrics applies the variables for metrics, after the general OTLP ones.
func (e *env) metrics() {
	m := &e.l.cfg.Metrics
	e.list("OTEL_METRICS_EXPORTER", "metrics.exporters", &m.Exporters)
	e.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", "metrics.interval", &m.Interval)
	e.milliseconds("OTEL_METRIC_EXPORT_TIMEOUT", "metrics.timeout", &m.Timeout)
	e.text("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "metrics.temporality", &m.Temporality)
	e.text("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "metrics.histogram", &m.Histogram)
	e.text("OTEL_EXPORTER_PROMETHEUS_HOST", "metrics.prometheus_host", &m.PrometheusHost)
	e.integer("OTEL_EXPORTER_PROMETHEUS_PORT", "metrics.prometheus_port", &m.PrometheusPort)
}

// resolveMetrics fills in what depends on other settings.
func (l *loader) resolveMetrics() {
	m := &l.cfg.Metrics
	o := &l.cfg.MetricsOTLP
	endpoint := o.MetricsEndpoint
	if endpoint == "" {
		endpoint = o.Endpoint
	}
	if len(m.Exporters) == 0 && endpoint != "" {
		m.Exporters = []string{ExporterOTLP}
	}
	if o.Protocol == "" {
		o.Protocol = protocolOf(endpoint)
	}
	if endpoint == "" {
		o.Endpoint = localEndpoint(o.Protocol)
	}
	m.Temporality, m.Histogram = strings.ToLower(m.Temporality), strings.ToLower(m.Histogram)
}

func (l *loader) validateMetrics() error {
	m := &l.cfg.Metrics
	var errs []error
	var out []string
	none := false
	for _, name := range m.Exporters {
		switch name {
		case ExporterOTLP, ExporterPrometheus, ExporterConsole:
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		case ExporterNone:
			none = true
		default:
			errs = append(errs, l.invalid("metrics.exporters", "%q: want one or more of otlp, prometheus, console, or none", name))
		}
	}
	if none && len(out) > 0 {
		errs = append(errs, l.invalid("metrics.exporters", "none cannot be combined with %s", strings.Join(out, ", ")))
	}
	m.Exporters = out
	if m.Interval < time.Second/10 || m.Interval > maxDelay {
		errs = append(errs, l.invalid("metrics.interval", "%v: want 100ms to %v", m.Interval, maxDelay))
	}
	if m.Timeout <= 0 || m.Timeout > maxDelay {
		errs = append(errs, l.invalid("metrics.timeout", "%v: want more than zero, at most %v", m.Timeout, maxDelay))
	}
	if t := m.Temporality; t != TemporalityCumulative && t != TemporalityDelta && t != TemporalityLowMemory {
		errs = append(errs, l.invalid("metrics.temporality", "%q: want cumulative, delta or lowmemory", t))
	}
	if h := m.Histogram; h != HistogramExplicit && h != HistogramExponential {
		errs = append(errs, l.invalid("metrics.histogram", "%q: want %s or %s", h, HistogramExplicit, HistogramExponential))
	}
	if m.SeriesLimit < 2 || m.SeriesLimit > maxSeriesLimit {
		errs = append(errs, l.invalid("metrics.series_limit", "%d: want 2 to %d", m.SeriesLimit, maxSeriesLimit))
	}
	if m.ApdexThreshold <= 0 || m.ApdexThreshold > maxDelay {
		errs = append(errs, l.invalid("metrics.apdex_threshold", "%v: want more than zero, at most %v", m.ApdexThreshold, maxDelay))
	}
	if m.PrometheusHost == "" {
		errs = append(errs, l.invalid("metrics.prometheus_host", "empty: want a host name or address to listen on"))
	}
	if m.PrometheusPort < 0 || m.PrometheusPort > 65535 {
		errs = append(errs, l.invalid("metrics.prometheus_port", "%d: want 0 to 65535", m.PrometheusPort))
	}
	return errors.Join(append(errs, l.validateRules(), l.validateOverhead())...)
}

// validateRules compiles the rules: what is wrong with them is said at the start.
func (l *loader) validateRules() error {
	rules := l.cfg.Metrics.Rules
	set, err := metricrules.Compile(rules, redact.New(l.cfg.Redact.QueryNames).Field)
	if err != nil {
		var errs []error
		for line := range strings.Lines(err.Error()) {
			errs = append(errs, l.invalid("metrics.rules", "%s", strings.TrimSpace(line)))
		}
		return errors.Join(errs...)
	}
	const header = "http.request.header."
	for _, a := range set.Attributes() {
		name, ok := strings.CutPrefix(a, header)
		if ok && !slices.ContainsFunc(l.cfg.Propagation.CorrelationHeaders, func(h string) bool { return strings.ToLower(h) == name }) {
			return l.invalid("metrics.rules", "%s is used and not captured: add the header to propagation.correlation_headers", a)
		}
	}
	return nil
}

func (l *loader) validateOverhead() error {
	if v := l.cfg.MaxOverhead; !(v >= 0 && v <= 100) {
		return l.invalid("max_overhead", "%v: want a percentage of one CPU, 0 (no limit) to 100", v)
	}
	return nil
}
