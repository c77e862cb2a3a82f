package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// errUnknownOrder says that there is no order with that number.
var errUnknownOrder = errors.New("no such order")

// order is a signal that the broker has taken.
type order struct {
	ID       int64  `bson:"_id"`
	Action   string `bson:"action"`
	Symbol   string `bson:"symbol"`
	Quantity int    `bson:"quantity"`
}

// store keeps orders in MongoDB, and what is quick to look up in Redis; what has no
// server is kept in memory.
type store struct {
	orders *mongo.Collection // may be nil
	redis  *redis.Client     // may be nil

	mu   sync.Mutex
	last int64
	own  map[int64]order
}

func openStore(mongoURI, redisAddr string) (*store, error) {
	s := &store{own: map[int64]order{}}
	if redisAddr != "" {
		s.redis = redis.NewClient(&redis.Options{Addr: redisAddr})
	}
	if mongoURI == "" {
		return s, nil
	}
	c, err := mongo.Connect(options.Client().ApplyURI(mongoURI).SetServerSelectionTimeout(5 * time.Second))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", mongoURI, err)
	}
	s.orders = c.Database("trade").Collection("orders")
	return s, nil
}

// limit is how much of a symbol may be bought at once; 1000 unless Redis says otherwise.
func (s *store) limit(ctx context.Context, symbol string) (int, error) {
	if s.redis == nil {
		return 1000, nil
	}
	n, err := s.redis.Get(ctx, "limit:"+symbol).Int()
	if errors.Is(err, redis.Nil) {
		return 1000, nil
	}
	return n, err
}

// number is the next order's.
func (s *store) number(ctx context.Context) (int64, error) {
	if s.redis != nil {
		return s.redis.Incr(ctx, "orders").Result()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	return s.last, nil
}

func (s *store) add(ctx context.Context, o *order) error {
	var err error
	if o.ID, err = s.number(ctx); err != nil {
		return err
	}
	if s.orders != nil {
		_, err = s.orders.InsertOne(ctx, o)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own[o.ID] = *o
	return nil
}

func (s *store) get(ctx context.Context, id int64) (order, error) {
	if s.orders == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		o, ok := s.own[id]
		if !ok {
			return order{}, errUnknownOrder
		}
		return o, nil
	}
	var o order
	err := s.orders.FindOne(ctx, bson.D{{Key: "_id", Value: id}}).Decode(&o)
	if errors.Is(err, mongo.ErrNoDocuments) {
		err = errUnknownOrder
	}
	return o, err
}
