package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
)

// dying is a collection: who has written a command for it panics when it reads.
const dying = "dying"

// dialer makes connections for the driver.
type dialer struct{ net.Dialer }

func (d *dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := d.Dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &dyingConn{Conn: c}, nil
}

type dyingConn struct {
	net.Conn
	dies bool
}

func (c *dyingConn) Write(b []byte) (int, error) {
	c.dies = bytes.Contains(b, []byte(dying))
	return c.Conn.Write(b)
}

func (c *dyingConn) Read(b []byte) (int, error) {
	if c.dies {
		panic(dying)
	}
	return c.Conn.Read(b)
}

// die makes a command that is written and has no end.
func die(ctx context.Context, c *client, _ int) (err error) {
	defer func() { err = fmt.Errorf("%v", recover()) }()
	return c.db.Collection(dying).FindOne(ctx, secret).Err()
}
