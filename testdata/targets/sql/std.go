package main

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
)

// std makes calls with database/sql.
type std struct {
	db    *sql.DB
	table string
	stmt  *sql.Stmt
}

func openPQ(ctx context.Context, dsn string) (caller, error)     { return openStd(ctx, "postgres", dsn) }
func openStdlib(ctx context.Context, dsn string) (caller, error) { return openStd(ctx, "pgx", dsn) }
func openSkip(ctx context.Context, dsn string) (caller, error)   { return openStd(ctx, "skip", dsn) }
func openBare(ctx context.Context, dsn string) (caller, error)   { return openStd(ctx, "bare", dsn) }

func openStd(ctx context.Context, driver, dsn string) (caller, error) {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(30)
	db.SetMaxIdleConns(30)
	table := "t_" + driver
	for _, q := range []string{
		"DROP TABLE IF EXISTS " + table,
		"CREATE TABLE " + table + " (id INTEGER PRIMARY KEY, name TEXT)",
		"INSERT INTO " + table + " VALUES (1, 'a'), (2, 'b'), (3, 'c')",
	} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return nil, fmt.Errorf("%s: %w", q, err)
		}
	}
	stmt, err := db.PrepareContext(ctx, "SELECT name FROM "+table+" WHERE id = $1")
	return &std{db: db, table: table, stmt: stmt}, err
}

func (l *std) call(ctx context.Context, name string) error {
	table := l.table
	exec := func(q string, args ...interface{}) error {
		_, err := l.db.ExecContext(ctx, q, args...)
		return err
	}
	switch name {
	case "update":
		return exec("UPDATE "+table+" SET name = '"+canary+"' WHERE id > 1 AND name <> $1", canary+"-none")
	case "literal":
		return exec("UPDATE " + table + " SET name = '" + canary + "' WHERE id = 1 /* " + canary + " */ -- " + canary)
	case "query":
		return drain(l.db.QueryContext(ctx, "SELECT name FROM "+table+" WHERE name <> $1", canary))
	case "row":
		var s string
		return l.db.QueryRowContext(ctx, "SELECT name FROM "+table+" WHERE id = 1").Scan(&s)
	case "prepared":
		return drain(l.stmt.QueryContext(ctx, 1))
	case "unconnected": // no connection is had before the context is over
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		return drain(l.stmt.QueryContext(ctx, 1))
	case "retried":
		stmt, err := l.db.PrepareContext(ctx, "UPDATE "+table+" SET name = $1 WHERE id = 1")
		if err != nil {
			return err
		}
		defer stmt.Close()
		atomic.StoreInt32(&bad, 1)
		_, err = stmt.ExecContext(ctx, canary)
		return err
	case "over":
		ctx, cancel := context.WithCancel(ctx)
		tx, err := l.db.BeginTx(ctx, nil)
		cancel()
		if err != nil {
			return err
		}
		return tx.Commit()
	case "tx", "rollback":
		tx, err := l.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, "UPDATE "+table+" SET name = 'x' WHERE id = 2"); err != nil {
			return err
		}
		if name == "rollback" {
			return tx.Rollback()
		}
		return tx.Commit()
	case "syntax":
		return exec("SELEC '" + canary + "'")
	case "notable":
		return drain(l.db.QueryContext(ctx, "SELECT * FROM nowhere WHERE a = '"+canary+"'"))
	case "quoted": // the server's message repeats the value
		return drain(l.db.QueryContext(ctx, "SELECT '"+canary+"'::int"))
	case "duplicate":
		return exec("INSERT INTO "+table+" (id, name) VALUES (1, $1)", canary)
	case "sleep":
		return drain(l.db.QueryContext(ctx, "SELECT pg_sleep(10)"))
	case "nested":
		rows, err := l.db.QueryContext(ctx, "SELECT id FROM "+table)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := exec("UPDATE " + table + " SET name = 'y' WHERE id = 3"); err != nil {
				return err
			}
		}
		return rows.Err()
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
