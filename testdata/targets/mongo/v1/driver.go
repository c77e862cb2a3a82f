package main

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/mongo/writeconcern"
)

type client struct {
	*mongo.Client
	db *mongo.Database
}

func connect(uri string, encrypted bool) (*client, error) {
	o := options.Client().ApplyURI(uri).SetServerSelectionTimeout(2 * time.Second)
	if os.Getenv("DYING") != "" {
		o.SetDialer(&dialer{})
	}
	if encrypted {
		o.SetTLSConfig(&tls.Config{InsecureSkipVerify: true})
	}
	c, err := mongo.Connect(context.Background(), o)
	if err != nil {
		return nil, err
	}
	return &client{c, c.Database("shop")}, nil
}

// unacknowledged is the collection orders with a write concern of 0.
func (c *client) unacknowledged() *mongo.Collection {
	return c.db.Collection("orders", options.Collection().SetWriteConcern(writeconcern.New(writeconcern.W(0))))
}

// transaction fails on a server without transactions.
func transaction(ctx context.Context, c *client, _ int) error {
	sess, err := c.StartSession()
	if err != nil {
		return err
	}
	defer sess.EndSession(ctx)
	_, err = sess.WithTransaction(ctx, func(ctx mongo.SessionContext) (interface{}, error) {
		_, err := c.db.Collection("orders").InsertOne(ctx, bson.D{{Key: "user", Value: canary}})
		if err == nil {
			return nil, errors.New("stop")
		}
		return nil, err
	})
	return err
}

func unordered() *options.InsertManyOptions { return options.InsertMany().SetOrdered(false) }

func batch(n int32) *options.FindOptions { return options.Find().SetBatchSize(n) }

// commit and abort end transactions of two writes, on a server that has them.
func commit(ctx context.Context, c *client, _ int) error { return transact(ctx, c, nil) }

func abort(ctx context.Context, c *client, _ int) error {
	stop := errors.New("stop")
	if err := transact(ctx, c, stop); err != stop {
		return err
	}
	return nil
}

func transact(ctx context.Context, c *client, end error) error {
	sess, err := c.StartSession()
	if err != nil {
		return err
	}
	defer sess.EndSession(ctx)
	_, err = sess.WithTransaction(ctx, func(ctx mongo.SessionContext) (interface{}, error) {
		if _, err := c.db.Collection("orders").InsertOne(ctx, secret); err != nil {
			return nil, err
		}
		if _, err := c.db.Collection("orders").UpdateOne(ctx, secret, one("$set", one("px", 1))); err != nil {
			return nil, err
		}
		return nil, end
	})
	return err
}
