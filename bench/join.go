package main

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// join compares the time in the agent's programs, as the kernel counts it, of a request
// with one call with propagation off and with mode join: once with a server that is not
// watched, where the client's side is all there is, and once with one that is.
func (b *bench) join() error {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return err
	}
	defer stats.Close()
	to, err := startSink()
	if err != nil {
		return err
	}
	defer to.proc.stop()
	upstream, err := start(procSpec{path: b.trivial, cpu: loadCPU, env: []string{"GOMAXPROCS=1"}})
	if err != nil {
		return err
	}
	defer upstream.stop()
	srv, err := b.server(b.trivial, "join", nil, "-upstream", "http://"+upstream.ready.HTTP+"/")
	if err != nil {
		return err
	}
	defer srv.stop()
	added := func(watched ...*proc) (float64, error) {
		var diff []float64
		for range b.rounds {
			off, err := b.programTime(to, "off", watched...)
			if err != nil {
				return 0, err
			}
			on, err := b.programTime(to, "join", watched...)
			if err != nil {
				return 0, err
			}
			diff = append(diff, on-off)
		}
		return median(diff), nil
	}
	client, err := added(srv)
	if err != nil {
		return err
	}
	both, err := added(srv, upstream)
	if err != nil {
		return err
	}
	b.report.add(row{what: "mode join, time in the agent's programs, added per client call / with the server's side of it", must: "<= 1 µs / -",
		agent: fmt.Sprintf("%+.2f µs / %+.2f µs", client, both), sdk: "-", ok: client <= 1})
	return nil
}

// programTime is the microseconds in the agent's programs per request to the first of
// the watched programs, which makes one call.
func (b *bench) programTime(to *sink, mode string, watched ...*proc) (float64, error) {
	args := []string{"--propagation", mode}
	for _, p := range watched {
		args = append(args, "--pid", fmt.Sprint(p.pid()))
	}
	agent, err := b.agent(to, args...)
	if err != nil {
		return 0, err
	}
	defer agent.stop()
	for _, p := range watched {
		if _, _, err := agent.await("msg=instrumented", fmt.Sprintf("pid=%d ", p.pid())); err != nil {
			return 0, err
		}
	}
	load := func(n int) (loadResult, error) {
		return runLoad(loadSpec{addr: watched[0].ready.HTTP, path: "/call", conns: 1, requests: n, duration: time.Minute})
	}
	if _, err := load(500); err != nil {
		return 0, err
	}
	_, before, err := programStats(agent.pid())
	if err != nil {
		return 0, err
	}
	res, err := load(5000)
	if err != nil {
		return 0, err
	}
	_, after, err := programStats(agent.pid())
	return float64((after - before).Nanoseconds()) / 1e3 / float64(res.Requests), err
}
