package main

import (
	"context"
	"fmt"
	"time"

	"github.com/gomodule/redigo/redis"
)

type redigo struct{ p *redis.Pool }

func newRedigo(addr string, db int, options ...redis.DialOption) library {
	options = append(options, redis.DialDatabase(db))
	return &redigo{&redis.Pool{
		MaxIdle: 64, MaxActive: 64, Wait: true,
		Dial: func() (redis.Conn, error) {
			return redis.Dial("tcp", addr, options...)
		},
	}}
}

func (l *redigo) call(ctx context.Context, name, arg string) error {
	c := l.p.Get()
	defer c.Close()
	do := func(cmd string, args ...interface{}) error {
		_, err := c.Do(cmd, args...)
		return err
	}
	switch name {
	case "set":
		return do("SET", canary+"-key", canary+"-value")
	case "get":
		return do("GET", canary+"-key")
	case "nil":
		return do("GET", canary+"-missing")
	case "mget":
		return do("MGET", canary+"-1", canary+"-2", canary+"-3")
	case "wrongtype":
		return do("LPUSH", canary+"-key", canary+"-value")
	case "unknown":
		return do("NOSUCH", canary+"-value")
	case "do":
		return do(arg, canary+"-value")
	case "block":
		_, err := redis.DoWithTimeout(c, 50*time.Millisecond, "BLPOP", canary+"-list", 5)
		return err
	case "context":
		_, err := redis.DoContext(c, ctx, "BLPOP", canary+"-list", 5)
		return err
	case "pipeline":
		c.Send("SET", canary+"-key", canary+"-value")
		c.Send("GET", canary+"-key")
		return do("GET", canary+"-missing")
	case "tx":
		c.Send("MULTI")
		c.Send("SET", canary+"-key", canary+"-value")
		c.Send("INCR", canary+"-n")
		return do("EXEC")
	}
	return fmt.Errorf("no such call: %s", name)
}
