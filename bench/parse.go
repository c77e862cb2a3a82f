package main

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/tracer-agent/tracer-agent/probes/wire/mongo"
)

// parse is how fast the parser of MongoDB's wire protocol gets over inserts of 16 KB, of
// which it needs the head.
func (b *bench) parse() error {
	msg, err := insert16K()
	if err != nil {
		return err
	}
	p := mongo.NewParser(mongo.TextShape)
	run := func(d time.Duration) (n int, took time.Duration, err error) {
		for began := time.Now(); took < d; took = time.Since(began) {
			for range 1000 {
				if _, err := p.Request(msg, nil); err != nil {
					return 0, 0, err
				}
			}
			n += 1000
		}
		return n, took, nil
	}
	if _, _, err := run(b.length / 10); err != nil { // names are interned
		return err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, took, err := run(b.length)
	if err != nil {
		return err
	}
	runtime.ReadMemStats(&after)
	rate := float64(n) * float64(len(msg)) / took.Seconds() / 1e9
	allocs := (after.Mallocs - before.Mallocs) / uint64(n) // the runtime itself makes a few
	b.report.add(row{what: "MongoDB wire parser on inserts of 16 KB, the head parsed", must: ">= 1 GB/s, no allocation",
		agent: fmt.Sprintf("%.1f GB/s, %d allocations", rate, allocs), sdk: "-", ok: rate >= 1 && allocs == 0})
	return nil
}

// insert16K is an OP_MSG with a body and a sequence of documents.
func insert16K() ([]byte, error) {
	le := binary.LittleEndian
	msg := make([]byte, 20) // header, flags
	le.PutUint32(msg[12:], 2013)
	body, err := bson.Marshal(bson.D{{Key: "insert", Value: "orders"}, {Key: "ordered", Value: true}, {Key: "$db", Value: "shop"}})
	if err != nil {
		return nil, err
	}
	msg = append(append(msg, 0), body...)
	at := len(msg) + 1
	msg = append(append(msg, 1, 0, 0, 0, 0), "documents\x00"...)
	for range 16 {
		doc, err := bson.Marshal(bson.D{{Key: "user", Value: strings.Repeat("x", 1000)}})
		if err != nil {
			return nil, err
		}
		msg = append(msg, doc...)
	}
	le.PutUint32(msg[at:], uint32(len(msg)-at))
	le.PutUint32(msg, uint32(len(msg)))
	return msg, nil
}
