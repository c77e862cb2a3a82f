package prom

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// plural gathers what g does with names that promtool accepts: the conventions' gauges of
// things, such as process.thread.count, end in what Prometheus keeps for histograms, and
// become process_threads.
func plural(g prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		all, err := g.Gather()
		taken := make(map[string]bool, len(all))
		for _, f := range all {
			taken[f.GetName()] = true
		}
		for _, f := range all {
			name, ok := strings.CutSuffix(f.GetName(), "_count")
			if name += "s"; ok && f.GetType() == dto.MetricType_GAUGE && !taken[name] {
				f.Name = &name
				taken[name] = true
			}
		}
		return all, err
	})
}
