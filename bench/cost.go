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
	bare, err := b.server(b.trivial, "cost-traps", nil, to...)
	if err != nil {
		return err
	}
	defer bare.stop()
	off, err := b.traps(bare)
	if err != nil {
		return err
	}
	defer off()
	vs := append(c.variants, &variant{name: "traps", proc: bare})

	for _, path := range []string{"/", "/call"} { // warm: connections, pages, the agent's first looks
		if _, err := b.together(vs, loadSpec{path: path, conns: saturating, duration: b.length}); err != nil {
			return err
		}
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
		if err := b.turn(vs); err != nil {
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

// turn is one round of all.
func (b *bench) turn(vs []*variant) error {
	load := loadSpec{path: "/", conns: saturating, duration: time.Duration(len(vs)) * b.length}
	res, err := b.together(vs, load)
	if err != nil {
		return err
	}
	load.path = "/call"
	calls, err := b.together(vs, load)
	if err != nil {
		return err
	}
	for i, v := range vs {
		v.cpu, v.rps = append(v.cpu, res[i].cpuUs), append(v.rps, float64(res[i].Requests)/res[i].Seconds)
		v.call = append(v.call, calls[i].cpuUs)
		v.reqs += res[i].Requests
		v.calls += calls[i].Requests
	}
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
	base, agent, sdk, bare := vs[0], vs[1], vs[2], vs[3]
	cpu := func(v *variant) []float64 { return v.cpu }
	call := func(v *variant) []float64 { return v.call }
	rps := func(v *variant) []float64 { return v.rps }
	more := func(f func(*variant) []float64, v *variant) spread { return spreadOf(pairs(f(v), f(base), difference)) }
	times := func(f func(*variant) []float64, v *variant) spread { return spreadOf(pairs(f(v), f(base), ratio)) }
	added := func(f func(*variant) []float64, v *variant) string {
		return fmt.Sprintf("%s µs, %.2fx", more(f, v).text("%+.1f"), times(f, v).median)
	}

	b.report.add(row{what: "CPU per request in the target, added; median of pairs [quartiles]", must: "<= 10 µs and <= 1.5x",
		agent: added(cpu, agent), sdk: added(cpu, sdk), base: fmt.Sprintf("%.1f µs", median(base.cpu)),
		ok: more(cpu, agent).median <= 10 && times(cpu, agent).median <= 1.5})
	b.report.add(row{what: "the same, request with one outgoing call (server and client span)", must: "-",
		agent: added(call, agent), sdk: added(call, sdk), base: fmt.Sprintf("%.1f µs", median(base.call)), ok: true})
	b.report.add(row{what: "CPU that breakpoints alone add to a request: two, where the agent has its, with a program that does nothing", must: "-",
		agent: added(cpu, bare), sdk: "-", ok: true})
	b.report.add(row{what: "requests/s at saturation", must: ">= 0.65x",
		agent: times(rps, agent).text("%.2fx"), sdk: fmt.Sprintf("%.2fx", times(rps, sdk).median),
		base: fmt.Sprintf("%.0f/s", median(base.rps)), ok: times(rps, agent).median >= 0.65})

	want := agent.reqs + 2*agent.calls
	per := float64(agentCPU.Nanoseconds()) / 1e3 / float64(max(spans, 1))
	b.report.add(row{what: "spans for requests sent, over the whole comparison", must: "100 %",
		agent: fmt.Sprintf("%d of %d", spans, want), sdk: "-", ok: spans == want})
	b.report.add(row{what: "agent CPU per span (OTLP export included)", must: "<= 10 µs",
		agent: fmt.Sprintf("%.1f µs", per), sdk: "-", ok: per <= 10})
	b.report.add(row{what: "agent CPU when nothing happens", must: "-",
		agent: fmt.Sprintf("%.2f %%", agentIdle.Seconds()*100), sdk: "-", ok: true})
}
