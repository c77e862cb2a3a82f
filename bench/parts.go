package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// complete counts spans with many requests in flight.
func (b *bench) complete() error {
	for _, inFlight := range []int{16, 200, 2000} {
		if err := b.completeAt(inFlight); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) completeAt(inFlight int) error {
	to, err := startSink()
	if err != nil {
		return err
	}
	defer to.proc.stop()
	srv, err := b.server(b.trivial, "complete", nil)
	if err != nil {
		return err
	}
	defer srv.stop()
	agent, err := b.traced(to, srv)
	if err != nil {
		return err
	}
	defer agent.stop()
	res, err := runLoad(loadSpec{addr: srv.ready.HTTP, path: "/", conns: inFlight, duration: 5 * time.Second})
	if err != nil {
		return err
	}
	spans, err := to.settled()
	if err != nil {
		return err
	}
	b.report.add(row{what: fmt.Sprintf("spans for requests sent, %d in flight", inFlight), must: "100 %",
		agent: fmt.Sprintf("%d of %d", spans, res.Requests), sdk: "-", ok: spans == res.Requests})
	return nil
}

// hits lets the kernel count what a request costs in probe hits.
func (b *bench) hits() error {
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
	upstream, err := start(procSpec{path: b.trivial, cpu: loadCPU})
	if err != nil {
		return err
	}
	defer upstream.stop()
	srv, err := b.server(b.trivial, "hits", nil, "-upstream", "http://"+upstream.ready.HTTP+"/")
	if err != nil {
		return err
	}
	defer srv.stop()
	agent, err := b.traced(to, srv)
	if err != nil {
		return err
	}
	defer agent.stop()

	per := func(path string) (float64, error) {
		const n = 10000
		if _, err := runLoad(loadSpec{addr: srv.ready.HTTP, path: path, conns: 1, requests: 200, duration: time.Minute}); err != nil {
			return 0, err
		}
		before, err := programRuns(agent.pid())
		if err != nil {
			return 0, err
		}
		res, err := runLoad(loadSpec{addr: srv.ready.HTTP, path: path, conns: 1, requests: n, duration: time.Minute})
		if err != nil {
			return 0, err
		}
		after, err := programRuns(agent.pid())
		// One connection begins and ends: at most two hits that are no request's.
		return float64((after-before)/uint64(res.Requests)) + float64((after-before)%uint64(res.Requests)/3), err
	}
	server, err := per("/")
	if err != nil {
		return err
	}
	both, err := per("/call")
	if err != nil {
		return err
	}
	b.report.add(row{what: "hits per server request / per client call", must: "2 / 3",
		agent: fmt.Sprintf("%.0f / %.0f", server, both-server), sdk: "-", ok: server == 2 && both == 5})
	return nil
}

// memory is the agent's resident memory with one target, and with fifty of ten
// executables, after each has had requests.
func (b *bench) memory() error {
	for _, c := range []struct {
		binaries, each int
		limit          float64
	}{{1, 1, 60}, {10, 5, 150}} {
		rss, err := b.memoryOf(c.binaries, c.each)
		if err != nil {
			return err
		}
		what := "agent memory (resident), one target"
		if c.binaries > 1 {
			what = fmt.Sprintf("agent memory (resident), %d targets of %d executables", c.binaries*c.each, c.binaries)
		}
		b.report.add(row{what: what, must: fmt.Sprintf("<= %.0f MiB", c.limit),
			agent: fmt.Sprintf("%.0f MiB", rss), sdk: "-", ok: rss <= c.limit})
	}
	return nil
}

func (b *bench) memoryOf(binaries, each int) (float64, error) {
	to, err := startSink()
	if err != nil {
		return 0, err
	}
	defer to.proc.stop()
	var all []*proc
	for i := range binaries {
		path := filepath.Join(b.dir, fmt.Sprintf("run-memory%d", i))
		if err := build(b.trivialSrc, path, fmt.Sprintf("-ldflags=-X main.build=%d", i)); err != nil {
			return 0, err
		}
		for range each {
			p, err := start(procSpec{path: path, cpu: serverCPU})
			if err != nil {
				return 0, err
			}
			defer p.stop()
			all = append(all, p)
		}
	}
	agent, err := b.traced(to, all...)
	if err != nil {
		return 0, err
	}
	defer agent.stop()
	for _, p := range all {
		if _, err := runLoad(loadSpec{addr: p.ready.HTTP, path: "/", conns: 16, requests: 2000, duration: 10 * time.Second}); err != nil {
			return 0, err
		}
	}
	if _, err := to.settled(); err != nil {
		return 0, err
	}
	return rssMiB(agent.pid())
}

// attach times how long it takes until a program that has just started is
// traced: by an agent that runs already (from the program's start), and by one
// that is started for it (from the agent's start).
func (b *bench) attach() error {
	small := filepath.Join(b.dir, "small-plain")
	if err := build(b.trivialSrc, small); err != nil {
		return err
	}
	stripped := filepath.Join(b.dir, "small-stripped")
	if err := build(b.trivialSrc, stripped, "-ldflags=-s -w"); err != nil {
		return err
	}
	big, bigStripped, err := buildBig(b.dir, b.trivialSrc)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		what, path string
		limit      time.Duration
	}{
		{"with DWARF", small, 300 * time.Millisecond},
		{"with DWARF", big, 1500 * time.Millisecond},
		{"stripped", stripped, 100 * time.Millisecond},
		{"stripped", bigStripped, 0},
	} {
		size, err := sizeMB(c.path)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("attach, %d MB executable %s", size, c.what)
		running, fresh, err := b.attachTimes(c.path)
		if err != nil {
			b.report.add(row{what: what, must: "attaches", agent: "does not: " + err.Error(), sdk: "-"})
			continue
		}
		must := "-"
		if c.limit > 0 {
			must = "<= " + c.limit.String()
		}
		b.report.add(row{what: what, must: must,
			agent: fmt.Sprintf("%d ms (agent started for it: %d ms)", running.Milliseconds(), fresh.Milliseconds()), sdk: "-",
			ok: c.limit == 0 || running <= c.limit})
	}
	return nil
}

// attachTimes is the medians of five attachments each to an executable that the
// agent has not seen.
func (b *bench) attachTimes(path string) (running, fresh time.Duration, err error) {
	to, err := startSink()
	if err != nil {
		return 0, 0, err
	}
	defer to.proc.stop()
	agent, err := b.agent(to, "--exe", filepath.Join(b.dir, "run-attach*"))
	if err != nil {
		return 0, 0, err
	}
	defer agent.stop()
	var r, f []float64
	for i := range 6 {
		own := filepath.Join(b.dir, fmt.Sprintf("run-attach%d", i))
		if err := copyFile(path, own); err != nil {
			return 0, 0, err
		}
		began := time.Now()
		p, err := start(procSpec{path: own, cpu: serverCPU})
		if err != nil {
			return 0, 0, err
		}
		if _, _, err := agent.await("msg=instrumented", fmt.Sprintf("pid=%d ", p.pid())); err != nil {
			p.stop()
			return 0, 0, err
		}
		if i > 0 { // the first finds the agent itself starting
			r = append(r, time.Since(began).Seconds())
		}
		p.stop()
	}
	agent.stop()
	for range 5 {
		took, err := b.attachFresh(to, path)
		if err != nil {
			return 0, 0, err
		}
		f = append(f, took.Seconds())
	}
	return seconds(median(r)), seconds(median(f)), nil
}

func (b *bench) attachFresh(to *sink, path string) (time.Duration, error) {
	srv, err := b.server(path, "fresh", nil)
	if err != nil {
		return 0, err
	}
	defer srv.stop()
	began := time.Now()
	agent, err := b.traced(to, srv)
	if err != nil {
		return 0, err
	}
	defer agent.stop()
	return time.Since(began), nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
