package metrics

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Self is the source of the agent's own metrics.
type Self struct {
	reg   *selfmetrics.Registry
	began time.Time
}

// NewSelf makes the source of a registry's metrics.
func NewSelf(reg *selfmetrics.Registry) *Self { return &Self{reg: reg, began: time.Now()} }

// Open implements Source.
func (s *Self) Open(key telemetry.ProcessKey) (Reading, time.Time) {
	if key != Agent {
		return nil, time.Time{}
	}
	instruments := map[string]*telemetry.Instrument{}
	return func(observe telemetry.Observe) {
		for _, f := range s.reg.Snapshot() {
			i := instruments[f.Name]
			if i == nil {
				i = &telemetry.Instrument{Name: f.Name, Description: f.Help, Kind: telemetry.Counter}
				if f.Kind == selfmetrics.KindGauge {
					i.Kind = telemetry.Gauge
				}
				instruments[f.Name] = i
			}
			for _, sample := range f.Samples {
				kvs := make([]attribute.KeyValue, 0, len(sample.Labels))
				for _, l := range sample.Labels {
					kvs = append(kvs, attribute.String(l.Key, l.Value))
				}
				observe(i, sample.Value, attribute.NewSet(kvs...))
			}
		}
	}, s.began
}
