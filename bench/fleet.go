package main

import (
	"fmt"
	"time"
)

// fleet is what the metrics of 100 idle Go processes cost the agent, sent every 10 s: its
// CPU time with them, less that without any.
func (b *bench) fleet() error {
	const size, window = 100, 2 * time.Minute
	to, err := startSink()
	if err != nil {
		return err
	}
	defer to.proc.stop()
	var procs []*proc
	for range size {
		p, err := start(procSpec{path: b.trivial, cpu: serverCPU})
		if err != nil {
			return err
		}
		defer p.stop()
		procs = append(procs, p)
	}
	share := func(exporter string) (float64, error) {
		agent, err := b.tracedEnv(to, []string{"OTEL_METRICS_EXPORTER=" + exporter, "OTEL_METRIC_EXPORT_INTERVAL=10000"}, procs...)
		if err != nil {
			return 0, err
		}
		defer agent.stop()
		time.Sleep(15 * time.Second) // programs are loaded, and the first export is the dearest
		before, err := cpuTime(agent.pid())
		if err != nil {
			return 0, err
		}
		time.Sleep(window)
		after, err := cpuTime(agent.pid())
		return (after - before).Seconds() / window.Seconds(), err
	}
	with, err := share("otlp")
	if err != nil {
		return err
	}
	without, err := share("none")
	if err != nil {
		return err
	}
	b.report.add(row{
		what: fmt.Sprintf("agent CPU for metrics of %d idle Go processes every 10 s (all it uses; without metrics)", size), must: "<= 1 % of a CPU",
		agent: fmt.Sprintf("%.2f %% (%.2f %%; %.2f %%)", 100*(with-without), 100*with, 100*without), sdk: "-", ok: with-without <= 0.01,
	})
	return nil
}
