package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// outageHost is the Collector's address.
const outageHost = "127.77.1.6"

// collectorProc is a real OpenTelemetry Collector that writes what it takes to a file.
type collectorProc struct {
	t        *testing.T
	bin, dir string
	addr     string
	cmd      *exec.Cmd
	ended    chan struct{} // closed when cmd has
	log      bytes.Buffer

	read int64          // of the file
	got  map[string]int // what paths has found in it
}

func newCollectorProc(t *testing.T) *collectorProc {
	t.Helper()
	// An address of its own: a port of 127.0.0.1 may be another program's by the time that the
	// outage ends, and an agent that tries it for minutes may end up connected to itself.
	_, port, err := net.SplitHostPort(freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	c := &collectorProc{t: t, bin: collectorBin(t), dir: t.TempDir(), addr: net.JoinHostPort(outageHost, port)}
	config := fmt.Sprintf(`
receivers: {otlp: {protocols: {grpc: {endpoint: %q}}}}
exporters: {file: {path: %s, append: true, flush_interval: 50ms}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], exporters: [file]}}
`, c.addr, filepath.Join(c.dir, "spans.json"))
	if err := os.WriteFile(filepath.Join(c.dir, "config.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("collector's log:\n%s", c.log.String())
		}
	})
	return c
}

func (c *collectorProc) start() {
	c.t.Helper()
	c.cmd = exec.Command(c.bin, "--config", filepath.Join(c.dir, "config.yaml"))
	c.cmd.Stdout, c.cmd.Stderr = &c.log, &c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(c.cmd, c.ended)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		select {
		case <-c.ended:
			c.t.Fatal("the collector has ended")
		default:
		}
		if conn, err := net.Dial("tcp", c.addr); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			c.t.Fatal("the collector does not listen")
		}
	}
}

// stop ends the collector; what it has taken is in the file then.
func (c *collectorProc) stop() {
	if c.cmd != nil {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		<-c.ended
		c.cmd = nil
	}
}

var sentQuery = regexp.MustCompile(`outage-\d+`)

// paths are the different requests whose spans the collector has. Whole lines are read once:
// after minutes the file is large.
func (c *collectorProc) paths() map[string]int {
	c.t.Helper()
	f, err := os.Open(filepath.Join(c.dir, "spans.json"))
	if err != nil {
		return c.got
	}
	defer f.Close()
	if c.got == nil {
		c.got = map[string]int{}
	}
	data, err := io.ReadAll(io.NewSectionReader(f, c.read, 1<<32))
	if err != nil {
		c.t.Fatal(err)
	}
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	c.read += int64(len(data))
	for _, p := range sentQuery.FindAll(data, -1) {
		c.got[string(p)]++
	}
	return c.got
}

// TestOutage: with a queue on disk, no span is lost while the Collector is down and the
// agent is started again meanwhile. TRACER_OUTAGE=5m makes it as long as that.
func TestOutage(t *testing.T) {
	needs(t)
	outage := 3 * time.Second
	if v := os.Getenv("TRACER_OUTAGE"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		outage = d
	}
	tg := harness.StartTarget(t, harness.Build{Dir: httpmatrix}.Path(t))
	col := newCollectorProc(t)
	config := filepath.Join(t.TempDir(), "agent.yaml")
	text := fmt.Sprintf("select: {pids: [%d]}\nexporters: [otlp]\notlp: {endpoint: 'http://%s', protocol: grpc}\nmetrics: {exporters: [none]}\n"+
		"disk_queue: {directory: %s}\nbatch: {schedule_delay: 100ms}\n", tg.PID, col.addr, filepath.Join(t.TempDir(), "queue"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sent := 0
	load := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			sent++
			harness.Get(t, tg.URL(fmt.Sprintf("/plain?outage-%d", sent)))
		}
	}
	run := func() *harness.Agent {
		a := harness.StartAgentEnv(t, nil, "--config", config)
		a.WaitInstrumented(tg.PID)
		return a
	}
	col.start()
	agent := run()
	load(500 * time.Millisecond)
	col.stop()
	load(outage / 2)
	agent.Stop()
	agent = run()
	load(outage / 2)
	col.start()
	load(500 * time.Millisecond)

	end := time.Now().Add(60 * time.Second)
	for len(col.paths()) < sent && time.Now().Before(end) {
		time.Sleep(50 * time.Millisecond)
	}
	got, twice := col.paths(), 0
	for _, n := range got {
		if n > 2 { // once in url.query, once in url.full where there is one
			twice++
		}
	}
	t.Logf("%d requests, spans of %d arrived, %d more than once", sent, len(got), twice)
	if len(got) != sent {
		t.Errorf("%d of %d spans lost", sent-len(got), sent)
	}
	if lost := harness.Lost(agent.Metrics()); lost != 0 {
		t.Errorf("the agent counted %v lost", lost)
	}
	if !strings.Contains(agent.Stderr(), "spans of an earlier run are on disk") {
		t.Error("nothing was on disk when the agent began again")
	}
	agent.Stop()
}
