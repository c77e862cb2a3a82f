package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

const websocketDir = "testdata/targets/websocket"

// dialURL makes the target open a connection to itself, exchange messages and close it.
func dialURL(tg *harness.Target, lib string, n, size int, msg string) string {
	return tg.URL("/dial?" + url.Values{"lib": {lib}, "url": {"ws://" + tg.HTTP + "/" + lib},
		"n": {strconv.Itoa(n)}, "size": {strconv.Itoa(size)}, "msg": {msg}}.Encode())
}

// TestWebSocket: both ends of a connection, for every library, new and old, with messages of
// all three encodings of a frame's length.
func TestWebSocket(t *testing.T) {
	needs(t)
	for name, b := range map[string]harness.Build{
		"plain":         {Dir: websocketDir},
		"old, stripped": {Dir: websocketDir, Mod: "old.mod", Go: "1.21.13", Mode: harness.Stripped},
	} {
		t.Run(name, func(t *testing.T) {
			tg := harness.StartTarget(t, b.Path(t))
			agent := harness.Trace(t, tg)
			for _, lib := range []string{"gorilla", "coder", "nhooyr"} {
				for _, size := range []int{0, 5, 200, 3000} {
					checkWebSocket(t, tg, agent, lib, size)
				}
			}
			checkWebSocketParents(t, tg, agent)
		})
	}
}

func checkWebSocket(t *testing.T, tg *harness.Target, agent *harness.Agent, lib string, size int) {
	t.Helper()
	const n = 3
	mark := agent.Mark()
	harness.Get(t, dialURL(tg, lib, n, size, ""))
	dialer := only(t, agent.WaitSpans(mark, 1, func(s harness.Span) bool { return s.Name == "websocket" && s.Kind == "client" }))
	server := only(t, agent.WaitSpans(mark, 1, func(s harness.Span) bool { return s.Name == "websocket" && s.Kind == "internal" }))
	upgrade := only(t, agent.WaitSpans(mark, 1, func(s harness.Span) bool { return s.Kind == "server" && s.Attr("url.path") == "/"+lib }))
	for _, s := range []harness.Span{dialer, server} {
		for key, want := range map[string]string{
			"websocket.messages.sent": "3", "websocket.messages.received": "3", "websocket.close.code": "1001",
			"websocket.bytes.sent": fmt.Sprint(n * size), "websocket.bytes.received": fmt.Sprint(n * size),
			"network.protocol.name": "websocket", "network.peer.address": "127.0.0.1",
		} {
			if key == "network.peer.address" && s.Kind == "client" && lib != "gorilla" {
				want = "" // net/http's call has it; its body, which is the connection here, hides it
			}
			if got := s.Attr(key); got != want {
				t.Errorf("%s, %d bytes: %s is %q, want %q: %s", lib, size, key, got, want, s)
			}
		}
	}
	if upgrade.Attr("http.response.status_code") != "101" || upgrade.Status == "error" {
		t.Errorf("%s: the upgrade's span has no status 101: %s", lib, upgrade)
	}
	if server.ParentSpanID != upgrade.SpanID || server.TraceID != upgrade.TraceID {
		t.Errorf("%s: the connection is not the upgrade's child: %s, upgrade %s", lib, server, upgrade)
	}
	if upgrade.End.After(server.End) || upgrade.End.After(server.Start.Add(server.End.Sub(server.Start)/2)) && server.DurationNs > 50e6 {
		t.Errorf("%s: the upgrade does not end with the upgrade: %s, connection %s", lib, upgrade, server)
	}
	call := only(t, agent.WaitSpans(mark, 1, func(s harness.Span) bool { return s.Kind == "server" && s.Attr("url.path") == "/dial" }))
	if dialer.ParentSpanID != call.SpanID {
		t.Errorf("%s: the dialled connection is not its request's child: %s, request %s", lib, dialer, call)
	}
}

// checkWebSocketParents: what a handler does while the connection is open is the
// connection's child.
func checkWebSocketParents(t *testing.T, tg *harness.Target, agent *harness.Agent) {
	t.Helper()
	mark := agent.Mark()
	harness.Get(t, dialURL(tg, "gorilla", 2, 0, "call"))
	conn := only(t, agent.WaitSpans(mark, 1, func(s harness.Span) bool { return s.Name == "websocket" && s.Kind == "internal" }))
	calls := agent.WaitSpans(mark, 2, func(s harness.Span) bool { return s.Kind == "client" && s.Name == "GET" })
	for _, c := range calls {
		if c.ParentSpanID != conn.SpanID {
			t.Errorf("a call made for a message is not the connection's child: %s, connection %s", c, conn)
		}
	}
}

func only(t *testing.T, spans []harness.Span) harness.Span {
	t.Helper()
	if len(spans) != 1 {
		t.Fatalf("%d spans, want one: %v", len(spans), spans)
	}
	return spans[0]
}

// TestWebSocketMetrics: connections are counted when they open and when they close,
// sampled or not.
func TestWebSocketMetrics(t *testing.T) {
	needs(t)
	tg := harness.StartTarget(t, harness.Build{Dir: websocketDir}.Path(t))
	_, from := countingAgent(t, tg, "always_off")
	for _, lib := range []string{"gorilla", "coder"} {
		harness.Get(t, dialURL(tg, lib, 2, 10, ""))
	}
	const opened, closed, active = "websocket_connections_opened_total", "websocket_connections_closed_total", "websocket_connections_active"
	got := func(name string, texts ...string) int { return sum(scrape(t, from, name), texts...) }
	for deadline := time.Now().Add(20 * time.Second); got(closed) < 4 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
	}
	for side, n := range map[string]int{"server": 2, "client": 2} {
		side = `websocket_side="` + side + `"`
		if got(opened, side) != n || got(closed, side, `websocket_close_code="1001"`) != n || got(active, side) != 0 {
			t.Errorf("%s: %d opened, %d closed, %d open, want %d, %d, 0", side, got(opened, side), got(closed, side), got(active, side), n, n)
		}
	}
}

// TestWebSocketForgotten: a connection that is open when the agent stops looking at its
// program is not open for ever in the metrics.
func TestWebSocketForgotten(t *testing.T) {
	needs(t)
	exe := copyExe(t, harness.Build{Dir: websocketDir}.Path(t), "websocket")
	tg := harness.StartTarget(t, exe)
	r := &reloadRig{t: t, file: filepath.Join(t.TempDir(), "agent.yaml")}
	config := "instrument:\n  - {exes: [" + exe + "]}\n"
	r.write(config)
	r.Agent = harness.StartAgentEnv(t, []string{"OTEL_TRACES_EXPORTER=json", "OTEL_METRICS_EXPORTER=prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT=0"},
		"--config", r.file)
	r.WaitInstrumented(tg.PID)
	from := prometheusURL(t, r.Agent)
	conn, err := net.Dial("tcp", tg.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET /gorilla HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	open, closed := -1, -1
	counted := func() {
		side := `websocket_side="server"`
		open, closed = sum(scrape(t, from, "websocket_connections_active"), side), sum(scrape(t, from, "websocket_connections_closed_total"), side)
	}
	r.until("counted as open", 20*time.Second, func() bool { counted(); return open == 1 })
	r.reload(config + "probes: {websocket: false}\n")
	r.until("counted as closed", 20*time.Second, func() bool { counted(); return open == 0 && closed == 1 })
}

// TestWebSocketHitBudget: one hit per message at each end and way.
func TestWebSocketHitBudget(t *testing.T) {
	needs(t)
	harness.CountRuns(t)
	tg := harness.StartTarget(t, harness.Build{Dir: websocketDir, Mode: harness.Stripped}.Path(t))
	agent := harness.Trace(t, tg)
	for _, lib := range []string{"gorilla", "coder", "nhooyr"} {
		hits := func(n int) int {
			before := agent.Runs()
			mark := agent.Mark()
			harness.Get(t, dialURL(tg, lib, n, 50, ""))
			agent.WaitSpans(mark, 2, func(s harness.Span) bool { return s.Name == "websocket" })
			agent.Settle(mark, 0, tg)
			return total(delta(before, agent.Runs()))
		}
		hits(10)
		const n = 1000
		base, many := hits(10), hits(10+n)
		// Both ends are this program: a message and its echo are written and read twice.
		if got := many - base; got < 4*n || got > 4*n+4 {
			t.Errorf("%s: %d hits for %d messages and their echoes, want %d", lib, got, n, 4*n)
		}
	}
	m := agent.Metrics()
	opened := m[`tracer_agent_websocket_total{probe="websocket",mode="server",outcome="connected"}`]
	closed := m[`tracer_agent_websocket_total{probe="websocket",mode="server",outcome="closed"}`]
	if opened != 9 || closed != 9 {
		t.Errorf("%v connections opened and %v closed are counted, want 9: %v", opened, closed, m)
	}
}

// TestWebSocketByHand: a connection that a handler takes over with no library has a span to
// its close, with the socket's bytes; one for another protocol has none.
func TestWebSocketByHand(t *testing.T) {
	needs(t)
	for _, b := range []harness.Build{{Mode: harness.Stripped}, {Go: "1.18.10"}} {
		b.Dir = "testdata/targets/upgrade"
		t.Run(b.Go+string(b.Mode), func(t *testing.T) {
			tg := harness.StartTarget(t, b.Path(t))
			agent := harness.Trace(t, tg)
			isSocket := func(s harness.Span) bool { return s.Name == "websocket" }
			// The first ones have the ends of connections looked at.
			mark := agent.Mark()
			for deadline := time.Now().Add(20 * time.Second); len(harness.Of(agent.Since(mark), isSocket)) == 0; {
				if time.Now().After(deadline) {
					t.Fatal("no span")
				}
				echo(t, tg, "/websocket", "WebSocket", 1)
			}
			agent.Settle(mark, 0, tg)
			mark = agent.Mark()
			echo(t, tg, "/tunnel", "tunnel", 500)
			head := echo(t, tg, "/websocket", "WebSocket", 100_000)
			// those of the first ones may come late
			got := agent.WaitSpans(mark, 1, func(s harness.Span) bool {
				return isSocket(s) && s.Attr("websocket.bytes.received") == "100000"
			})
			spans := agent.Settle(mark, 3, tg)
			if len(got) != 1 {
				t.Fatalf("%d connections, want 1: %v", len(got), spans)
			}
			want := map[string]string{"network.protocol.name": "websocket", "network.peer.address": "127.0.0.1", "network.peer.port": any_,
				"websocket.bytes.received": "100000", "websocket.bytes.sent": strconv.Itoa(100_000 + head)}
			checkAttrs(t, got[0], want)
			parent := harness.Of(spans, func(s harness.Span) bool { return s.SpanID == got[0].ParentSpanID })
			if len(parent) != 1 || parent[0].Attr("url.path") != "/websocket" || parent[0].Attr("http.response.status_code") != "101" {
				t.Errorf("no child of the request: %v", spans)
			}
			for _, s := range harness.Of(spans, isSocket) {
				if s.Attr("websocket.bytes.received") == "500" {
					t.Errorf("a connection for another protocol: %v", s)
				}
			}
		})
	}
}

// echo sends n bytes over a connection that is upgraded, gets them back, and closes it; it
// returns the size of the answer's head.
func echo(t *testing.T, tg *harness.Target, path, protocol string, n int) int {
	t.Helper()
	conn, err := net.Dial("tcp", tg.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: %s\r\nConnection: Upgrade\r\n\r\n", path, protocol); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	head := 0
	for line := ""; line != "\r\n"; head += len(line) {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	return head
}
