package metrics

import (
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// seriesPerService bounds the series of all metrics of all processes of one service.
const seriesPerService = 20_000

// overflowSet marks the series that takes what is beyond a limit, as the SDK does.
var overflowSet = attribute.NewSet(attribute.Bool("otel.metric.overflow", true))

// budget is what the processes of one service have in common.
type budget struct{ left atomic.Int64 }

func (b *budget) take() bool {
	if b.left.Add(-1) >= 0 {
		return true
	}
	b.left.Add(1)
	return false
}

func (b *budget) give(n int) { b.left.Add(int64(n)) }

// budgetOf finds or makes the budget of a resource's service; s.mu is held.
func (s *Store) budgetOf(r *telemetry.Resource) *budget {
	name := ""
	for _, kv := range r.Attributes {
		if kv.Key == "service.name" {
			name = kv.Value.AsString()
		}
	}
	b := s.services[name]
	if b == nil {
		if len(s.services) >= maxEntities {
			clear(s.services) // services that came and went
		}
		b = &budget{}
		b.left.Store(seriesPerService)
		s.services[name] = b
	}
	return b
}

// overflow counts the values that went to overflow series, by metric.
type overflow struct {
	reg *selfmetrics.Registry

	mu       sync.Mutex
	counters map[*telemetry.Instrument]*selfmetrics.Counter
}

func newOverflow(reg *selfmetrics.Registry) *overflow {
	return &overflow{reg: reg, counters: map[*telemetry.Instrument]*selfmetrics.Counter{}}
}

func (o *overflow) count(i *telemetry.Instrument) {
	o.mu.Lock()
	c := o.counters[i]
	if c == nil {
		c = o.reg.Counter(nameOverflow, selfmetrics.L("metric", i.Name))
		o.counters[i] = c
	}
	o.mu.Unlock()
	c.Inc()
}
