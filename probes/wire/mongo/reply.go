package mongo

import "go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

// Failure is an error of a server's.
type Failure struct {
	Code     int64
	CodeName string
	Message  string // may hold values of the command's
}

// Reply is what a message from a server says. Numbers are -1 where it says nothing.
type Reply struct {
	Header
	// More: a further reply follows without a command.
	More bool
	// Failed: ok is 0. Without a word of it in what is there of the reply, it is not.
	Failed bool
	// Err is of the command as a whole (Failed).
	Err Failure
	// WriteErrors is how many writes of the batch have failed, -1: some, but only the
	// beginning of their list is there. WriteErr is the first.
	WriteErrors int
	WriteErr    Failure
	// ConcernErr says why a write is not as durable as was asked; Code 0: it is.
	ConcernErr Failure
	// N is the server's count: of what was inserted, matched, deleted, or counted.
	N, Modified, Upserted int64
	// Returned is the number of documents in the batch, or of values.
	Returned int
	// Uncounted: there is such a batch, and its size is not known.
	Uncounted bool `json:"-"`
}

// Reply parses a server's message or its beginning.
func (p *Parser) Reply(b []byte) (Reply, error) { return p.ReplyTo(b, "") }

// bulkWrite is the command of drivers v2 and servers 8, whose reply is unlike others.
const bulkWrite = "bulkWrite"

// ReplyTo is Reply where the command is known.
func (p *Parser) ReplyTo(b []byte, command string) (Reply, error) {
	var c content
	if err := p.unpack(b, &c); err != nil {
		return Reply{}, err
	}
	r := Reply{Header: c.Header, More: c.more, N: -1, Modified: -1, Upserted: -1, Returned: -1}
	var e element
	for w := walk(c.body); w.next(&e); {
		switch {
		case command == bulkWrite && e.is("cursor"):
			p.readResults(&r, &e)
		case command == bulkWrite && e.is("nErrors"):
			if n, ok := e.number(); ok {
				r.WriteErrors = int(min(max(n, 0), maxMessage))
			}
		default:
			p.readReply(&r, &e)
		}
	}
	return r, nil
}

func (p *Parser) readReply(r *Reply, e *element) {
	switch string(e.key) {
	case "ok":
		if n, ok := e.number(); ok && n == 0 {
			r.Failed = true
		}
	case "n", "nInserted", "nMatched", "nDeleted":
		if n, ok := e.number(); ok {
			r.N = max(r.N, 0) + n
		}
	case "nModified":
		r.Modified, _ = e.number()
	case "nUpserted":
		r.Upserted, _ = e.number()
	case "upserted":
		if e.typ == bsoncore.TypeArray {
			r.Upserted = int64(countElements(e.val))
		}
	case "cursor":
		readCursor(r, e)
	case "values":
		if e.typ == bsoncore.TypeArray {
			r.count(e.val)
		}
	case "lastErrorObject":
		readLastError(r, e)
	case "writeErrors":
		p.readWriteErrors(r, e)
	case "writeConcernError":
		p.readFailure(&r.ConcernErr, e.val)
	default:
		p.failureField(&r.Err, e)
	}
}

func (p *Parser) readFailure(f *Failure, doc []byte) {
	var e element
	for w := walk(doc); w.next(&e); {
		p.failureField(f, &e)
	}
}

func (p *Parser) failureField(f *Failure, e *element) {
	switch string(e.key) {
	case "code":
		f.Code, _ = e.number()
	case "codeName":
		f.CodeName = p.names.get(e.str())
	case "errmsg":
		f.Message = string(e.str())
	}
}

func readCursor(r *Reply, cursor *element) {
	if cursor.typ != bsoncore.TypeEmbeddedDocument {
		return
	}
	var e element
	for w := walk(cursor.val); w.next(&e); {
		if e.typ == bsoncore.TypeArray && (e.is("firstBatch") || e.is("nextBatch")) {
			r.count(e.val)
		}
	}
}

// count counts the batch.
func (r *Reply) count(batch []byte) {
	r.Returned = countElements(batch)
	r.Uncounted = r.Returned < 0
}

// readResults: the cursor of the command bulkWrite has what became of each write.
func (p *Parser) readResults(r *Reply, cursor *element) {
	if cursor.typ != bsoncore.TypeEmbeddedDocument {
		return
	}
	var e, row element
	for w := walk(cursor.val); w.next(&e); {
		if e.typ != bsoncore.TypeArray || !e.is("firstBatch") {
			continue
		}
		failed := 0
		rows := walk(e.val)
		for rows.next(&row) {
			if row.typ != bsoncore.TypeEmbeddedDocument || !notOK(row.val) {
				continue
			}
			if failed == 0 {
				p.readFailure(&r.WriteErr, row.val)
			}
			failed++
		}
		if r.WriteErrors == 0 { // nErrors has not been there
			r.WriteErrors = failed
			if failed > 0 && rows.cut {
				r.WriteErrors = -1
			}
		}
	}
}

func notOK(doc []byte) bool {
	var e element
	for w := walk(doc); w.next(&e); {
		if e.is("ok") {
			n, ok := e.number()
			return ok && n == 0
		}
	}
	return false
}

// readLastError: findAndModify says there what it did.
func readLastError(r *Reply, doc *element) {
	if doc.typ != bsoncore.TypeEmbeddedDocument {
		return
	}
	var e element
	for w := walk(doc.val); w.next(&e); {
		if e.is("n") {
			r.N, _ = e.number()
		}
	}
}

func (p *Parser) readWriteErrors(r *Reply, list *element) {
	if list.typ != bsoncore.TypeArray {
		return
	}
	var e element
	w := walk(list.val)
	for w.next(&e) {
		if e.typ != bsoncore.TypeEmbeddedDocument {
			continue
		}
		if r.WriteErrors == 0 {
			p.readFailure(&r.WriteErr, e.val)
		}
		r.WriteErrors++
	}
	if w.cut {
		r.WriteErrors = -1
	}
}
