package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// poolCase makes calls that hold connections of a pool for some seconds.
type poolCase struct {
	name          string // of the pool
	used, pending int
	limit         int
	quick, hold   string // URLs: of one call that ends at once, of the calls that last
	waits         bool   // how often and how long callers waited is known
}

// TestPools: what pools of running programs have in use and idle, how many wait for it,
// read from the memory of plain and stripped programs.
func TestPools(t *testing.T) {
	needs(t)
	t.Run("redis", func(t *testing.T) {
		srv := harness.StartRedis(t)
		tg := harness.StartTarget(t, harness.Build{Dir: redisTarget.Dir, Mode: harness.Stripped}.Path(t), "-redis", srv.Addr, "-db", "3")
		// The two libraries' pools have one name; only one is seen at a time.
		for _, lib := range []string{"v8", "v9"} {
			checkPool(t, tg, poolCase{srv.Addr + "/3", 4, -1, 64, tg.URL("/" + lib + "/set"), tg.URL("/" + lib + "/block?par=4"), false})
		}
		checkPool(t, tg, poolCase{"redis", 4, -1, 64, tg.URL("/redigo/set"), tg.URL("/redigo/context?par=4"), false})
	})
	t.Run("sql", func(t *testing.T) {
		tg, _ := startSQL(t, harness.Build{Dir: sqlTarget.Dir, Mode: harness.Stripped})
		checkPool(t, tg, poolCase{"postgresql", 30, 6, 30, tg.URL("/pq/row"), tg.URL("/pq/sleep?par=36&ms=2000"), true})
	})
	t.Run("sql, old Go", func(t *testing.T) {
		tg, _ := startSQL(t, harness.Build{Dir: sqlTarget.Dir, Mod: "old.mod", Go: "1.18.10"})
		checkPool(t, tg, poolCase{"postgresql", 30, 6, 30, tg.URL("/stdlib/row"), tg.URL("/stdlib/sleep?par=36&ms=2000"), true})
		// puddle counts the waiting since 2.1, which pgx 5.0 does not have yet
		checkPool(t, tg, poolCase{"pgxpool", 5, -1, 5, tg.URL("/pgxpool/row"), tg.URL("/pgxpool/sleep?par=8&ms=2000"), false})
	})
	t.Run("pgxpool", func(t *testing.T) {
		tg, _ := startSQL(t, harness.Build{Dir: sqlTarget.Dir, Mode: harness.Stripped})
		checkPool(t, tg, poolCase{"pgxpool", 5, 3, 5, tg.URL("/pgxpool/row"), tg.URL("/pgxpool/nap?par=8"), true})
	})
	for _, b := range []harness.Build{mongoBuilds[1], mongoBuilds[4]} {
		t.Run("mongo "+b.Dir, func(t *testing.T) {
			proxy := startMongoProxy(t, startMongo(t), nil)
			tg := harness.StartTargetEnv(t, []string{"DYING=1"}, b.Path(t), "-uri", "mongodb://"+proxy.addr+"/?maxPoolSize=3&heartbeatFrequencyMS=60000&retryReads=false")
			harness.Get(t, tg.URL("/burst?n=60&c=8&op=findOne"))
			held := false
			t.Cleanup(func() {
				if held {
					proxy.gate.Unlock()
				}
			})
			c := poolCase{proxy.addr, 3, 2, 3, tg.URL("/do?op=findOne"), tg.URL("/burst?n=5&c=5&op=findOne"), true}
			var value func(string, ...string) int
			var agent *harness.Agent
			one := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}} // served by one goroutine
			get := func(path string) {
				resp, err := one.Get(tg.URL(path))
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			checkPoolHeld(t, tg, c, func() { proxy.gate.Lock(); held = true },
				func(a *harness.Agent, v func(string, ...string) int) {
					agent, value = a, v
					get("/do?op=findOne&timeout=50ms")
					proxy.gate.Unlock()
					held = false
				})
			commands := func() int {
				return sum(scrape(t, prometheusURL(t, agent), "db_client_operation_duration_seconds_count"))
			}
			counted := func(n int) {
				t.Helper()
				for deadline := time.Now().Add(20 * time.Second); commands() < n; time.Sleep(30 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("%d commands are counted, want %d", commands(), n)
					}
				}
			}
			before := commands()
			get("/do?op=findOne") // whose goroutine has not got a connection the time before
			counted(before + 1)
			if n := value("_waits_total"); n != c.pending {
				t.Errorf("%d waits, want %d: of those that got a connection", n, c.pending)
			}
			gate := func(shut bool) {
				if held = shut; shut {
					proxy.gate.Lock()
				} else {
					proxy.gate.Unlock()
				}
			}
			checkWaits(t, tg, c, proxy, gate, value, func(n int) { counted(before + 1 + n) })
			gate(true)
			checkCrowd(t, tg, agent, c.limit, value)
		})
	}
}

// checkWaits: a wait is of the command that is written next by the goroutine that has waited.
// Who waits in vain has no command, and another goroutine may have its g then; and a command
// whose end is not seen does not leave its wait to the next one.
func checkWaits(t *testing.T, tg *harness.Target, c poolCase, proxy *mongoProxy, gate func(shut bool), value func(string, ...string) int, counted func(int)) {
	t.Helper()
	const find = "/do?op=findOne"
	until := func(what string, n int, texts ...string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); value(what, texts...) != n; time.Sleep(30 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s%v: %d, want %d", what, texts, value(what, texts...), n)
			}
		}
	}
	gate(true)
	in := openConns(t, tg, waiters)
	for _, conn := range in {
		conn.ask(find)
	}
	until("_pending_requests", waiters-c.used)
	proxy.drop() // what waits for the pool's connections gets an error
	for _, conn := range in {
		conn.answer()
		conn.Close()
	}
	gate(false)
	commands, waits := c.used, c.pending
	ok := func(conn oneConn) {
		t.Helper()
		if got := conn.answer(); got != "ok" {
			t.Fatalf("%q", got)
		}
		commands++
	}
	for _, conn := range openConns(t, tg, 2*waiters) { // the first waits for a connection
		conn.ask(find)
		ok(conn)
	}
	waits++
	counted(commands)
	if n := value("_waits_total"); n != waits {
		t.Errorf("%d waits, want %d: of goroutines that did wait, not of those that have their g now", n, waits)
	}
	harness.Get(t, tg.URL("/burst?n=60&c=8&op=findOne")) // there are as many connections as may be
	commands += 60
	counted(commands)
	waits = value("_waits_total")
	gate(true)
	in = openConns(t, tg, c.used+1)
	for _, conn := range in[1:] {
		conn.ask(find)
	}
	until("s", c.used, `state="used"`)
	in[0].ask("/do?op=die")
	until("_pending_requests", 1)
	gate(false)
	for _, conn := range in[1:] {
		ok(conn)
	}
	if got := in[0].answer(); got != "error: dying" {
		t.Fatalf("%q", got)
	}
	in[0].ask(find)
	ok(in[0])
	counted(commands)
	if n := value("_waits_total"); n != waits {
		t.Errorf("%d waits, want %d: a command without an end has left its wait to the next one", n, waits)
	}
}

// waiters is how many wait for a connection in vain.
const waiters = 20

// oneConn is a connection to a target: a goroutine of its server's.
type oneConn struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

func openConns(t *testing.T, tg *harness.Target, n int) (conns []oneConn) {
	t.Helper()
	for range n {
		c, err := net.Dial("tcp", tg.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns = append(conns, oneConn{c, t, bufio.NewReader(c)})
	}
	return conns
}

func (c oneConn) ask(path string) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		c.t.Fatal(err)
	}
}

func (c oneConn) answer() string {
	c.t.Helper()
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// checkCrowd: callers that wait in thousands do not take the room of commands under way.
func checkCrowd(t *testing.T, tg *harness.Target, agent *harness.Agent, limit int, value func(string, ...string) int) {
	t.Helper()
	const crowd = 5000
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, tg.URL(fmt.Sprintf("/burst?n=%d&c=%d&op=findOne", crowd, crowd)), nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	})
	waiting := crowd - limit - 1 // seen so each time; where that one is was not looked into
	for deadline := time.Now().Add(30 * time.Second); value("_pending_requests") < waiting; time.Sleep(30 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d wait, want %d", value("_pending_requests"), waiting)
		}
	}
	if n := agent.Entries("mg_ops", tg.PID); n < 1000 || n > 3000 {
		t.Errorf("%d entries of mg_ops, want about half of 4096", n)
	}
	cancel() // the driver's queue keeps them until a connection is free
	wg.Wait()
}

func checkPool(t *testing.T, tg *harness.Target, c poolCase) {
	t.Helper()
	checkPoolHeld(t, tg, c, func() {}, func(*harness.Agent, func(string, ...string) int) {})
}

// checkPoolHeld polls: a pool's numbers are those of one moment.
func checkPoolHeld(t *testing.T, tg *harness.Target, c poolCase, hold func(), release func(*harness.Agent, func(string, ...string) int)) {
	t.Helper()
	agent, from := countingAgent(t, tg, "always_off")
	value := func(metric string, texts ...string) int {
		lines := scrape(t, from, "db_client_connection"+metric)
		for _, line := range lines {
			if strings.Contains(line, fmt.Sprintf(`db_client_connection_pool_name=%q`, c.name)) {
				return sum(lines, append(texts, fmt.Sprintf(`db_client_connection_pool_name=%q`, c.name))...)
			}
		}
		return -1
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(30 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not %s: used %d, idle %d, pending %d, max %d", c.name, what, value("s", `state="used"`),
					value("s", `state="idle"`), value("_pending_requests"), value("_max"))
			}
		}
	}
	until("seen", func() bool {
		harness.Get(t, c.quick)
		return value("s", `state="idle"`) > 0
	})
	if got := value("_max"); got != c.limit {
		t.Errorf("max %d, want %d", got, c.limit)
	}
	hold()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if resp, err := (&http.Client{Timeout: time.Minute}).Get(c.hold); err == nil {
			resp.Body.Close()
		}
	})
	until("in use", func() bool {
		return value("s", `state="used"`) == c.used && (c.pending < 0 || value("_pending_requests") == c.pending)
	})
	if held := time.Now(); c.waits {
		until("waiting", func() bool { return time.Since(held) > 700*time.Millisecond })
	}
	release(agent, value)
	wg.Wait()
	until("idle", func() bool {
		// Drivers of SQL close the connections of calls that were cancelled.
		return value("s", `state="used"`) == 0 && value("_pending_requests") <= 0
	})
	if c.name == "pgxpool" && c.pending < 0 && value("_timeouts_total") < 1 { // three never get a connection
		t.Errorf("%d timeouts", value("_timeouts_total"))
	}
	if c.waits {
		until("waited for", func() bool {
			return value("_waits_total") >= c.pending && value("_wait_duration_seconds_total") >= 1
		})
	}
}
