package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// querier is what a connection, a pool and a transaction have in common.
type querier interface {
	Exec(ctx context.Context, sql string, args ...interface{}) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...interface{}) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...interface{}) pgx.Row
	Begin(ctx context.Context) (pgx.Tx, error)
}

// native makes calls with pgx itself; open gives a connection for one of them.
type native struct {
	open func(ctx context.Context) (querier, func(), error)
}

// openPgx connects for every call: a connection is for one goroutine.
func openPgx(_ context.Context, dsn string) (caller, error) {
	return &native{func(ctx context.Context) (querier, func(), error) {
		c, err := pgx.Connect(context.Background(), dsn)
		if err != nil {
			return nil, nil, err
		}
		return c, func() { c.Close(context.Background()) }, nil
	}}, nil
}

func openPool(ctx context.Context, dsn string) (caller, error) {
	conf, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	conf.MaxConns = 5
	p, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, err
	}
	for _, q := range []string{
		"DROP TABLE IF EXISTS t_native",
		"CREATE TABLE t_native (id INTEGER PRIMARY KEY, name TEXT)",
		"INSERT INTO t_native VALUES (1, 'a'), (2, 'b'), (3, 'c')",
	} {
		if _, err := p.Exec(ctx, q); err != nil {
			return nil, fmt.Errorf("%s: %w", q, err)
		}
	}
	return &native{func(context.Context) (querier, func(), error) { return p, func() {}, nil }}, nil
}

func (l *native) call(ctx context.Context, name string) error {
	c, done, err := l.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	exec := func(q string, args ...interface{}) error {
		_, err := c.Exec(ctx, q, args...)
		return err
	}
	switch name {
	case "update":
		return exec("UPDATE t_native SET name = '"+canary+"' WHERE id > 1 AND name <> $1", canary+"-none")
	case "literal":
		return exec("UPDATE t_native SET name = '" + canary + "' WHERE id = 1 /* " + canary + " */ -- " + canary)
	case "query":
		return all(c.Query(ctx, "SELECT name FROM t_native WHERE name <> $1", canary))
	case "simple":
		return all(c.Query(ctx, "SELECT name FROM t_native WHERE name <> '"+canary+"'", pgx.QueryExecModeSimpleProtocol))
	case "row":
		var s string
		return c.QueryRow(ctx, "SELECT name FROM t_native WHERE id = 1").Scan(&s)
	case "tx", "rollback":
		tx, err := c.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx)
		if _, err := tx.Exec(ctx, "UPDATE t_native SET name = 'x' WHERE id = 2"); err != nil {
			return err
		}
		if name == "rollback" {
			return tx.Rollback(ctx)
		}
		return tx.Commit(ctx)
	case "syntax":
		return exec("SELEC '" + canary + "'")
	case "notable":
		return all(c.Query(ctx, "SELECT * FROM nowhere WHERE a = $1", canary))
	case "quoted": // the server's message repeats the value
		return all(c.Query(ctx, "SELECT '"+canary+"'::int"))
	case "duplicate":
		return exec("INSERT INTO t_native (id, name) VALUES (1, $1)", canary)
	case "late": // fails after rows have come
		return all(c.Query(ctx, "SELECT 1/(2-id) FROM t_native WHERE name <> $1 ORDER BY id", canary))
	case "sleep":
		return exec("SELECT pg_sleep(10)")
	case "nap":
		return exec("SELECT pg_sleep(2)")
	case "sleepquery":
		return all(c.Query(ctx, "SELECT pg_sleep(10)"))
	case "nested":
		rows, err := c.Query(ctx, "SELECT id FROM t_native")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := exec("UPDATE t_native SET name = 'y' WHERE id = 3"); err != nil {
				return err
			}
		}
		return rows.Err()
	}
	return fmt.Errorf("no such call: %s", name)
}

func all(rows pgx.Rows, err error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Err()
}
