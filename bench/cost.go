package main

import (
	"fmt"
	"log"
	"time"
)

const (
	fixedRate = 800
	// saturating is how many connections keep the server busy while the generator
	// shares its processor with the agent: a server that waits in between spends more
	// on every request, on going to sleep and being woken.
	saturating = 64
)

// cost compares the servers in turns and accounts for the agent's own time.
func (b *bench) cost() error {
	upstream, err := start(procSpec{path: b.trivial, cpu: loadCPU, env: []string{"GOMAXPROCS=1"}})
	if err != nil {
		return err
	}
	defer upstream.stop()
	to := []string{"-upstream", "http://" + upstream.ready.HTTP + "/"}
	c, err := b.contest("cost", procSpec{path: b.trivial, args: to}, procSpec{path: b.sdktwin, args: to})
	if err != nil {
		return err
	}
	defer c.stop()
	vs := c.variants

	for _, v := range vs { // warm: connections, pages, the agent's first looks
		if _, err := b.timed(v, loadSpec{path: "/", conns: saturating, duration: b.length / 2}); err != nil {
			return err
		}
		if _, err := b.timed(v, loadSpec{path: "/call", conns: saturating, duration: b.length / 2}); err != nil {
			return err
		}
		v.reqs, v.calls = 0, 0
	}
	before, err := c.spans.settled()
	if err != nil {
		return err
	}
	agentBefore, err := cpuTime(c.agent.pid())
	if err != nil {
		return err
	}
	var agentCPU, agentIdle time.Duration
	for r := range b.rounds {
		log.Printf("  round %d of %d", r+1, b.rounds)
		if err := round(vs, r, b.turn); err != nil {
			return err
		}
	}
	after, err := c.spans.settled()
	if err != nil {
		return err
	}
	agentCPU, err = cpuTime(c.agent.pid())
	if err != nil {
		return err
	}
	agentCPU -= agentBefore
	if agentIdle, err = idle(c.agent); err != nil {
		return err
	}
	b.reportCost(vs, after-before, agentCPU, agentIdle)
	return nil
}

// turn is one round of one variant.
func (b *bench) turn(v *variant) error {
	res, err := b.timed(v, loadSpec{path: "/", conns: saturating, duration: b.length})
	if err != nil {
		return err
	}
	v.cpu, v.rps = append(v.cpu, res.cpuUs), append(v.rps, float64(res.Requests)/res.Seconds)
	v.reqs += res.Requests
	if res, err = b.timed(v, loadSpec{path: "/call", conns: saturating, duration: b.length}); err != nil {
		return err
	}
	v.call = append(v.call, res.cpuUs)
	v.calls += res.Requests
	return nil
}

// idle is the agent's CPU time in one second without any load.
func idle(agent *proc) (time.Duration, error) {
	before, err := cpuTime(agent.pid())
	if err != nil {
		return 0, err
	}
	time.Sleep(2 * time.Second)
	after, err := cpuTime(agent.pid())
	return (after - before) / 2, err
}

func (b *bench) reportCost(vs []*variant, spans int, agentCPU, agentIdle time.Duration) {
	base, agent, sdk := vs[0], vs[1], vs[2]
	m := func(f func(*variant) []float64, v *variant) float64 { return median(f(v)) }
	cpu := func(v *variant) []float64 { return v.cpu }
	call := func(v *variant) []float64 { return v.call }
	rps := func(v *variant) []float64 { return v.rps }
	added := func(f func(*variant) []float64, v *variant) string {
		return fmt.Sprintf("+%.1f µs, %.2fx", m(f, v)-m(f, base), m(f, v)/m(f, base))
	}
	ratio := func(f func(*variant) []float64, v *variant) float64 { return m(f, v) / m(f, base) }

	b.report.add(row{what: "CPU per request in the target, added", must: "<= 10 µs and <= 1.5x",
		agent: added(cpu, agent), sdk: added(cpu, sdk), base: fmt.Sprintf("%.1f µs", m(cpu, base)),
		ok: m(cpu, agent)-m(cpu, base) <= 10 && ratio(cpu, agent) <= 1.5})
	b.report.add(row{what: "the same, request with one outgoing call (server and client span)", must: "-",
		agent: added(call, agent), sdk: added(call, sdk), base: fmt.Sprintf("%.1f µs", m(call, base)), ok: true})
	b.report.add(row{what: "requests/s at saturation", must: ">= 0.65x",
		agent: fmt.Sprintf("%.2fx", ratio(rps, agent)), sdk: fmt.Sprintf("%.2fx", ratio(rps, sdk)),
		base: fmt.Sprintf("%.0f/s", m(rps, base)), ok: ratio(rps, agent) >= 0.65})

	want := agent.reqs + 2*agent.calls
	per := float64(agentCPU.Nanoseconds()) / 1e3 / float64(max(spans, 1))
	b.report.add(row{what: "spans for requests sent, over the whole comparison", must: "100 %",
		agent: fmt.Sprintf("%d of %d", spans, want), sdk: "-", ok: spans == want})
	b.report.add(row{what: "agent CPU per span (OTLP export included)", must: "<= 10 µs",
		agent: fmt.Sprintf("%.1f µs", per), sdk: "-", ok: per <= 10})
	b.report.add(row{what: "agent CPU when nothing happens", must: "-",
		agent: fmt.Sprintf("%.2f %%", agentIdle.Seconds()*100), sdk: "-", ok: true})
}
