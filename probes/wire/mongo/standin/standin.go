// Package standin is a proxy between a driver and a server, for tests and for the corpus,
// that does in place of the server what the one at hand does not: it compresses, it says
// that it is a mongos, so that drivers begin transactions, and it answers some commands, or
// changes what the server answers. What a driver sends is the driver's own.
package standin

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/tracer-agent/tracer-agent/probes/wire/mongo"
)

// StandIn is the proxy. Its fields do not change once it serves.
type StandIn struct {
	// Compressor is offered to drivers, "" for none.
	Compressor string
	// Mongos: hello says so, and that of a version with the command bulkWrite. What the
	// server does not know of transactions is taken out of commands.
	Mongos bool
	// Answer is a command's reply in place of the server's, nil to ask the server.
	Answer func(name string, command bsoncore.Document) bsoncore.Document
	// Change makes another reply of the server's; nil: none is changed.
	Change func(name string, reply bsoncore.Document) bsoncore.Document
	// Saw is told each message as the driver sent or got it; may be nil.
	Saw func(message []byte, fromDriver bool)
}

// Serve serves connections until ln is closed, each with one of its own to the server.
func (s *StandIn) Serve(ln net.Listener, server string) {
	for {
		client, err := ln.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", server)
		if err != nil {
			client.Close()
			continue
		}
		c := &conn{s: s, client: client, server: up, asked: map[int32]asked{}}
		go c.pump(up, client, c.request)
		go c.pump(client, up, c.reply)
	}
}

// asked is a command that waits for its reply.
type asked struct {
	name   string
	packed bool
}

type conn struct {
	s              *StandIn
	client, server net.Conn

	mu    sync.Mutex // also of writes to the client
	asked map[int32]asked
}

// pump hands messages on as pass says.
func (c *conn) pump(dst, src net.Conn, pass func([]byte) error) {
	defer dst.Close()
	defer src.Close()
	for {
		m := make([]byte, headerLen)
		if _, err := io.ReadFull(src, m); err != nil {
			return
		}
		h, err := mongo.ParseHeader(m)
		if err != nil {
			return
		}
		m = append(m, make([]byte, h.Len-len(m))...)
		if _, err := io.ReadFull(src, m[headerLen:]); err != nil {
			return
		}
		if pass(m) != nil {
			return
		}
	}
}

func (c *conn) saw(m []byte, fromDriver bool) {
	if c.s.Saw != nil {
		c.s.Saw(m, fromDriver)
	}
}

// noTransactions are fields that a server without transactions does not know.
var noTransactions = []string{"startTransaction", "autocommit", "txnNumber", "recoveryToken"}

func (c *conn) request(m []byte) error {
	c.saw(m, true)
	c.mu.Lock()
	defer c.mu.Unlock()
	packed := opcode(m) == opCompressed
	m, err := unpack(m)
	if err != nil {
		return err
	}
	if at := bodyAt(m); at > 0 && opcode(m) == opMsg {
		doc, rest, ok := bsoncore.ReadDocument(m[at:])
		if !ok {
			return fmt.Errorf("no document")
		}
		name := "" // the first key
		if first, err := doc.IndexErr(0); err == nil {
			name = first.Key()
		}
		id := int32(binary.LittleEndian.Uint32(m[4:]))
		c.asked[id] = asked{name, packed}
		if c.s.Answer != nil {
			if answer := c.s.Answer(name, doc); answer != nil {
				return c.write(answerTo(m, answer))
			}
		}
		if c.s.Mongos {
			doc = without(doc, noTransactions...)
			m = setLen(slices.Concat(m[:at], doc, rest))
		}
	}
	_, err = c.server.Write(m)
	return err
}

func (c *conn) reply(m []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(m)
}

// write hands a reply to the driver; the lock is held.
func (c *conn) write(m []byte) error {
	to := int32(binary.LittleEndian.Uint32(m[8:]))
	was := c.asked[to]
	delete(c.asked, to)
	if at := bodyAt(m); at > 0 {
		doc := c.s.hello(bsoncore.Document(m[at:]))
		if c.s.Change != nil && was.name != "" {
			doc = c.s.Change(was.name, doc)
		}
		m = setLen(slices.Concat(m[:at], doc))
	}
	var err error
	if was.packed {
		if m, err = pack(m, c.s.Compressor); err != nil {
			return err
		}
	}
	c.saw(m, false)
	_, err = c.client.Write(m)
	return err
}

// bodyAt is where a message's document is, 0 if it has none that is looked at.
func bodyAt(m []byte) int {
	at := 0
	switch opcode(m) {
	case opMsg:
		at = headerLen + 5 // flags, kind
	case opReply:
		at = headerLen + 20
	}
	if len(m) < at+5 {
		return 0
	}
	return at
}

// answerTo is an OP_MSG in reply to a message.
func answerTo(m []byte, doc bsoncore.Document) []byte {
	out := make([]byte, headerLen+5, headerLen+5+len(doc))
	copy(out[8:], m[4:8])
	binary.LittleEndian.PutUint32(out[12:], opMsg)
	return setLen(append(out, doc...))
}

// hello adds to the server's description of itself; other replies stay as they are.
func (s *StandIn) hello(doc bsoncore.Document) bsoncore.Document {
	if _, err := doc.LookupErr("maxWireVersion"); err != nil {
		return doc
	}
	if s.Mongos {
		const withBulkWrite = 25
		doc = With(without(doc, "maxWireVersion", "logicalSessionTimeoutMinutes"), func(b []byte) []byte {
			b = bsoncore.AppendInt32Element(b, "maxWireVersion", withBulkWrite)
			b = bsoncore.AppendInt32Element(b, "logicalSessionTimeoutMinutes", 30)
			return bsoncore.AppendStringElement(b, "msg", "isdbgrid")
		})
	}
	if s.Compressor != "" {
		list := bsoncore.BuildArray(nil, bsoncore.Value{Type: bsoncore.TypeString, Data: bsoncore.AppendString(nil, s.Compressor)})
		doc = With(doc, func(b []byte) []byte { return bsoncore.AppendArrayElement(b, "compression", list) })
	}
	return doc
}

// With is a document with further elements.
func With(doc bsoncore.Document, add func([]byte) []byte) bsoncore.Document {
	return setLen(append(add(slices.Clone(doc[:len(doc)-1])), 0))
}

// without is a document without some elements.
func without(doc bsoncore.Document, keys ...string) bsoncore.Document {
	elements, err := doc.Elements()
	if err != nil {
		return doc
	}
	out := []byte{0, 0, 0, 0}
	for _, e := range elements {
		if !slices.Contains(keys, e.Key()) {
			out = append(out, e...)
		}
	}
	return setLen(append(out, 0))
}
