package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "load":
			exit(loadMain(os.Args[2:]))
			return
		case "sink":
			exit(sinkMain())
			return
		}
	}
	var o options
	flag.StringVar(&o.out, "out", "", "file to write the report to; standard output as well")
	flag.BoolVar(&o.check, "check", false, "end with 1 when a limit is broken")
	flag.IntVar(&o.rounds, "rounds", 7, "rounds of each comparison")
	flag.DurationVar(&o.length, "length", 2*time.Second, "length of one load")
	flag.StringVar(&o.only, "only", "", "parts to run, comma separated: cost, latency, sampled, mongo, redis, sql, grpc, parse, complete, hits, join, handing, download, memory, fleet, attach")
	flag.Parse()
	exit(run(o))
}

func exit(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

type options struct {
	out    string
	check  bool
	rounds int
	length time.Duration
	only   string
}

// bench is one run: where things are and what was measured.
type bench struct {
	options
	agentPath, trivial, sdktwin string // executables
	trivialSrc                  string
	dir                         string
	report                      report
}

func run(o options) error {
	b := &bench{options: o}
	if err := b.prepare(); err != nil {
		return err
	}
	b.report.machine = machine()
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"cost", b.cost}, {"latency", b.latency}, {"sampled", b.sampled}, {"mongo", b.mongo}, {"redis", b.redis}, {"sql", b.sql}, {"grpc", b.grpc}, {"parse", b.parse}, {"complete", b.complete}, {"hits", b.hits}, {"join", b.join}, {"handing", b.handing}, {"download", b.download}, {"memory", b.memory}, {"fleet", b.fleet}, {"attach", b.attach},
	} {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), part.name) {
			continue
		}
		log.Printf("%s ...", part.name)
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	text := b.report.markdown()
	fmt.Print(text)
	if o.out != "" {
		if err := os.WriteFile(o.out, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if broken := b.report.broken(); o.check && len(broken) > 0 {
		return fmt.Errorf("limits broken: %s", strings.Join(broken, "; "))
	}
	return nil
}

// prepare finds the repository from the working folder and builds the servers.
func (b *bench) prepare() error {
	root, err := filepath.Abs("..")
	if err != nil {
		return err
	}
	b.agentPath = filepath.Join(root, "bin", "tracer-agent")
	b.trivialSrc = filepath.Join(root, "testdata", "targets", "trivial")
	if !exists(b.agentPath) || !exists(b.trivialSrc) {
		return fmt.Errorf("run this with `make bench`, or in the folder bench after `make build`: %s is not there", b.agentPath)
	}
	if b.dir, err = workDir(); err != nil {
		return err
	}
	b.trivial, b.sdktwin = filepath.Join(b.dir, "trivial"), filepath.Join(b.dir, "sdktwin")
	if err := build(b.trivialSrc, b.trivial); err != nil {
		return err
	}
	return build(filepath.Join(root, "bench", "sdktwin"), b.sdktwin)
}

// server starts a server under test, from a copy of its executable, so that
// probes on one never touch another.
func (b *bench) server(path, name string, env []string, args ...string) (*proc, error) {
	own := filepath.Join(b.dir, "run-"+name)
	if err := copyFile(path, own); err != nil {
		return nil, err
	}
	return start(procSpec{path: own, args: args, env: append(env, "GOMAXPROCS=1"), cpu: serverCPU})
}

// agent starts an agent that sends to the sink, on the second processor.
func (b *bench) agent(to *sink, args ...string) (*proc, error) { return b.agentEnv(to, nil, args...) }

func (b *bench) agentEnv(to *sink, env []string, args ...string) (*proc, error) {
	return launch(procSpec{
		path: b.agentPath, args: append([]string{"run", "--max-overhead", "0"}, args...), cpu: loadCPU, env: append(otlpEnv(to), env...),
	})
}

// traced starts an agent on the processes and waits until it says so of each.
func (b *bench) traced(to *sink, procs ...*proc) (*proc, error) {
	return b.tracedEnv(to, nil, procs...)
}

func (b *bench) tracedEnv(to *sink, env []string, procs ...*proc) (*proc, error) {
	var args []string
	for _, p := range procs {
		args = append(args, "--pid", fmt.Sprint(p.pid()))
	}
	agent, err := b.agentEnv(to, env, args...)
	if err != nil {
		return nil, err
	}
	for _, p := range procs {
		if _, _, err := agent.await("msg=instrumented", fmt.Sprintf("pid=%d ", p.pid())); err != nil {
			agent.stop()
			return nil, err
		}
	}
	return agent, nil
}

func otlpEnv(to *sink) []string {
	return []string{
		"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + to.addr, "OTEL_SERVICE_NAME=bench",
	}
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Clone(v)
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
