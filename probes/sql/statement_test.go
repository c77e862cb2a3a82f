package sql

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestAnalyse(t *testing.T) {
	pg, my, other := dialectPostgres, dialectMySQL, dialectUnknown
	for _, c := range []struct {
		sql  string
		d    dialect
		want statement
	}{
		{"SELECT * FROM orders WHERE id = 42", pg, statement{"SELECT * FROM orders WHERE id = ?", "SELECT", "orders"}},
		{"select a.b, 'x''y' from s.orders a where p=-1.5e+3 and q::int in (1, 0xff)", pg,
			statement{"select a.b, ? from s.orders a where p=-? and q::int in (?, ?)", "SELECT", "s.orders"}},
		{`INSERT INTO "Orders" (id, v) VALUES ($1, $$a'b$$), ($2, $t$ $$ $t$)`, pg,
			statement{`INSERT INTO "Orders" (id, v) VALUES ($1, ?), ($2, ?)`, "INSERT", "Orders"}},
		{"UPDATE t SET a = E'it\\'s', b = N'x', c = x'ff', d = U&'\\0041' -- no\nWHERE /* a /* b */ c */ id = ?", pg,
			statement{"UPDATE t SET a = ?, b = ?, c = ?, d = ? WHERE id = ?", "UPDATE", "t"}},
		{"DELETE FROM ONLY t WHERE a = $1", pg, statement{"DELETE FROM ONLY t WHERE a = $1", "DELETE", "t"}},
		{"SELECT 1 FROM a JOIN b ON a.i = b.i", pg, statement{"SELECT ? FROM a JOIN b ON a.i = b.i", "SELECT", ""}},
		{"SELECT 1 FROM a, b", pg, statement{"SELECT ? FROM a, b", "SELECT", ""}},
		{"SELECT 1 FROM (SELECT 2) x", pg, statement{"SELECT ? FROM (SELECT ?) x", "SELECT", ""}},
		{"WITH x AS (SELECT 1) INSERT INTO t SELECT 2", pg, statement{"WITH x AS (SELECT ?) INSERT INTO t SELECT ?", "INSERT", ""}},
		{"CREATE TABLE IF NOT EXISTS t (a int)", pg, statement{"CREATE TABLE IF NOT EXISTS t (a int)", "CREATE", "t"}},
		{"TRUNCATE TABLE t", pg, statement{"TRUNCATE TABLE t", "TRUNCATE", "t"}},
		{"SELECT \"x\" FROM `t` WHERE a = \"y\\\"z\" # c", my, statement{"SELECT ? FROM `t` WHERE a = ?", "SELECT", "t"}},
		{`SELECT "x" FROM "t" WHERE a = 'y'`, other, statement{`SELECT ? FROM "t" WHERE a = ?`, "SELECT", "t"}},
		{"SELECT 'a\\'b' AND 'c'", pg, statement{"SELECT ?", "SELECT", ""}},
		{"SELECT EXTRACT(EPOCH FROM now())", pg, statement{"SELECT EXTRACT(EPOCH FROM now())", "SELECT", ""}},
		{"SELECT EXTRACT(DAY FROM d) FROM t WHERE a IS DISTINCT FROM b", pg,
			statement{"SELECT EXTRACT(DAY FROM d) FROM t WHERE a IS DISTINCT FROM b", "SELECT", "t"}},
		{"SELECT a FROM t WHERE b = 5--1 # c\n AND c = 'x' -- d\n/* e */ LIMIT 1", my,
			statement{"SELECT a FROM t WHERE b = ?--? AND c = ? LIMIT ?", "SELECT", "t"}},
		{"SELECT a #> b FROM t", pg, statement{"SELECT a #> b FROM t", "SELECT", "t"}},
		{"SELECT [a] FROM [s].[t] -- x", other, statement{"SELECT [a] FROM [s].[t]", "SELECT", ""}},
		{"begin", pg, statement{"begin", "BEGIN", ""}},
		{"SELEC 1", pg, statement{"SELEC ?", "", ""}},
		{"", pg, statement{}},
		{"/* never ends", pg, statement{}},
	} {
		if diff := cmp.Diff(c.want, analyse(c.sql, c.d), cmp.AllowUnexported(statement{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.sql, diff)
		}
	}
}

var dialects = []dialect{dialectUnknown, dialectPostgres, dialectMySQL}

// doubts are statements of one database that the others read differently, in which XQ is
// only in literals and comments.
var doubts = []struct {
	sql string
	d   []dialect
}{
	{"INSERT INTO #t (a) VALUES ('one\ntwo XQ')", []dialect{dialectUnknown}},
	{"SELECT q'[it's XQ]', nq'{it's XQ}' FROM dual", dialects},
	{`SELECT TRIM(' ' FROM "XQ"), a FROM t WHERE a IS NOT DISTINCT FROM "XQ"`, []dialect{dialectUnknown, dialectMySQL}},
	{`SELECT a FROM t WHERE b = SUBSTRING("XQ" FROM "XQ")`, []dialect{dialectUnknown, dialectMySQL}},
	{"SELECT a--1 + 'b\nXQ'", []dialect{dialectUnknown, dialectMySQL}},
	{"SELECT /* a /* b */ 'c */ XQ' FROM t", []dialect{dialectUnknown, dialectMySQL}},
	{"SELECT /*!50000 'a */ XQ' */ FROM t", []dialect{dialectUnknown, dialectMySQL}},
	{"SELECT [a'b] FROM t WHERE c = 'XQ'", []dialect{dialectUnknown}},
	{"SELECT '''it's XQ''' FROM t", []dialect{dialectUnknown}},
}

// secrets are statements in which XQ is only in literals and comments.
var secrets = []string{
	"SELECT 'XQ', $$XQ$$, $t$XQ$t$, E'\\'XQ', x'XQ', U&'XQ' FROM t -- XQ\n WHERE a=$1 /* XQ /* x */ XQ */",
	"UPDATE t SET n = 'XQ' WHERE id = 'a''XQ' AND m = 'it\\'s XQ' AND o = 'XQ'",
	"INSERT INTO s.t (a,b) VALUES (1,'XQ'),(2,N'XQ') ON CONFLICT DO NOTHING",
	"SELECT 'XQ\\", "SELECT 'XQ\\' XQ", "SELECT $a$ XQ $b$ XQ",
}

// TestNoLiteralLeaves: not from a statement that is cut at any byte either.
func TestNoLiteralLeaves(t *testing.T) {
	for _, sql := range secrets {
		for n := range len(sql) + 1 {
			for _, d := range dialects {
				if st := analyse(sql[:n], d); strings.Contains(st.text+st.table+st.operation, "XQ") {
					t.Fatalf("%+v: %q becomes %+v", d, sql[:n], st)
				}
			}
		}
	}
}

// TestDoubts: a literal does not leave where databases differ about what it is.
func TestDoubts(t *testing.T) {
	for _, c := range doubts {
		for n := range len(c.sql) + 1 {
			for _, d := range c.d {
				if st := analyse(c.sql[:n], d); strings.Contains(st.text+st.table+st.operation, "XQ") {
					t.Fatalf("%d: %q becomes %+v", d, c.sql[:n], st)
				}
			}
		}
	}
}

func FuzzAnalyse(f *testing.F) {
	for _, s := range secrets {
		f.Add(s)
	}
	f.Add("WITH a AS (SELECT 1) DELETE FROM \"x\".\"y\" WHERE z = `w`")
	f.Fuzz(func(t *testing.T, sql string) {
		for _, d := range dialects {
			st := analyse(sql, d)
			if !utf8.ValidString(st.text) || len(st.text) > len(sql)+1 {
				t.Errorf("%q becomes %q", sql, st.text)
			}
			if again := analyse(st.text, d); strings.ContainsAny(again.text, "'") && !strings.ContainsAny(st.text, "'") {
				t.Errorf("%q, then %q", st.text, again.text)
			}
		}
		// whatever a string holds, it stays in there
		if q := "SELECT '" + strings.ReplaceAll(strings.ReplaceAll(sql, "'", "''"), "\\", "") + "'"; analyse(q, dialectPostgres).text != "SELECT ?" {
			t.Errorf("%q becomes %q", q, analyse(q, dialectPostgres).text)
		}
	})
}
