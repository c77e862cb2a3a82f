package main

import (
	"fmt"
	"slices"
)

// spread is a median between the quartiles around it.
type spread struct{ low, median, high float64 }

func spreadOf(v []float64) spread {
	if len(v) == 0 {
		return spread{}
	}
	s := slices.Clone(v)
	slices.Sort(s)
	at := func(q float64) float64 {
		x := q * float64(len(s)-1)
		i := min(int(x), len(s)-2)
		if i < 0 {
			return s[0]
		}
		return s[i] + (x-float64(i))*(s[i+1]-s[i])
	}
	return spread{at(0.25), median(s), at(0.75)}
}

func (s spread) text(format string) string {
	return fmt.Sprintf(format+" ["+format+" to "+format+"]", s.median, s.low, s.high)
}

// pairs combines what was measured in the same round: the machine's speed moves more between
// rounds than what is compared differs. Within a round the servers take turns, too (slice).
func pairs(a, b []float64, f func(a, b float64) float64) []float64 {
	var out []float64
	for i := range min(len(a), len(b)) {
		out = append(out, f(a[i], b[i]))
	}
	return out
}

func difference(a, b float64) float64 { return a - b }

func ratio(a, b float64) float64 { return a / b }

const (
	latencyRounds = 10
	sampledRounds = 30
)

// latency compares p50 at a fixed rate. The agent runs all the time: what it does to start
// would disturb the round after it.
func (b *bench) latency() error {
	c, err := b.contest("latency", procSpec{path: b.trivial}, procSpec{path: b.sdktwin})
	if err != nil {
		return err
	}
	defer c.stop()
	load := loadSpec{path: "/", conns: 8, rate: fixedRate, duration: 5 * b.length}
	for r := range latencyRounds + 1 {
		res, err := b.together(c.variants, load)
		if err != nil {
			return err
		}
		for i, v := range c.variants {
			if r > 0 { // the first one is to warm up
				v.p50 = append(v.p50, res[i].P50us)
			}
		}
	}
	base, agent, sdk := c.variants[0], c.variants[1], c.variants[2]
	with := spreadOf(pairs(agent.p50, base.p50, ratio))
	b.report.add(row{what: fmt.Sprintf("p50 at %d requests/s, median of %d paired rounds [quartiles]", fixedRate, latencyRounds), must: "<= 1.05x",
		agent: with.text("%.2fx"), sdk: spreadOf(pairs(sdk.p50, base.p50, ratio)).text("%.2fx"),
		base: spreadOf(base.p50).text("%.0f µs"), ok: with.median <= 1.05})
	return nil
}

// sampled compares what a request costs its program at 1 % sampling, every request being
// counted, with what it costs at 100 %.
func (b *bench) sampled() error {
	to, err := startSink()
	if err != nil {
		return err
	}
	defer to.proc.stop()
	vs := []*variant{{name: "none"}, {name: "all"}, {name: "few"}}
	for _, v := range vs {
		if v.proc, err = b.server(b.trivial, "sampled-"+v.name, nil); err != nil {
			return err
		}
		defer v.proc.stop()
	}
	all, err := b.traced(to, vs[1].proc)
	if err != nil {
		return err
	}
	defer all.stop()
	few, err := b.tracedEnv(to, []string{"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.01"}, vs[2].proc)
	if err != nil {
		return err
	}
	defer few.stop()
	load := loadSpec{path: "/", conns: saturating, duration: b.length}
	for r := range sampledRounds + 1 {
		res, err := b.together(vs, load)
		if err != nil {
			return err
		}
		for i, v := range vs {
			if r > 0 { // the first one is to warm up
				v.cpu = append(v.cpu, res[i].cpuUs)
			}
		}
	}
	atAll, atFew := pairs(vs[1].cpu, vs[0].cpu, difference), pairs(vs[2].cpu, vs[0].cpu, difference)
	share := median(atFew) / median(atAll)
	b.report.add(row{what: fmt.Sprintf("CPU per request in the target, added at 1 %% sampling, all requests counted; median of %d rounds [quartiles]", sampledRounds),
		must:  "<= 0.7 of that at 100 %",
		agent: fmt.Sprintf("%s µs, at 100 %% %s µs: %.2f", spreadOf(atFew).text("%+.1f"), spreadOf(atAll).text("%+.1f"), share),
		sdk:   "-", base: fmt.Sprintf("%.1f µs", median(vs[0].cpu)), ok: share <= 0.7})
	return nil
}
