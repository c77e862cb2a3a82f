package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync/atomic"

	"github.com/lib/pq"
)

func init() {
	sql.Register("bare", opener{})
	sql.Register("skip", opener{skip: true})
}

// opener is pq behind what other drivers have of database/sql's interfaces: a connection
// that can only prepare, as SQL Server's, or one that asks for it, as MySQL's.
type opener struct{ skip bool }

func (o opener) Open(dsn string) (driver.Conn, error) {
	c, err := pq.Open(dsn)
	if err != nil {
		return nil, err
	}
	if o.skip {
		return skipping{bare{c}}, nil
	}
	return bare{c}, nil
}

type bare struct{ driver.Conn }

func (b bare) Prepare(query string) (driver.Stmt, error) {
	s, err := b.Conn.Prepare(query)
	if err != nil {
		return nil, err
	}
	return flaky{s}, nil
}

type skipping struct{ bare }

func (skipping) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return nil, driver.ErrSkip
}

func (skipping) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return nil, driver.ErrSkip
}

// bad is 1 when the next statement without rows shall find its connection broken.
var bad int32

type flaky struct{ driver.Stmt }

func (f flaky) Exec(args []driver.Value) (driver.Result, error) {
	if atomic.CompareAndSwapInt32(&bad, 1, 0) {
		return nil, driver.ErrBadConn
	}
	return f.Stmt.Exec(args)
}
