package main

import (
	"fmt"
	"strings"
	"time"
)

// variant is one of the servers that take turns.
type variant struct {
	name  string
	proc  *proc
	cpu   []float64 // CPU per request or call, microseconds, closed loop
	call  []float64 // the same for a request that makes one call
	rps   []float64
	p50   []float64 // microseconds
	calls int
	reqs  int
}

// contest is a server three times: untouched, watched by an agent, and with the SDK in it.
type contest struct {
	variants []*variant // in this order
	agent    *proc
	spans    *sink // takes what the agent sends
	started  []func()
}

// contest starts them. plain is the server, sdk the one with the SDK.
func (b *bench) contest(name string, plain, sdk procSpec) (_ *contest, err error) {
	c := &contest{variants: []*variant{{name: "baseline"}, {name: "agent"}, {name: "sdk"}}}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	if c.spans, err = startSink(); err != nil {
		return nil, err
	}
	c.started = append(c.started, c.spans.proc.stop)
	forSDK, err := startSink()
	if err != nil {
		return nil, err
	}
	c.started = append(c.started, forSDK.proc.stop)
	for _, v := range c.variants {
		s, env := plain, []string(nil)
		if v.name == "sdk" {
			s, env = sdk, otlpEnv(forSDK)
		}
		if v.proc, err = b.server(s.path, name+"-"+v.name, env, s.args...); err != nil {
			return nil, err
		}
		c.started = append(c.started, v.proc.stop)
	}
	if c.agent, err = b.traced(c.spans, c.variants[1].proc); err != nil {
		return nil, err
	}
	c.started = append(c.started, c.agent.stop)
	return c, nil
}

// stop ends what was started, the last one first.
func (c *contest) stop() {
	for i := range c.started {
		c.started[len(c.started)-1-i]()
	}
	c.started = nil
}

type timedResult struct {
	loadResult
	cpuUs float64 // the server's CPU per request
}

// together runs a load that goes from one server to the next and on, and takes the CPU time
// of each: cpuUs is what a request took.
func (b *bench) together(vs []*variant, s loadSpec) ([]timedResult, error) {
	out := make([]timedResult, len(vs))
	before := make([]time.Duration, len(vs))
	var addrs, names []string
	for i, v := range vs {
		var err error
		if before[i], err = cpuTime(v.proc.pid()); err != nil {
			return nil, err
		}
		addrs, names = append(addrs, v.proc.ready.HTTP), append(names, v.name)
	}
	s.addr = strings.Join(addrs, ",")
	res, err := runLoads(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(names, ", "), err)
	}
	for i, v := range vs {
		after, err := cpuTime(v.proc.pid())
		if err != nil {
			return nil, err
		}
		out[i] = timedResult{res[i], float64((after - before[i]).Nanoseconds()) / 1e3 / float64(res[i].Requests)}
	}
	return out, nil
}
