package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"
)

// mongoCommands is how many commands mongotwin makes a request.
const mongoCommands = 20

// mongo compares what a MongoDB command costs the program that makes it: without
// anything, with the agent, and with otelmongo.
func (b *bench) mongo() error {
	addr, stop, err := b.mongoServer()
	if err != nil {
		return err
	}
	defer stop()
	twin := filepath.Join(b.dir, "mongotwin")
	if err := build("mongotwin", twin); err != nil {
		return err
	}
	forAgent, err := startSink()
	if err != nil {
		return err
	}
	defer forAgent.proc.stop()
	forSDK, err := startSink()
	if err != nil {
		return err
	}
	defer forSDK.proc.stop()

	vs := []*variant{{name: "baseline"}, {name: "agent"}, {name: "sdk"}}
	for _, v := range vs {
		args, env := []string{"-uri", "mongodb://" + addr + "/"}, []string(nil)
		if v.name == "sdk" {
			args, env = append(args, "-sdk"), otlpEnv(forSDK)
		}
		if v.proc, err = b.server(twin, "mongo-"+v.name, env, args...); err != nil {
			return err
		}
		defer v.proc.stop()
	}
	agent, err := b.traced(forAgent, vs[1].proc)
	if err != nil {
		return err
	}
	defer agent.stop()
	load := loadSpec{path: "/", conns: 4, duration: b.length}
	for _, v := range vs { // warm
		if _, err := b.timed(v, load); err != nil {
			return err
		}
	}
	before, err := forAgent.settled()
	if err != nil {
		return err
	}
	for r := range b.rounds {
		log.Printf("  round %d of %d", r+1, b.rounds)
		for i := range vs {
			v := vs[(i+r)%len(vs)]
			res, err := b.timed(v, load)
			if err != nil {
				return err
			}
			v.cpu = append(v.cpu, res.cpuUs/mongoCommands)
			v.reqs += res.Requests
		}
	}
	after, err := forAgent.settled()
	if err != nil {
		return err
	}
	b.reportMongo(vs, after-before)
	return nil
}

func (b *bench) reportMongo(vs []*variant, spans int) {
	base, agent, sdk := median(vs[0].cpu), median(vs[1].cpu), median(vs[2].cpu)
	added := func(us float64) string { return fmt.Sprintf("+%.1f µs, %.2fx", us-base, us/base) }
	b.report.add(row{what: "CPU per MongoDB command in the program, added", must: "<= 10 µs and below otelmongo",
		agent: added(agent), sdk: added(sdk), base: fmt.Sprintf("%.1f µs", base),
		ok: agent-base <= 10 && agent < sdk})
	want := vs[1].reqs * (mongoCommands + 1)
	b.report.add(row{what: "spans for commands and their requests", must: "100 %",
		agent: fmt.Sprintf("%d of %d", spans, want), sdk: "-", ok: spans == want})
}

// mongoServer runs a server on the second processor.
func (b *bench) mongoServer() (addr string, stop func(), err error) {
	path := filepath.Join(b.dir, "mongoserver")
	if err := build("../testdata/mongoserver", path); err != nil {
		return "", nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr = ln.Addr().String()
	ln.Close()
	data, err := os.MkdirTemp("", "bench-mongo")
	if err != nil {
		return "", nil, err
	}
	p, err := launch(procSpec{path: path, args: []string{"-addr", addr, "-dir", data}, cpu: loadCPU})
	if err != nil {
		return "", nil, err
	}
	stop = func() { p.stop(); os.RemoveAll(data) }
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr, stop, nil
		}
		if time.Now().After(deadline) {
			stop()
			return "", nil, err
		}
	}
}
