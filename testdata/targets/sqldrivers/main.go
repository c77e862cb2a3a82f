// Command sqldrivers is a program whose HTTP requests make SQL calls with drivers other
// than PostgreSQL's: GET /{sqlite|mysql}/{call}. It knows nothing of the agent.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"

	_ "github.com/go-sql-driver/mysql"
	_ "modernc.org/sqlite"
)

// canary is in every value that a call sends.
const canary = "CANARY"

func main() {
	sqlite := flag.String("sqlite", "", "SQLite's file")
	mysql := flag.String("mysql", "", "MySQL's data source; empty: none")
	flag.Parse()
	dbs := map[string]*sql.DB{}
	for driver, dsn := range map[string]string{"sqlite": *sqlite, "mysql": *mysql} {
		if dsn == "" {
			continue
		}
		db, err := open(driver, dsn)
		if err != nil {
			fmt.Fprintln(os.Stderr, driver, err)
			os.Exit(1)
		}
		dbs[driver] = db
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		part := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
		db := dbs[part[0]]
		if db == nil || len(part) != 2 {
			fmt.Fprint(w, "ok") // the tests' fence
			return
		}
		if err := call(r.Context(), db, part[1]); err != nil {
			fmt.Fprintf(w, "error: %v", err)
			return
		}
		fmt.Fprint(w, "ok")
	})
	ready, _ := json.Marshal(map[string]interface{}{"pid": os.Getpid(), "go": runtime.Version(), "http": ln.Addr().String()})
	fmt.Printf("ready %s\n", ready)
	fmt.Fprintln(os.Stderr, http.Serve(ln, nil))
}

func open(driver, dsn string) (*sql.DB, error) {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return nil, err
	}
	for _, q := range []string{
		"DROP TABLE IF EXISTS trades",
		"CREATE TABLE trades (id INTEGER PRIMARY KEY, name VARCHAR(40))",
		"INSERT INTO trades VALUES (1, 'a'), (2, 'b'), (3, 'c')",
	} {
		if _, err := db.Exec(q); err != nil {
			return nil, fmt.Errorf("%s: %w", q, err)
		}
	}
	return db, nil
}

func call(ctx context.Context, db *sql.DB, name string) error {
	exec := func(q string, args ...interface{}) error {
		_, err := db.ExecContext(ctx, q, args...)
		return err
	}
	switch name {
	case "literal":
		return exec("UPDATE trades SET name = '" + canary + "' WHERE id > 1")
	case "args":
		return exec("UPDATE trades SET name = ? WHERE id = 1", canary+"-1")
	case "query":
		return drain(db.QueryContext(ctx, "SELECT name FROM trades WHERE name <> '"+canary+"'"))
	case "queryArgs":
		return drain(db.QueryContext(ctx, "SELECT name FROM trades WHERE name <> ?", canary))
	case "prepared":
		st, err := db.PrepareContext(ctx, "SELECT name FROM trades WHERE id = ?")
		if err != nil {
			return err
		}
		defer st.Close()
		return drain(st.QueryContext(ctx, 1))
	case "duplicate":
		return exec("INSERT INTO trades VALUES (1, '" + canary + "')")
	case "notable":
		return drain(db.QueryContext(ctx, "SELECT * FROM nowhere WHERE a = '"+canary+"'"))
	case "tx":
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, "DELETE FROM trades WHERE id = 3"); err != nil {
			return err
		}
		return tx.Commit()
	}
	return fmt.Errorf("no such call: %s", name)
}

func drain(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Err()
}
