// Package fromconfig makes the exporters that a configuration names. It is the
// only package that knows them all.
package fromconfig

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/exporter/console"
	"github.com/tracer-agent/tracer-agent/exporter/otlp"
	"github.com/tracer-agent/tracer-agent/exporter/prom"
	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
)

// Open makes the exporters of cfg; version is the agent's. What prints, prints
// to stdout, which should be from console.Stdout.
func Open(ctx context.Context, cfg config.Config, version string, stdout *os.File, log *slog.Logger, metrics *selfmetrics.Registry) ([]exporter.Exporter, error) {
	var out []exporter.Exporter
	for _, name := range cfg.Exporters {
		switch name {
		case config.ExporterOTLP:
			e, err := openOTLP(ctx, cfg, version, log, metrics)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		case config.ExporterConsole:
			out = append(out, console.New(stdout, console.Options{Color: console.IsTerminal(stdout)}))
		case config.ExporterTree:
			out = append(out, console.NewTree(stdout, console.DefaultSettle, console.Options{Color: console.IsTerminal(stdout)}))
		case config.ExporterJSON:
			out = append(out, console.NewJSON(stdout))
		default:
			return nil, fmt.Errorf("unknown exporter %q", name)
		}
	}
	return out, nil
}

func openOTLP(ctx context.Context, cfg config.Config, version string, log *slog.Logger, metrics *selfmetrics.Registry) (exporter.Exporter, error) {
	if cfg.DiskQueue.Directory != "" {
		return otlp.NewDurable(ctx, cfg.OTLP, cfg.DiskQueue, version, log, metrics)
	}
	return otlp.New(ctx, cfg.OTLP, version)
}

// OpenMetrics makes the destinations of metrics that cfg names: those that are sent
// to, and those that ask.
func OpenMetrics(ctx context.Context, cfg config.Config, log *slog.Logger, stdout *os.File) (
	push []exporter.Metrics, pull []exporter.MetricsPull, err error,
) {
	for _, name := range cfg.Metrics.Exporters {
		switch name {
		case config.ExporterOTLP:
			e, err := otlp.NewMetrics(ctx, cfg.MetricsOTLP, cfg.Metrics)
			if err != nil {
				return nil, nil, err
			}
			push = append(push, e)
		case config.ExporterConsole:
			e, err := console.NewMetrics(stdout)
			if err != nil {
				return nil, nil, err
			}
			push = append(push, e)
		case config.ExporterPrometheus:
			e, err := prom.New(cfg.Metrics, log)
			if err != nil {
				return nil, nil, err
			}
			pull = append(pull, e)
		default:
			return nil, nil, fmt.Errorf("unknown metrics exporter %q", name)
		}
	}
	return push, pull, nil
}
