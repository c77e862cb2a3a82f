package prom

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// group is the one collector that is registered; its members come and go with the
// processes. A Registry cannot let go of a collector that describes nothing, as the
// bridge's do.
type group struct {
	mu      sync.Mutex
	members map[*member]struct{}
}

// Describe implements prometheus.Collector: what there is depends on the members.
func (*group) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (g *group) Collect(ch chan<- prometheus.Metric) {
	g.mu.Lock()
	all := make([]prometheus.Collector, 0, len(g.members))
	for m := range g.members {
		all = append(all, m.c)
	}
	g.mu.Unlock()
	for _, c := range all {
		c.Collect(ch)
	}
}

// member is the prometheus.Registerer that one bridge is given.
type member struct {
	group *group
	c     prometheus.Collector
}

// Register implements prometheus.Registerer.
func (m *member) Register(c prometheus.Collector) error {
	m.group.mu.Lock()
	defer m.group.mu.Unlock()
	m.c = c
	m.group.members[m] = struct{}{}
	return nil
}

// MustRegister implements prometheus.Registerer.
func (m *member) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		_ = m.Register(c)
	}
}

// Unregister implements prometheus.Registerer.
func (m *member) Unregister(prometheus.Collector) bool {
	m.group.mu.Lock()
	defer m.group.mu.Unlock()
	_, ok := m.group.members[m]
	delete(m.group.members, m)
	return ok
}
