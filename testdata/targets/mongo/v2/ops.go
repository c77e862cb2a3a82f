package main

import (
	"context"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

// canary is in every value that must not leave the process.
const canary = "CANARY"

type operation func(ctx context.Context, c *client, n int) error

func one(k string, v interface{}) bson.D { return bson.D{{Key: k, Value: v}} }

var secret = one("user", canary)

func drain(ctx context.Context, cur *mongo.Cursor, err error) error {
	if err != nil {
		return err
	}
	var all []bson.D
	return cur.All(ctx, &all)
}

func command(cmd bson.D) operation {
	return func(ctx context.Context, c *client, _ int) error {
		return c.db.RunCommand(ctx, cmd).Err()
	}
}

// documents are n documents of about size bytes, all of them canaries.
func documents(n, size int) []interface{} {
	docs := make([]interface{}, n)
	for i := range docs {
		docs[i] = bson.D{
			{Key: "user", Value: canary}, {Key: canary + "key", Value: i},
			{Key: "nested", Value: one(canary, strings.Repeat("x", size))},
		}
	}
	return docs
}

var ops = map[string]operation{
	"ping": func(ctx context.Context, c *client, _ int) error { return c.Ping(ctx, nil) },
	"insertOne": func(ctx context.Context, c *client, n int) error {
		_, err := c.db.Collection("orders").InsertOne(ctx, bson.D{{Key: "user", Value: canary}, {Key: "px", Value: 4711}, {Key: "n", Value: n}})
		return err
	},
	"insertMany": func(ctx context.Context, c *client, _ int) error {
		_, err := c.db.Collection("orders").InsertMany(ctx, documents(5, 10))
		return err
	},
	"insertBig": func(ctx context.Context, c *client, _ int) error {
		_, err := c.db.Collection("big").InsertMany(ctx, documents(100, 500))
		return err
	},
	"insertTwice": func(ctx context.Context, c *client, _ int) error { // the second one fails
		_, err := c.db.Collection("twice").InsertMany(ctx, []interface{}{one("_id", canary), one("_id", canary), one("_id", "other")}, unordered())
		return err
	},
	"insertUnacknowledged": func(ctx context.Context, c *client, _ int) error {
		_, err := c.unacknowledged().InsertOne(ctx, secret)
		return err
	},
	"insert1k":   insertRandom(1, 1400),
	"insert16k":  insertRandom(10, 1600),
	"insert200k": insertRandom(100, 2000),
	"findRandom": findRandom,
	"update": func(ctx context.Context, c *client, _ int) error {
		_, err := c.db.Collection("orders").UpdateMany(ctx, secret, one("$set", bson.D{{Key: "px", Value: 12}, {Key: "address", Value: one("street", canary)}}))
		return err
	},
	"replace": func(ctx context.Context, c *client, _ int) error {
		_, err := c.db.Collection("orders").ReplaceOne(ctx, secret, one(canary+"key", canary))
		return err
	},
	"delete": func(ctx context.Context, c *client, _ int) error {
		_, err := c.db.Collection("orders").DeleteOne(ctx, one("user", one("$eq", canary)))
		return err
	},
	"find": func(ctx context.Context, c *client, _ int) error {
		cur, err := c.db.Collection("orders").Find(ctx, bson.D{{Key: "user", Value: canary}, {Key: "px", Value: one("$gt", 5)}})
		return drain(ctx, cur, err)
	},
	"findIn": func(ctx context.Context, c *client, _ int) error {
		cur, err := c.db.Collection("orders").Find(ctx, bson.D{
			{Key: "user", Value: one("$in", bson.A{canary, canary + "2"})},
			{Key: "address", Value: one(canary, canary)},
			{Key: "$or", Value: bson.A{one("a", canary), one("b", one("$ne", canary))}},
		})
		return drain(ctx, cur, err)
	},
	"findBig": func(ctx context.Context, c *client, _ int) error { // with getMore
		cur, err := c.db.Collection("big").Find(ctx, bson.D{}, batch(60))
		return drain(ctx, cur, err)
	},
	"die": die,
	"findOne": func(ctx context.Context, c *client, n int) error {
		err := c.db.Collection("orders").FindOne(ctx, one("n", n)).Err()
		if err == mongo.ErrNoDocuments {
			return nil
		}
		return err
	},
	"aggregate": func(ctx context.Context, c *client, _ int) error {
		cur, err := c.db.Collection("orders").Aggregate(ctx, bson.A{
			one("$match", secret), one("$group", bson.D{{Key: "_id", Value: "$user"}, {Key: "total", Value: one("$sum", "$px")}}),
		})
		return drain(ctx, cur, err)
	},
	"lookup": func(ctx context.Context, c *client, _ int) error { // FerretDB has none
		cur, err := c.db.Collection("orders").Aggregate(ctx, bson.A{
			one("$lookup", bson.D{{Key: "from", Value: "users"}, {Key: "localField", Value: "user"}, {Key: "foreignField", Value: "_id"}, {Key: "as", Value: "u"}}),
		})
		return drain(ctx, cur, err)
	},
	"findAndModify": func(ctx context.Context, c *client, _ int) error {
		err := c.db.Collection("orders").FindOneAndUpdate(ctx, secret, one("$set", one("px", 13))).Err()
		if err == mongo.ErrNoDocuments {
			return nil
		}
		return err
	},
	"count": command(bson.D{{Key: "count", Value: "orders"}, {Key: "query", Value: secret}}),
	"countDocuments": func(ctx context.Context, c *client, _ int) error {
		_, err := c.db.Collection("orders").CountDocuments(ctx, secret)
		return err
	},
	"distinct":  command(bson.D{{Key: "distinct", Value: "orders"}, {Key: "key", Value: "user"}, {Key: "query", Value: secret}}),
	"unknown":   command(bson.D{{Key: "frobnicate", Value: canary}, {Key: "arg", Value: canary}}),
	"hello":     command(one("hello", 1)),
	"buildInfo": command(one("buildInfo", 1)),
	"badValue":  command(bson.D{{Key: "find", Value: "orders"}, {Key: "filter", Value: one("user", one("$badop", canary))}}),
	"bulkWrite": func(ctx context.Context, c *client, _ int) error {
		_, err := c.db.Collection("orders").BulkWrite(ctx, []mongo.WriteModel{
			mongo.NewInsertOneModel().SetDocument(secret),
			mongo.NewUpdateOneModel().SetFilter(secret).SetUpdate(one("$inc", one("px", 1))),
			mongo.NewDeleteOneModel().SetFilter(secret),
		})
		return err
	},
	"createIndex": func(ctx context.Context, c *client, _ int) error {
		_, err := c.db.Collection("orders").Indexes().CreateOne(ctx, mongo.IndexModel{Keys: one("px", 1)})
		return err
	},
	"listCollections": func(ctx context.Context, c *client, _ int) error {
		_, err := c.db.ListCollectionNames(ctx, bson.D{})
		return err
	},
	"drop":            func(ctx context.Context, c *client, _ int) error { return c.db.Drop(ctx) },
	"transaction":     transaction,
	"commit":          commit,
	"abort":           abort,
	"clientBulkWrite": clientBulkWrite,
	"own":             own,
	"prepareOwn":      prepareOwn,
}
