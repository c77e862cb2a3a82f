package e2e

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

var sqlTarget = harness.Build{Dir: "testdata/targets/sql"}

func startSQL(t *testing.T, b harness.Build) (*harness.Target, *harness.Server) {
	t.Helper()
	needs(t)
	srv := harness.StartPostgres(t)
	return harness.StartTarget(t, b.Path(t), "-dsn", "postgres://tester@"+srv.Addr+"/postgres?sslmode=disable"), srv
}

// sqlSpan is one span that a call makes: its name and what it has besides the common
// attributes. In both, TABLE stands for the library's table.
type sqlSpan struct {
	name  string
	attrs map[string]string
}

// sqlCase is one call, /library/call, and its spans in the order of their ends.
type sqlCase struct {
	call  string
	libs  string // "" is all
	spans []sqlSpan
	fails string // error.type of the last span
}

func st(name, text string, more ...string) sqlSpan {
	m := map[string]string{"db.query.text": text}
	for i := 0; i+1 < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return sqlSpan{name, m}
}

const (
	native   = "pgx pgxpool"
	standard = "pq stdlib skip bare"
	affected = "db.response.affected_rows"
	returned = "db.response.returned_rows"
)

var sqlCases = []sqlCase{
	{call: "update", spans: []sqlSpan{st("UPDATE TABLE", "UPDATE TABLE SET name = ? WHERE id > ? AND name <> $1", affected, "2")}},
	{call: "literal", spans: []sqlSpan{st("UPDATE TABLE", "UPDATE TABLE SET name = ? WHERE id = ?", affected, "1")}},
	{call: "query", libs: standard, spans: []sqlSpan{st("SELECT TABLE", "SELECT name FROM TABLE WHERE name <> $1")}},
	{call: "query", libs: native, spans: []sqlSpan{st("SELECT TABLE", "SELECT name FROM TABLE WHERE name <> $1", returned, "0")}},
	{call: "simple", libs: native, spans: []sqlSpan{st("SELECT TABLE", "SELECT name FROM TABLE WHERE name <> ?", returned, "0")}},
	{call: "row", libs: standard, spans: []sqlSpan{st("SELECT TABLE", "SELECT name FROM TABLE WHERE id = ?")}},
	{call: "row", libs: native, spans: []sqlSpan{st("SELECT TABLE", "SELECT name FROM TABLE WHERE id = ?", returned, "1")}},
	{call: "prepared", libs: standard, spans: []sqlSpan{st("SELECT TABLE", "SELECT name FROM TABLE WHERE id = $1")}},
	{call: "unconnected", libs: "pq skip bare", fails: "canceled", spans: []sqlSpan{st("SELECT TABLE", "SELECT name FROM TABLE WHERE id = $1")}},
	{call: "retried", libs: "skip bare", spans: []sqlSpan{st("UPDATE TABLE", "UPDATE TABLE SET name = $1 WHERE id = ?", affected, "1")}},
	{call: "tx", libs: standard, spans: []sqlSpan{{name: "BEGIN"},
		st("UPDATE TABLE", "UPDATE TABLE SET name = ? WHERE id = ?", affected, "1"), {name: "COMMIT"}}},
	{call: "rollback", libs: standard, spans: []sqlSpan{{name: "BEGIN"},
		st("UPDATE TABLE", "UPDATE TABLE SET name = ? WHERE id = ?", affected, "1"), {name: "ROLLBACK"}}},
	{call: "tx", libs: native, spans: []sqlSpan{st("BEGIN", "begin"),
		st("UPDATE TABLE", "UPDATE TABLE SET name = ? WHERE id = ?", affected, "1"), st("COMMIT", "commit")}},
	{call: "syntax", fails: "42601", spans: []sqlSpan{st("SYSTEM", "SELEC ?")}},
	{call: "notable", libs: native, fails: "42P01", spans: []sqlSpan{st("SELECT nowhere", "SELECT * FROM nowhere WHERE a = $1")}},
	{call: "notable", libs: standard, fails: "42P01", spans: []sqlSpan{st("SELECT nowhere", "SELECT * FROM nowhere WHERE a = ?")}},
	{call: "quoted", fails: "22P02", spans: []sqlSpan{st("SELECT", "SELECT ?::int")}},
	{call: "duplicate", fails: "23505", spans: []sqlSpan{st("INSERT TABLE", "INSERT INTO TABLE (id, name) VALUES (?, $1)")}},
	{call: "late", libs: native, fails: "22012", spans: []sqlSpan{st("SELECT TABLE", "SELECT ?/(?-id) FROM TABLE WHERE name <> $1 ORDER BY id")}},
	{call: "nested", libs: "pgxpool", spans: []sqlSpan{
		st("UPDATE TABLE", "UPDATE TABLE SET name = ? WHERE id = ?", affected, "1"),
		st("UPDATE TABLE", "UPDATE TABLE SET name = ? WHERE id = ?", affected, "1"),
		st("UPDATE TABLE", "UPDATE TABLE SET name = ? WHERE id = ?", affected, "1"),
		st("SELECT TABLE", "SELECT id FROM TABLE", returned, "3")}},
	{call: "sleep?cancel=1500", libs: "stdlib pgxpool", fails: "canceled", spans: []sqlSpan{st("SELECT", "SELECT pg_sleep(?)")}},
	{call: "sleep?ms=1500", libs: "stdlib pgxpool", fails: "timeout", spans: []sqlSpan{st("SELECT", "SELECT pg_sleep(?)")}},
}

var sqlTables = map[string]string{"pq": "t_postgres", "stdlib": "t_pgx", "skip": "t_skip", "bare": "t_bare", "pgx": "t_native", "pgxpool": "t_native"}

// want is span i's name and whole set of attributes.
func (c sqlCase) want(i int, lib string, srv *harness.Server) (string, map[string]string) {
	system := "postgresql"
	if lib == "skip" || lib == "bare" { // unknown drivers
		system = "other_sql"
	}
	fill := strings.NewReplacer("TABLE", sqlTables[lib], "SYSTEM", system)
	name := fill.Replace(c.spans[i].name)
	m := map[string]string{"db.system.name": system}
	if op, table, _ := strings.Cut(name, " "); op != system {
		m["db.operation.name"] = op
		if table != "" {
			m["db.collection.name"] = table
		}
	}
	if lib != "pq" && system == "postgresql" {
		m["db.namespace"], m["server.address"], m["server.port"] = "postgres", srv.Host(), srv.Port()
	}
	for k, v := range c.spans[i].attrs {
		if k == affected && system == "other_sql" {
			continue // database/sql wraps the Result of what it has prepared
		}
		m[k] = fill.Replace(v)
	}
	if c.fails != "" && i == len(c.spans)-1 {
		m["error.type"] = c.fails
		if len(c.fails) == 5 {
			m["db.response.status_code"] = c.fails
		}
	}
	return name, m
}

// TestSQL checks all spans, whole, of each kind of call: database/sql with two drivers,
// and pgx by itself and from a pool, new and old.
func TestSQL(t *testing.T) {
	for name, b := range map[string]harness.Build{
		"new, stripped": {Dir: sqlTarget.Dir, Mode: harness.Stripped},
		"old, stripped": {Dir: sqlTarget.Dir, Mod: "old.mod", Go: "1.18.10", Mode: harness.Stripped},
	} {
		t.Run(name, func(t *testing.T) {
			tg, srv := startSQL(t, b)
			agent := harness.Trace(t, tg)
			for _, lib := range []string{"pq", "stdlib", "skip", "bare", "pgx", "pgxpool"} {
				for _, c := range sqlCases {
					if c.libs != "" && !strings.Contains(" "+c.libs+" ", " "+lib+" ") {
						continue
					}
					t.Run(lib+" "+c.call, func(t *testing.T) { checkSQL(t, tg, agent, srv, lib, c) })
				}
			}
			checkCanary(t, agent.Since(0))
			// a transaction whose context is over is rolled back, and Commit asks for nothing
			mark, libs := agent.Mark(), strings.Fields(standard)
			for _, lib := range libs {
				harness.Get(t, tg.URL("/"+lib+"/over"))
			}
			agent.Settle(mark, 3*len(libs), tg)
			if n := agent.OpenCalls("sq_ops", tg.PID); n != 0 {
				t.Errorf("%d operations stay open", n)
			}
		})
	}
}

func checkSQL(t *testing.T, tg *harness.Target, agent *harness.Agent, srv *harness.Server, lib string, c sqlCase) {
	t.Helper()
	mark := agent.Mark()
	answer := harness.Get(t, tg.URL("/"+lib+"/"+c.call))
	if strings.HasPrefix(answer, "error: no such call") {
		t.Fatal(answer)
	}
	spans := agent.Settle(mark, len(c.spans)+1, tg)
	calls := harness.Of(spans, harness.Kind("client"))
	if len(calls) != len(c.spans) {
		t.Fatalf("%d client spans, want %d; the program saw %q: %v", len(calls), len(c.spans), answer, spans)
	}
	server := harness.Of(spans, harness.Kind("server"))[0]
	for i, s := range calls {
		name, want := c.want(i, lib, srv)
		if s.Name != name {
			t.Errorf("name %q, want %q", s.Name, name)
		}
		if diff := cmp.Diff(want, s.Texts()); diff != "" {
			t.Errorf("%s: attributes (-want +got):\n%s", name, diff)
		}
		if failed := want["error.type"] != ""; failed != (s.Status == "error") {
			t.Errorf("%s: status %s; the program saw %q", name, s.Status, answer)
		}
		checkChild(t, s, server)
	}
}

// TestSQLHits: what a call costs in hits, exactly. A driver below database/sql has its
// own points, which only look who called.
func TestSQLHits(t *testing.T) {
	tg, _ := startSQL(t, sqlTarget)
	harness.CountRuns(t)
	agent := harness.Trace(t, tg)
	const n = 500
	for _, c := range []struct {
		call string
		hits uint64
	}{
		{"pq/update", 2}, {"pq/query", 2}, {"pq/prepared", 2},
		{"pgxpool/update", 2},
		{"pgxpool/row", 3},   // start, and two in Close
		{"pgxpool/query", 3}, // its rows are closed three times: at their end, by defer, by the pool
		{"stdlib/update", 4}, // two of database/sql's, two of pgx's; TestSQLBelow has three
	} {
		t.Run(c.call, func(t *testing.T) {
			harness.Get(t, tg.URL("/"+c.call)) // dials, prepares
			before := sqlRuns(agent)
			mark := agent.Mark()
			harness.Get(t, tg.URL("/"+c.call+"?n="+strconv.Itoa(n)))
			agent.Settle(mark, n+1, tg)
			if got := sqlRuns(agent) - before; got != c.hits*n {
				t.Errorf("%d hits for %d calls, want %d each", got, n, c.hits)
			}
		})
	}
}

// TestSQLBelow: where pgx is there for database/sql only, a call costs three hits; a call
// of pgx itself has the ends of those looked at, and from then on all are seen.
func TestSQLBelow(t *testing.T) {
	tg, srv := startSQL(t, harness.Build{Dir: sqlTarget.Dir, Pkg: "below", Mode: harness.Stripped})
	harness.CountRuns(t)
	agent := harness.Trace(t, tg)
	hits := func(call string) {
		t.Helper()
		mark := agent.Mark()
		harness.Get(t, tg.URL(call)) // dials
		agent.Settle(mark, 2, tg)
		before := sqlRuns(agent)
		mark = agent.Mark()
		const n = 200
		if got := harness.Get(t, tg.URL(call+"?n="+strconv.Itoa(n))); got != "ok" {
			t.Fatal(got)
		}
		calls := harness.Of(agent.Settle(mark, n+1, tg), harness.Kind("client"))
		if got := sqlRuns(agent) - before; got != 3*n || len(calls) != n {
			t.Errorf("%s: %d hits and %d spans for %d calls, want 3 each and all", call, got, len(calls), n)
		}
		for _, s := range calls {
			if s.Attr("server.address") != srv.Host() {
				t.Fatalf("%s: no address: %v", call, s)
			}
		}
	}
	hits("/exec")
	hits("/query")
	harness.Get(t, tg.URL("/ping"))
	hits("/exec")
	for deadline := time.Now().Add(20 * time.Second); ; {
		mark := agent.Mark()
		if got := harness.Get(t, tg.URL("/native")); got != "ok" {
			t.Fatal(got)
		}
		if len(harness.Of(agent.Settle(mark, 1, tg), harness.Kind("client"))) == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the calls of pgx itself are never seen")
		}
	}
	mark := agent.Mark()
	harness.Get(t, tg.URL("/native?n=50"))
	if got := harness.Of(agent.Settle(mark, 101, tg), harness.Kind("client")); len(got) != 100 {
		t.Errorf("%d spans of 100 calls of pgx itself", len(got))
	}
	if n := agent.OpenCalls("sq_ops", tg.PID); n != 0 {
		t.Errorf("%d operations stay open", n)
	}
}

// TestSQLQueryText: what is in db.query.text is the user's choice.
func TestSQLQueryText(t *testing.T) {
	tg, _ := startSQL(t, sqlTarget)
	checkQueryTexts(t, tg, "sql", "/pgxpool/update", "UPDATE t_native SET name = 'CANARY' WHERE id > 1 AND name <> $1")
}

func sqlRuns(a *harness.Agent) (sum uint64) {
	for name, n := range a.Runs() {
		if strings.HasPrefix(name, "sq_") {
			sum += n
		}
	}
	return sum
}

// TestSQLConcurrent: of 50 goroutines at once each call is one span of its request.
func TestSQLConcurrent(t *testing.T) {
	tg, _ := startSQL(t, sqlTarget)
	agent := harness.Trace(t, tg)
	for _, call := range []string{"pq/row", "pgxpool/row", "stdlib/row"} {
		const par, n, requests = 50, 10, 3
		mark := agent.Mark()
		errs := make(chan error, requests)
		for range requests {
			go func() {
				answer, err := harness.TryGet(tg.URL("/" + call + "?par=" + strconv.Itoa(par) + "&n=" + strconv.Itoa(n)))
				if err == nil && answer != "ok" {
					err = errors.New(answer)
				}
				errs <- err
			}()
		}
		for range requests {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		per := map[string]int{}
		spans := agent.Settle(mark, requests*(par*n+1), tg)
		for _, s := range harness.Of(spans, harness.Kind("client")) {
			per[s.ParentSpanID]++
		}
		for _, s := range harness.Of(spans, harness.Kind("server")) {
			if per[s.SpanID] != par*n {
				t.Errorf("%s: a request has %d calls, want %d", call, per[s.SpanID], par*n)
			}
			delete(per, s.SpanID)
		}
		if len(per) > 0 {
			t.Errorf("%s: calls of no request: %v", call, per)
		}
	}
	if m := agent.Metrics(); harness.Lost(m) != 0 {
		t.Errorf("losses are counted: %v", m)
	}
}
