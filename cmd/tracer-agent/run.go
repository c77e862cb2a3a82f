package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel"
	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/kernel"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
)

// stopWithin is how long detaching and flushing may take after a signal.
const stopWithin = 1800 * time.Millisecond

var errNothingSelected = errors.New("nothing is selected: use --pid, --exe, --port or --all-go " +
	"(tracer-agent list shows what there is)")

func newRun() *cobra.Command {
	var flags config.Flags
	var file string
	var overhead float64
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Watch programs and send their spans until told to stop",
		Long: `run attaches to the selected programs, the running ones and those that start
later, and sends a span for every request they serve and every call they make.

Settings come from flags, then the standard OTEL_* environment, then the file.
Without an endpoint spans are printed, one line each. SIGINT or SIGTERM detaches,
flushes and ends; SIGUSR1 prints the agent's own metrics on standard error; SIGHUP,
or a change of the file, reads the configuration again.`,
		Example: `  tracer-agent run --pid 4711
  tracer-agent run --exe '/srv/**/api-*' --exclude '*-test' --endpoint http://localhost:4317
  tracer-agent run --port 8080 --exporter json
  OTEL_EXPORTER_OTLP_ENDPOINT=https://otlp.example.com OTEL_EXPORTER_OTLP_HEADERS=api-key=... tracer-agent run --all-go
  tracer-agent run --config /etc/tracer-agent.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("max-overhead") {
				flags.MaxOverhead = &overhead
			}
			load := func() (config.Config, error) {
				return config.Load(config.LoadOptions{File: file, Getenv: os.Getenv, Flags: flags, Probes: probeNames()})
			}
			cfg, err := load()
			if err != nil {
				return err
			}
			if cfg.SelectsNothing() && cfg.Enabled && !cfg.Disabled {
				return usageError{errNothingSelected}
			}
			return runUntilStopped(cfg, file, load, cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntSliceVar(&flags.PIDs, "pid", nil, "watch this process (repeatable)")
	f.StringArrayVar(&flags.Exes, "exe", nil, "watch processes of executables that match: a file name, or a path with / (repeatable; * ? ** [a-z] {a,b})")
	f.IntSliceVar(&flags.Ports, "port", nil, "watch processes that listen on this TCP port (repeatable)")
	f.BoolVar(&flags.AllGo, "all-go", false, "watch every Go program on the host")
	f.StringArrayVar(&flags.Exclude, "exclude", nil, "but not executables that match (repeatable)")
	f.StringVar(&file, "config", "", "read settings from this YAML file")
	f.StringSliceVar(&flags.Exporters, "exporter", nil, "where spans go: otlp, console, tree, json or none (repeatable)")
	f.StringVar(&flags.Endpoint, "endpoint", "", "OTLP endpoint, for example http://localhost:4317")
	f.StringVar(&flags.ServiceName, "service-name", "", "service name of programs that do not say theirs")
	f.StringVar(&flags.LogLevel, "log-level", "", "debug, info, warn, error or none (default info)")
	f.StringVar(&flags.Propagation, "propagation", "", "how a trace gets to the next service: auto, memory, join, kernel, off (default auto)")
	f.Float64Var(&overhead, "max-overhead", config.Default().MaxOverhead, "percentage of one CPU that probes may cost a watched process; the dearest is shed beyond it; 0: no limit")
	f.StringVar(&flags.LogFormat, "log-format", "", "text or json (default text)")
	return cmd
}

func newLogger(cfg config.Log, w io.Writer) (*slog.Logger, *slog.LevelVar) {
	level := &slog.LevelVar{}
	level.Set(cfg.SlogLevel())
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(w, opts)), level
	}
	return slog.New(slog.NewTextHandler(w, opts)), level
}

// runUntilStopped runs the agent with the signals that steer it.
func runUntilStopped(cfg config.Config, file string, load func() (config.Config, error), stderr io.Writer) error {
	// A destination's answers are quoted in the log, and may quote what it was sent.
	stderr = redact.NewWriter(stderr, cfg.Secrets())
	log, level := newLogger(cfg.Log, stderr)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("OpenTelemetry SDK", "error", oneLine(err)) }))
	metrics := selfmetrics.New()
	metrics.RegisterRSS()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	steer := &steering{log: log, stop: cancel, reloads: make(chan string, 1), print: func() {
		_ = metrics.WriteText(stderr) // an error here is standard error's own
	}}
	defer steer.start(ctx)()

	if cfg.Disabled {
		log.Info("disabled by OTEL_SDK_DISABLED: nothing is attached")
		<-ctx.Done()
		return nil
	}
	if err := kernel.Preflight(); err != nil {
		return err
	}
	a, err := newAgent(cfg, log, metrics)
	if err != nil {
		return err
	}
	steer.agent.Store(a)
	switch left, err := kernel.DropPrivileges(a.kernelMode != nil); {
	case errors.Is(err, kernel.ErrManyThreads): // a build for tests; what is released has no cgo
		log.Debug("privileges are kept", "error", err)
	case err != nil:
		log.Warn("privileges that are not needed any more are kept", "error", err)
	default:
		log.Debug("privileges dropped", "left", left)
	}
	for _, c := range kernel.MissingCapabilities() {
		log.Warn("a capability is missing", "capability", c.Name, "used_to", c.Use)
	}
	if !cfg.Enabled {
		log.Info("disabled by the configuration: nothing is attached until enabled is true")
	}
	if file != "" {
		if err := config.Watch(ctx, file, func() { steer.reload("the file has changed") }); err != nil {
			log.Warn("the configuration is read again on SIGHUP only", "error", err)
		}
	}
	reload := reloader{load: load, now: cfg, level: level, log: log, agent: a}
	reloading := make(chan struct{})
	go func() {
		defer close(reloading)
		for {
			select {
			case <-ctx.Done():
				return
			case why := <-steer.reloads:
				reload.reload(ctx, why)
			}
		}
	}()
	err = a.run(ctx)
	cancel()
	<-reloading
	stop, stopped := context.WithTimeout(context.Background(), stopWithin)
	defer stopped()
	if cerr := a.close(stop); cerr != nil {
		log.Warn("not everything was flushed", "error", oneLine(cerr))
	}
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	return nil
}

// steering is what signals do.
type steering struct {
	log         *slog.Logger
	stop, print func()
	agent       atomic.Pointer[agent] // nil until there is one
	reloads     chan string           // why
}

// reload asks for a reload; one that waits already is enough.
func (s *steering) reload(why string) {
	select {
	case s.reloads <- why:
	default:
	}
}

// start handles signals until the function that it returns is called.
func (s *steering) start(ctx context.Context) (end func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGUSR1, unix.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case sig := <-signals:
				switch {
				case sig == unix.SIGUSR1:
					s.print()
				case sig == unix.SIGHUP:
					s.reload(sig.String())
				case ctx.Err() == nil:
					s.log.Info("stopping", "signal", sig.String())
					s.stop()
				default:
					s.log.Warn("stopping at once; what was not sent is lost", "signal", sig.String())
					if a := s.agent.Load(); a != nil {
						a.manager.LeaveToKernel() // what is half done it would leave behind
					}
					os.Exit(exitFailed)
				}
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}
