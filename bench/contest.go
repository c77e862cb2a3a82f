package main

import "fmt"

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

// round lets each have its turn; another one begins in every round.
func round(vs []*variant, r int, turn func(*variant) error) error {
	for i := range vs {
		if err := turn(vs[(i+r)%len(vs)]); err != nil {
			return err
		}
	}
	return nil
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

// timed runs a load and takes the server's CPU time around it.
func (b *bench) timed(v *variant, s loadSpec) (r timedResult, err error) {
	s.addr = v.proc.ready.HTTP
	before, err := cpuTime(v.proc.pid())
	if err != nil {
		return r, err
	}
	if r.loadResult, err = runLoad(s); err != nil {
		return r, fmt.Errorf("%s: %w", v.name, err)
	}
	after, err := cpuTime(v.proc.pid())
	if err != nil {
		return r, err
	}
	r.cpuUs = float64((after - before).Nanoseconds()) / 1e3 / float64(r.Requests)
	return r, nil
}
