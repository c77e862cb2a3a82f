package main

import (
	"context"
	"fmt"
	"math/rand"
)

// randomly are n documents of about size bytes each that no compressor makes much smaller.
func randomly(n, size int) []interface{} {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	r, docs := rand.New(rand.NewSource(1)), make([]interface{}, n)
	for i := range docs {
		b := make([]byte, size)
		for k := range b {
			b[k] = letters[r.Intn(len(letters))]
		}
		docs[i] = append(one("_id", fmt.Sprint(string(b[:40]), n)), one("text", canary+string(b))...)
	}
	return docs
}

// insertRandom makes one command of documents that are hard to compress.
func insertRandom(n, size int) operation {
	return func(ctx context.Context, c *client, _ int) error {
		_, err := c.db.Collection("random").InsertMany(ctx, randomly(n, size), unordered())
		return err
	}
}

// findRandom gets what insertRandom has put there.
func findRandom(ctx context.Context, c *client, _ int) error {
	cur, err := c.db.Collection("random").Find(ctx, one("text", one("$gt", canary)))
	return drain(ctx, cur, err)
}
