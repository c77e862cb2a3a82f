package e2e

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tracer-agent/tracer-agent/test/e2e/harness"
)

// driverCase is a call of the target sqldrivers and its spans; rows and code are of the
// last one, by driver.
type driverCase struct {
	call      string
	spans     []sqlSpan
	sqlite    string // db.response.status_code
	mysql     string
	unknownBy string // the driver whose statements' affected rows are not known
}

// MySQL's driver has statements with arguments prepared, of which database/sql wraps the
// result; SQLite's has not.
var driverCases = []driverCase{
	{call: "literal", spans: []sqlSpan{st("UPDATE trades", "UPDATE trades SET name = ? WHERE id > ?", affected, "2")}},
	{call: "args", unknownBy: "mysql", spans: []sqlSpan{st("UPDATE trades", "UPDATE trades SET name = ? WHERE id = ?", affected, "1")}},
	{call: "query", spans: []sqlSpan{st("SELECT trades", "SELECT name FROM trades WHERE name <> ?")}},
	{call: "queryArgs", spans: []sqlSpan{st("SELECT trades", "SELECT name FROM trades WHERE name <> ?")}},
	{call: "prepared", spans: []sqlSpan{st("SELECT trades", "SELECT name FROM trades WHERE id = ?")}},
	{call: "duplicate", sqlite: "1555", mysql: "1062", spans: []sqlSpan{st("INSERT trades", "INSERT INTO trades VALUES (?, ?)")}},
	{call: "notable", sqlite: "1", mysql: "1146", spans: []sqlSpan{st("SELECT nowhere", "SELECT * FROM nowhere WHERE a = ?")}},
	{call: "tx", spans: []sqlSpan{{name: "BEGIN"}, st("DELETE trades", "DELETE FROM trades WHERE id = ?", affected, "1"), {name: "COMMIT"}}},
}

// TestSQLDrivers: database/sql with the drivers of SQLite (embedded) and MySQL (against
// MariaDB): all spans whole.
func TestSQLDrivers(t *testing.T) {
	needs(t)
	srv := harness.StartMariaDB(t)
	tg := harness.StartTarget(t, harness.Build{Dir: "testdata/targets/sqldrivers", Mode: harness.Stripped}.Path(t),
		"-sqlite", filepath.Join(t.TempDir(), "db"), "-mysql", "root@tcp("+srv.Addr+")/shop")
	agent := harness.Trace(t, tg)
	for _, driver := range []string{"sqlite", "mysql"} {
		for _, c := range driverCases {
			t.Run(driver+" "+c.call, func(t *testing.T) {
				mark := agent.Mark()
				harness.Get(t, tg.URL("/"+driver+"/"+c.call))
				spans := agent.Settle(mark, len(c.spans)+1, tg)
				request := only(t, harness.Of(spans, harness.Kind("server")))
				got := harness.Of(spans, harness.Kind("client"))
				if len(got) != len(c.spans) {
					t.Fatalf("%d spans, want %d: %v", len(got), len(c.spans), got)
				}
				code := map[string]string{"sqlite": c.sqlite, "mysql": c.mysql}[driver]
				for i, s := range got {
					want := c.want(i, driver, code)
					if diff := cmp.Diff(want, s.Texts()); diff != "" || s.Name != c.spans[i].name {
						t.Errorf("%q, want %q (-want +got):\n%s", s.Name, c.spans[i].name, diff)
					}
					if s.ParentSpanID != request.SpanID || (s.Status == "error") != (code != "") {
						t.Errorf("%v, request %v", s, request)
					}
				}
			})
		}
	}
	checkCanary(t, agent.Since(0))
}

// want is the whole set of attributes of span i.
func (c driverCase) want(i int, driver, code string) map[string]string {
	op, table, _ := strings.Cut(c.spans[i].name, " ")
	m := map[string]string{"db.system.name": driver, "db.operation.name": op}
	if table != "" {
		m["db.collection.name"] = table
	}
	for k, v := range c.spans[i].attrs {
		if k != affected || driver != c.unknownBy {
			m[k] = v
		}
	}
	if n, err := strconv.Atoi(code); err == nil && n > 0 {
		m["db.response.status_code"], m["error.type"] = code, code
	}
	return m
}
