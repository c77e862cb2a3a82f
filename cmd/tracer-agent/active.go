package main

import (
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// activeSource shows the operations that processes have in flight, once there is a
// manager, which comes after the metrics.
type activeSource struct{ manager atomic.Pointer[probe.Manager] }

// Open implements metrics.Source.
func (s *activeSource) Open(key telemetry.ProcessKey) (metrics.Reading, time.Time) {
	if key == metrics.Agent {
		return nil, time.Time{}
	}
	seen := map[*telemetry.Instrument]bool{}
	return func(observe telemetry.Observe) {
		if m := s.manager.Load(); m != nil {
			m.Active(key.PID, seen, func(i *telemetry.Instrument, n int) { observe(i, float64(n), attribute.Set{}) })
		}
	}, time.Now()
}
