package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-redis/redis/v8"
)

type v8 struct{ c *redis.Client }

func newV8(addr string, db int) library {
	return &v8{redis.NewClient(&redis.Options{Addr: addr, DB: db, MaxRetries: 1, PoolSize: 64})}
}

func (l *v8) call(ctx context.Context, name, arg string) error {
	c := l.c
	switch name {
	case "set":
		return c.Set(ctx, canary+"-key", canary+"-value", 0).Err()
	case "get":
		return c.Get(ctx, canary+"-key").Err()
	case "nil":
		return c.Get(ctx, canary+"-missing").Err()
	case "mget":
		return c.MGet(ctx, canary+"-1", canary+"-2", canary+"-3").Err()
	case "hset":
		return c.HSet(ctx, canary+"-hash", canary+"-field", canary+"-value", "n", 7, "f", 1.5).Err()
	case "wrongtype":
		return c.LPush(ctx, canary+"-key", canary+"-value").Err()
	case "unknown":
		return c.Do(ctx, "NOSUCH", canary+"-value").Err()
	case "noscript":
		return c.EvalSha(ctx, "0000000000000000000000000000000000000000", []string{canary + "-key"}, canary+"-value").Err()
	case "config":
		return c.ConfigGet(ctx, "maxmemory").Err()
	case "do": // a command name that is whatever the caller says
		return c.Do(ctx, arg, canary+"-value").Err()
	case "block":
		return c.BLPop(ctx, 5*time.Second, canary+"-list").Err()
	case "pipeline":
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, canary+"-key", canary+"-value", 0)
			p.Get(ctx, canary+"-key")
			p.Get(ctx, canary+"-missing")
			return nil
		})
		return err
	case "same":
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := 0; i < 20; i++ {
				p.Incr(ctx, fmt.Sprintf("%s-n%d", canary, i))
			}
			return nil
		})
		return err
	case "pipeerror":
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, canary+"-key", canary+"-value", 0)
			p.LPush(ctx, canary+"-key", canary+"-value")
			p.Get(ctx, canary+"-key")
			return nil
		})
		return err
	case "pipenil": // a key that is not there before a command that fails
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Get(ctx, canary+"-missing")
			p.LPush(ctx, canary+"-key", canary+"-value")
			return nil
		})
		return err
	case "tx":
		_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, canary+"-key", canary+"-value", 0)
			p.Incr(ctx, canary+"-n")
			return nil
		})
		return err
	case "watch":
		return c.Watch(ctx, func(tx *redis.Tx) error {
			_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
				p.Incr(ctx, canary+"-n")
				return nil
			})
			return err
		}, canary+"-n")
	case "refused":
		c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
		defer c.Close()
		return c.Get(ctx, canary+"-key").Err()
	case "retried": // refused twice
		c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: 1})
		defer c.Close()
		return c.Get(ctx, canary+"-key").Err()
	case "piperefused":
		c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
		defer c.Close()
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Incr(ctx, canary+"-n")
			return nil
		})
		return err
	}
	return fmt.Errorf("no such call: %s", name)
}
