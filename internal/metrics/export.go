package metrics

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Names of what the store counts of itself.
const (
	nameSent     = "tracer_agent_metric_points_exported_total"
	nameFailures = "tracer_agent_metric_export_failures_total"
	nameRefused  = "tracer_agent_measurements_refused_total"
	nameOverflow = "tracer_agent_metric_overflow_values_total"
	nameEntities = "tracer_agent_metric_processes"
)

// complainEvery bounds how often failed exports are logged.
const complainEvery = 30 * time.Second

func registerHelp(reg *selfmetrics.Registry, s *Store) {
	for name, text := range map[string]string{
		nameSent:     "Data points handed over to a destination, by exporter.",
		nameFailures: "Exports of metrics that were given up, by exporter; each is one interval's data of one or more processes.",
		nameRefused:  "Measurements of processes that were not known or were too many.",
		nameOverflow: "Values that went to an overflow series because their metric has too many, by metric.",
	} {
		reg.Func(name, text, selfmetrics.KindCounter, func(selfmetrics.Emit) {})
	}
	reg.Func(nameEntities, "Processes that have metrics, the agent included.", selfmetrics.KindGauge,
		func(emit selfmetrics.Emit) { emit(float64(s.Processes())) })
}

// export sends everything to every push destination, then forgets what is over.
func (s *Store) export(ctx context.Context, now time.Time) error {
	s.exporting.Lock()
	defer s.exporting.Unlock()
	s.mu.RLock()
	all := make([]*entity, 0, len(s.entities))
	for _, e := range s.entities {
		all = append(all, e)
	}
	s.mu.RUnlock()
	over := map[telemetry.ProcessKey]*entity{}
	for _, e := range all {
		if e.over(now) {
			over[e.key] = e
		}
	}
	var errs []error
	for i, dst := range s.o.Push {
		if err := s.exportTo(ctx, i, dst, all); err != nil {
			errs = append(errs, fmt.Errorf("export metrics to %s: %w", dst.Name(), err))
			s.complain(dst.Name(), err)
		}
	}
	s.mu.Lock()
	for key, e := range over {
		if s.entities[key] == e {
			delete(s.entities, key)
		}
	}
	s.mu.Unlock()
	for _, e := range over {
		e.close()
	}
	return errors.Join(errs...)
}

// exportTo sends one resource after the other. When one fails the rest is not tried:
// it would fail the same way.
func (s *Store) exportTo(ctx context.Context, i int, dst exporter.Metrics, all []*entity) error {
	var rm metricdata.ResourceMetrics
	var refused error
	points := 0
	// done says whether to go on after an error or none.
	done := func(err error) bool {
		var rejected *exporter.RejectedPointsError
		if errors.As(err, &rejected) {
			points -= int(rejected.Points)
			refused, err = s.failed(dst, err), nil
		}
		return err == nil
	}
	for _, e := range all {
		if err := e.collect(ctx, i, &rm); err != nil {
			return s.failed(dst, err)
		}
		n := countPoints(&rm)
		if n == 0 {
			continue
		}
		if err := dst.ExportMetrics(ctx, &rm); !done(err) {
			return s.failed(dst, err)
		}
		points += n
	}
	if err := dst.FlushMetrics(ctx); !done(err) {
		return s.failed(dst, err)
	}
	s.sent[dst.Name()].Add(uint64(max(points, 0)))
	return refused
}

func (s *Store) failed(dst exporter.Metrics, err error) error {
	s.failures[dst.Name()].Inc()
	return err
}

func (s *Store) complain(name string, err error) {
	if now := time.Now(); now.Sub(s.voiced) >= complainEvery {
		s.voiced = now
		s.o.Log.Warn("metrics not delivered", "exporter", name, "error", err)
	}
}

// countPoints counts the data points; the types are those that a Store makes.
func countPoints(rm *metricdata.ResourceMetrics) int {
	n := 0
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Sum[float64]:
				n += len(d.DataPoints)
			case metricdata.Gauge[float64]:
				n += len(d.DataPoints)
			case metricdata.Histogram[float64]:
				n += len(d.DataPoints)
			case metricdata.ExponentialHistogram[float64]:
				n += len(d.DataPoints)
			}
		}
	}
	return n
}
