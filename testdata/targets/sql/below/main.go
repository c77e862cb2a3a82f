// Command below has pgx for database/sql: GET /exec?n=, /query?n=. GET /native makes a call
// of pgx itself, in a way that a look at the executable does not tell.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
)

func main() {
	dsn := flag.String("dsn", "", "PostgreSQL's URL")
	flag.Parse()
	db, err := sql.Open("pgx", *dsn)
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	repeat := func(call func(ctx context.Context) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			n, _ := strconv.Atoi(r.FormValue("n"))
			for i := 0; i < max(n, 1); i++ {
				if err := call(r.Context()); err != nil {
					fmt.Fprintf(w, "error: %v", err)
					return
				}
			}
			fmt.Fprint(w, "ok")
		}
	}
	http.HandleFunc("/exec", repeat(func(ctx context.Context) error {
		_, err := db.ExecContext(ctx, "SELECT 1 WHERE 1 = $1", 2)
		return err
	}))
	http.HandleFunc("/query", repeat(func(ctx context.Context) error {
		var n int
		return db.QueryRowContext(ctx, "SELECT count(*) FROM pg_class WHERE relname = $1", "none").Scan(&n)
	}))
	http.HandleFunc("/ping", repeat(db.PingContext))
	http.HandleFunc("/native", repeat(func(ctx context.Context) error {
		conf, err := pgx.ParseConfig(*dsn)
		if err != nil {
			return err
		}
		c, err := pgx.ConnectConfig(ctx, conf)
		if err != nil {
			return err
		}
		defer c.Close(ctx)
		if _, err := c.Exec(ctx, "SELECT 1 WHERE 1 = $1", 2); err != nil {
			return err
		}
		var n int
		return c.QueryRow(ctx, "SELECT count(*) FROM pg_class WHERE relname = $1", "none").Scan(&n)
	}))
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	ready, _ := json.Marshal(map[string]interface{}{"pid": os.Getpid(), "go": runtime.Version(), "http": ln.Addr().String()})
	fmt.Printf("ready %s\n", ready)
	log.Fatal(http.Serve(ln, nil))
}
