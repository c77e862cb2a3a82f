package mongo

import (
	"bytes"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// Parser parses messages. It keeps buffers and names between them and is used by one
// goroutine.
type Parser struct {
	inputs
	mode     TextMode
	names    interned
	sections []section
	text     text
}

// NewParser returns a parser that makes query texts as mode says.
func NewParser(mode TextMode) *Parser {
	return &Parser{mode: mode, names: interned{}, sections: make([]section, 0, maxSections)}
}

// Request is what a message from a client says.
type Request struct {
	Header
	// Command is the first key, "_OTHER" if it does not look like a command.
	Command        string
	DB, Collection string
	// NoReply: the client wants none.
	NoReply bool
	// Documents is the size of the batch: documents, updates, deletes; -1: unknown, or
	// the command has none.
	Documents int
	// Text is the command as the parser's mode has it.
	Text string
}

// Monitoring says that a command looks at whether and how a server is, or logs in: a driver
// does so of itself, a program for its own health.
func (r *Request) Monitoring() bool {
	switch r.Command {
	case "hello", "ping", "isMaster", "ismaster", "saslStart", "saslContinue", "authenticate", "getnonce":
		return true
	}
	return false
}

// Uncounted says that there is, or should be, a batch, and that its size is not known.
func (r *Request) Uncounted() bool { return r.Documents < 0 && batches[r.Command] != "" }

// Other is the name of commands and keys that do not look like one.
const Other = "_OTHER"

// inCollection: the commands whose first value is a collection's name.
var inCollection = map[string]bool{
	"aggregate": true, "collMod": true, "collStats": true, "compact": true, "convertToCapped": true, "count": true,
	"create": true, "createIndexes": true, "delete": true, "distinct": true, "drop": true, "dropIndexes": true,
	"find": true, "findAndModify": true, "findandmodify": true, "insert": true, "killCursors": true,
	"listIndexes": true, "mapReduce": true, "planCacheClear": true, "reIndex": true, "update": true, "validate": true,
	"createSearchIndexes": true, "dropSearchIndex": true, "updateSearchIndex": true,
}

// batches: where a command's batch is, in its body or beside it.
var batches = map[string]string{
	"insert": "documents", "update": "updates", "delete": "deletes", "bulkWrite": "ops", "createIndexes": "indexes",
}

// Request parses a client's message or its beginning, of which end, if given, are the
// last bytes of the body that is not all there.
func (p *Parser) Request(b, end []byte) (Request, error) {
	var c content
	if err := p.unpack(b, &c); err != nil {
		return Request{}, err
	}
	r := Request{Header: c.Header, NoReply: c.more, Documents: -1}
	body := c.body
	if c.ns != nil {
		db, _, _ := bytes.Cut(c.ns, []byte("."))
		r.DB = p.names.get(db)
		body = unwrapQuery(body)
	}
	p.readBody(&r, body, &c)
	if r.DB == "" && end != nil {
		r.DB = p.names.get(dbFromEnd(end))
	}
	if p.mode != TextOff && r.Command != "" && !r.Monitoring() {
		p.text.command(p.mode, &r, body, c.sections, c.cut)
		r.Text = p.names.get(p.text.buf)
	}
	return r, nil
}

// readBody reads names and sizes.
func (p *Parser) readBody(r *Request, body []byte, c *content) {
	var e element
	w := walk(body)
	batch := ""
	for first := true; w.next(&e); first = false {
		switch {
		case first:
			r.Command = Other
			if isCommand(e.key) {
				r.Command = p.names.get(e.key)
			}
			batch = batches[r.Command]
			if inCollection[r.Command] {
				r.Collection = p.names.get(e.str())
			}
		case e.is("$db"):
			r.DB = p.names.get(e.str())
		case e.is("collection") && r.Command == "getMore":
			r.Collection = p.names.get(e.str())
		case batch != "" && e.is(batch) && e.typ == bsoncore.TypeArray:
			r.Documents = countElements(e.val)
		}
	}
	for _, s := range c.sections {
		if batch != "" && string(s.id) == batch {
			r.Documents = countDocs(s.docs, s.cut)
		}
	}
}

// unwrapQuery returns the command in { $query: command, ... } of OP_QUERY.
func unwrapQuery(body []byte) []byte {
	var e element
	w := walk(body)
	if w.next(&e) && (e.is("$query") || e.is("query")) && e.typ == bsoncore.TypeEmbeddedDocument {
		return e.val
	}
	return body
}

// dbFromEnd finds the element $db in the last bytes of a body.
func dbFromEnd(end []byte) []byte {
	const mark = "\x02$db\x00"
	i := bytes.LastIndex(end, []byte(mark))
	if i < 0 {
		return nil
	}
	s, _, ok := bsoncore.ReadString(end[i+len(mark):])
	if !ok {
		return nil
	}
	return []byte(s)
}

// isCommand: letters, digits and underscores, and not too many.
func isCommand(key []byte) bool {
	if len(key) == 0 || len(key) > 48 {
		return false
	}
	for i, c := range key {
		if !letter(c) && (i == 0 || !digit(c)) {
			return false
		}
	}
	return true
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' }
func digit(c byte) bool  { return c >= '0' && c <= '9' }

// interned keeps one copy of each of a bounded number of strings.
type interned map[string]string

const maxInterned = 4096

func (m interned) get(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := m[string(b)]; ok {
		return s
	}
	if len(m) >= maxInterned {
		clear(m)
	}
	s := string(b)
	m[s] = s
	return s
}
