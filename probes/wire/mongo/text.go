package mongo

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// TextMode is how much of a command a query text says.
type TextMode uint8

const (
	// TextOff makes none.
	TextOff TextMode = iota
	// TextShape replaces every literal by a question mark. What stays are the command,
	// the collection, operators, and names of fields in filters, updates, sorts and
	// pipelines. Of documents that are values (inserted, replaced, compared with) not
	// even the names of fields stay.
	TextShape
	// TextFull keeps values.
	TextFull
)

const (
	maxDepth = 24   // levels of documents and arrays
	maxText  = 1024 // bytes
)

// place is where in a command a document or array stands: it says what its keys are.
type place uint8

const (
	inLiteral    place = iota // data: nothing of it is shown
	inCommand                 // the command itself
	inFilter                  // names of fields, and $and, $or, $nor
	inOperand                 // what a field is compared with: operators
	inUpdate                  // operators of an update
	inFields                  // names of fields whose values are literals
	inPipeline                // stages
	inExpr                    // of stages: names and operators all the way down
	inStatements              // of a batch
	inStatement
	inFull // TextFull: everything is shown
)

// plumbing are fields that drivers add to each command.
var plumbing = map[string]bool{
	"$db": true, "lsid": true, "$clusterTime": true, "txnNumber": true, "startTransaction": true, "autocommit": true,
	"readConcern": true, "writeConcern": true, "$readPreference": true, "apiVersion": true, "apiStrict": true,
	"apiDeprecationErrors": true, "maxTimeMS": true, "comment": true, "$comment": true, "recoveryToken": true,
}

// within says what stands at a key of a command.
var within = map[string]place{
	"filter": inFilter, "query": inFilter, "q": inFilter, "sort": inFields, "projection": inFields,
	"fields": inFields, "key": inFields, "hint": inFields, "update": inUpdate, "u": inUpdate,
	"updateMods": inUpdate, "pipeline": inPipeline, "updates": inStatements, "deletes": inStatements,
	"ops": inStatements, "indexes": inStatements, "arrayFilters": inStatements, "cursor": inFields,
}

// frame is an open document or array.
type frame struct {
	elements
	place place
	array bool
	some  bool // something was written
	close byte
}

// text writes commands down.
type text struct {
	buf   []byte
	stack [maxDepth]frame
	depth int
	full  bool
}

// command writes a command: its body, then the batches beside it.
func (t *text) command(mode TextMode, r *Request, body []byte, sections []section, cut bool) {
	t.buf, t.depth, t.full = t.buf[:0], 0, mode == TextFull
	t.push(body, inCommand, false)
	t.run(r)
	for _, s := range sections {
		if !isCommand(s.id) || len(t.buf) > maxText {
			continue
		}
		t.buf = append(append(append(t.buf, ", "...), s.id...), ": ["...)
		t.sequence(r, &s)
		t.buf = append(t.buf, ']')
	}
	if cut && len(sections) == 0 {
		t.buf = append(t.buf, ", ..."...)
	}
	t.buf = append(t.buf, '}')
}

// sequence writes what is in a batch beside the body: one statement stands for all.
func (t *text) sequence(r *Request, s *section) {
	where := within[string(s.id)]
	if where != inStatements && !t.full {
		t.buf = append(t.buf, '?')
		return
	}
	where = inStatement
	if t.full {
		where = inFull
	}
	docs := s.docs
	for i := 0; len(docs) > 0 && len(t.buf) <= maxText; i++ {
		n, _, ok := bsoncore.ReadLength(docs)
		if !ok || n < 5 {
			return
		}
		if i > 0 {
			t.buf = append(t.buf, ", "...)
			if !t.full {
				t.buf = append(t.buf, "..."...)
				return
			}
		}
		t.depth = 0
		t.push(docs[:min(int(n), len(docs))], where, false)
		t.run(r)
		t.buf = append(t.buf, '}')
		docs = docs[min(int(n), len(docs)):]
	}
}

// push opens a document or array.
func (t *text) push(doc []byte, where place, array bool) {
	f := &t.stack[t.depth]
	*f = frame{elements: walk(doc), place: where, array: array, close: '}'}
	if array {
		f.close = ']'
		t.buf = append(t.buf, '[')
	} else {
		t.buf = append(t.buf, '{')
	}
	t.depth++
}

// run writes the elements of the open document and all in it; its closing brace is the
// caller's.
func (t *text) run(r *Request) {
	bottom := t.depth
	var e element
	for {
		f := &t.stack[t.depth-1]
		if len(t.buf) > maxText {
			t.buf = append(t.buf, "..."...)
		} else if f.next(&e) {
			t.element(r, f, &e)
			continue
		} else if f.cut && t.depth > bottom {
			t.buf = append(t.buf, "..."...)
		}
		if t.depth == bottom {
			t.depth--
			return
		}
		t.buf = append(t.buf, f.close)
		t.depth--
	}
}

// element writes one element, or opens it.
func (t *text) element(r *Request, f *frame, e *element) {
	first := !f.some
	if f.place == inCommand && !first && plumbing[string(e.key)] {
		return
	}
	if f.array && !first && !t.full && (f.place == inStatements || !e.isDoc() || f.place == inLiteral) {
		// one of a batch, or of a list of literals, stands for all
		if f.place == inStatements {
			f.rest = nil
			f.cut = false
			t.buf = append(t.buf, ", ..."...)
		}
		return
	}
	if !first {
		t.buf = append(t.buf, ", "...)
	}
	f.some = true
	if !f.array {
		t.key(f.place, e.key)
	}
	switch {
	case f.place == inCommand && first:
		t.target(r, e)
		return
	case f.place == inCommand && e.is("collection") && r.Command == "getMore" && r.Collection != "":
		t.buf = strconv.AppendQuote(t.buf, r.Collection)
		return
	}
	t.value(t.child(f, e), e)
}

// target writes the value of a command's first key: its collection.
func (t *text) target(r *Request, e *element) {
	switch n, ok := e.number(); {
	case r.Collection != "" && r.Command != "getMore":
		t.buf = strconv.AppendQuote(t.buf, r.Collection)
	case ok && n == 1:
		t.buf = append(t.buf, '1')
	case t.full:
		t.literal(e)
	default:
		t.buf = append(t.buf, '?')
	}
}

// key writes a key. One that does not look like a field's name may be data.
func (t *text) key(where place, key []byte) {
	switch {
	case t.full && !plain(key):
		t.buf = strconv.AppendQuote(t.buf, string(key))
	case t.full || (where == inCommand && isCommand(key)) || (where != inCommand && fieldName(key)):
		t.buf = append(t.buf, key...)
	default:
		t.buf = append(t.buf, '?')
	}
	t.buf = append(t.buf, ": "...)
}

// value writes a literal, or opens a document or array whose inside is shown.
func (t *text) value(where place, e *element) {
	switch {
	case !t.full && (!e.isDoc() || where == inLiteral && e.typ != bsoncore.TypeArray):
		t.buf = append(t.buf, '?')
	case !t.full && where == inLiteral:
		t.buf = append(t.buf, "[?]"...)
	case !e.isDoc():
		t.literal(e)
	case t.depth == maxDepth:
		t.buf = append(t.buf, "..."...)
	default:
		t.push(e.val, where, e.typ == bsoncore.TypeArray)
	}
}

// child says what stands at an element of f.
func (t *text) child(f *frame, e *element) place {
	if t.full {
		return inFull
	}
	operator := len(e.key) > 0 && e.key[0] == '$'
	switch f.place {
	case inCommand, inStatement:
		return commandChild(e)
	case inStatements:
		return inStatement
	case inPipeline:
		return inExpr
	case inExpr:
		return exprChild(e, operator)
	case inFilter:
		switch {
		case f.array: // of $and and the like
			return inFilter
		case e.is("$and"), e.is("$or"), e.is("$nor"):
			return inFilter
		case e.is("$expr"):
			return inExpr
		}
		return operand(e)
	case inOperand:
		if e.is("$elemMatch") || e.is("$not") {
			return filterOrOperand(e)
		}
		return operand(e)
	case inUpdate:
		if f.array {
			return inExpr // an update that is a pipeline
		}
		if operator {
			return inFields
		}
	case inFields:
		return operand(e)
	}
	return inLiteral
}

// commandChild: the fields of a command and of a batch's statements. An update without
// operators is a document that replaces another.
func commandChild(e *element) place {
	where := within[string(e.key)]
	if where == inUpdate && e.typ == bsoncore.TypeEmbeddedDocument && !startsWithOperator(e) {
		return inLiteral
	}
	return where
}

func exprChild(e *element, operator bool) place {
	switch {
	case !operator:
		return inExpr
	case e.is("$match"), e.is("query"):
		return inFilter
	case e.is("$literal"), e.is("$documents"), e.is("$in"):
		return operand(e)
	}
	return inExpr
}

// operand: what a field is compared with shows its operators, or is a literal.
func operand(e *element) place {
	if e.typ == bsoncore.TypeEmbeddedDocument && startsWithOperator(e) {
		return inOperand
	}
	return inLiteral
}

// filterOrOperand: $elemMatch holds a filter, or operators for elements that are no
// documents.
func filterOrOperand(e *element) place {
	if e.typ == bsoncore.TypeEmbeddedDocument && !startsWithOperator(e) {
		return inFilter
	}
	return operand(e)
}

func startsWithOperator(e *element) bool {
	var first element
	w := walk(e.val)
	return w.next(&first) && len(first.key) > 0 && first.key[0] == '$'
}

// fieldName says whether a key looks like the name of a field: parts of letters, digits
// and _ - $ [ ], joined by dots; not long; and without what identifiers of things have:
// many digits.
func fieldName(key []byte) bool {
	if len(key) == 0 || len(key) > 64 {
		return false
	}
	digits := 0
	for _, c := range key {
		switch {
		case digit(c):
			digits++
		case letter(c), c == '$', c == '.', c == '-', c == '[', c == ']':
		default:
			return false
		}
	}
	return digits <= 3
}

// plain keys need no quotes.
func plain(key []byte) bool {
	for _, c := range key {
		if !letter(c) && !digit(c) && c != '$' && c != '.' {
			return false
		}
	}
	return len(key) > 0
}

// literal writes a value, TextFull only.
func (t *text) literal(e *element) {
	if e.cut {
		t.buf = append(t.buf, "..."...)
		return
	}
	le := binary.LittleEndian
	v := bsoncore.Value{Type: e.typ, Data: e.val}
	switch e.typ {
	case bsoncore.TypeString:
		t.buf = strconv.AppendQuote(t.buf, string(e.str()[:min(len(e.str()), maxText)]))
	case bsoncore.TypeInt32, bsoncore.TypeInt64:
		n, _ := e.number()
		t.buf = strconv.AppendInt(t.buf, n, 10)
	case bsoncore.TypeDouble:
		f, _ := v.DoubleOK()
		t.buf = strconv.AppendFloat(t.buf, f, 'g', -1, 64)
	case bsoncore.TypeBoolean:
		t.buf = strconv.AppendBool(t.buf, e.val[0] != 0)
	case bsoncore.TypeNull:
		t.buf = append(t.buf, "null"...)
	case bsoncore.TypeObjectID:
		t.buf = append(hex.AppendEncode(append(t.buf, `ObjectId("`...), e.val), `")`...)
	case bsoncore.TypeDateTime:
		when := time.UnixMilli(int64(le.Uint64(e.val))).UTC()
		t.buf = append(when.AppendFormat(append(t.buf, `ISODate("`...), time.RFC3339Nano), `")`...)
	default:
		t.buf = append(append(append(t.buf, '<'), e.typ.String()...), '>')
	}
}
