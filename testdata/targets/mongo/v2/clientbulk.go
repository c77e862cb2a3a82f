package main

import (
	"context"

	"go.mongodb.org/mongo-driver/v2/mongo"
)

// clientBulkWrite is the command bulkWrite, of servers 8 and drivers since 2.1.
func clientBulkWrite(ctx context.Context, c *client, _ int) error {
	_, err := c.BulkWrite(ctx, []mongo.ClientBulkWrite{
		{Database: "shop", Collection: "orders", Model: mongo.NewClientInsertOneModel().SetDocument(secret)},
		{Database: "shop", Collection: "users", Model: mongo.NewClientUpdateOneModel().SetFilter(secret).SetUpdate(one("$set", one("px", canary)))},
	})
	return err
}
