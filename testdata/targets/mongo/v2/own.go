package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

// few is a collection of as many documents.
const few = 20

func ownID(id int) string { return fmt.Sprintf("own%06d", id) }

func ownDoc(id int, part interface{}) string { return fmt.Sprintf("%s-%v", ownID(id), part) }

// inserted, updated, duplicates, fresh: sizes of the batches of a request.
func inserted(id int) int   { return 1 + id%7 }
func updated(id int) int    { return 1 + id%5%inserted(id) }
func duplicates(id int) int { return 1 + id%3 }
func fresh(id int) int      { return id % 4 }

// looked is the document that a request looks for: every third one's is not there.
func looked(id int) bson.D {
	if id%3 == 0 {
		return one("_id", ownDoc(id, "none"))
	}
	return one("_id", ownDoc(id, 0))
}

func prepareOwn(ctx context.Context, c *client, _ int) error {
	debug.SetGCPercent(5) // addresses of what is garbage are soon used again
	docs := make([]interface{}, few)
	for i := range docs {
		docs[i] = one("_id", fmt.Sprint("few", i))
	}
	_, err := c.db.Collection("few").InsertMany(ctx, docs)
	return err
}

// own makes one of a request's commands; n is id*ownSteps + step. Each carries the id,
// and what it changes, returns or fails with follows from the id: a reply or a parent that
// was given to another command shows. The test computes the same.
func own(ctx context.Context, c *client, n int) error {
	id, coll := n/ownSteps, c.db.Collection("own")
	switch n % ownSteps {
	case 0:
		docs := make([]interface{}, inserted(id))
		for i := range docs {
			docs[i] = bson.D{{Key: "_id", Value: ownDoc(id, i)}, {Key: "px", Value: 0}}
		}
		_, err := coll.InsertMany(ctx, docs)
		return err
	case 1: // the first of every second request changes nothing
		models := make([]mongo.WriteModel, updated(id))
		for i := range models {
			models[i] = mongo.NewUpdateOneModel().SetFilter(one("_id", ownDoc(id, i))).SetUpdate(one("$set", one("px", i+id%2)))
		}
		_, err := coll.BulkWrite(ctx, models)
		return err
	case 2:
		err := coll.FindOne(ctx, looked(id)).Err()
		if err == mongo.ErrNoDocuments {
			return nil
		}
		return err
	case 3:
		cur, err := c.db.Collection("few").Find(ctx, one("_id", one("$ne", ownID(id))), limit(int64(1+id%11)))
		return drain(ctx, cur, err)
	case 4:
		var docs []interface{}
		for i := 0; i < duplicates(id); i++ {
			docs = append(docs, one("_id", ownDoc(id, 0)))
		}
		for i := 0; i < fresh(id); i++ {
			docs = append(docs, one("_id", ownDoc(id, fmt.Sprint("x", i))))
		}
		_, err := coll.InsertMany(ctx, docs, unordered())
		return failing(err)
	case 5:
		return failing(c.db.RunCommand(ctx, bson.D{{Key: "find", Value: "few"}, {Key: "filter", Value: one("user", one("$"+ownID(id), 1))}}).Err())
	case 6:
		return failing(c.db.RunCommand(ctx, bson.D{{Key: "frobnicate", Value: ownID(id)}}).Err())
	case 7:
		err := coll.FindOneAndUpdate(ctx, looked(id), one("$set", one("px", id))).Err()
		if err == mongo.ErrNoDocuments {
			return nil
		}
		return err
	case 8:
		return c.db.RunCommand(ctx, bson.D{{Key: "count", Value: "own"}, {Key: "query", Value: looked(id)}}).Err()
	}
	var models []mongo.WriteModel
	for i := 0; i < inserted(id); i++ {
		models = append(models, mongo.NewDeleteOneModel().SetFilter(one("_id", ownDoc(id, i))))
	}
	for i := 0; i < fresh(id); i++ {
		models = append(models, mongo.NewDeleteOneModel().SetFilter(one("_id", ownDoc(id, fmt.Sprint("x", i)))))
	}
	_, err := coll.BulkWrite(ctx, models)
	return err
}

// failing is for commands that the server must refuse.
func failing(err error) error {
	switch {
	case err == nil:
		return fmt.Errorf("a command that must fail has succeeded")
	case strings.Contains(err.Error(), busy):
		return err
	}
	return nil
}
