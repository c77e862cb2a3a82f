package mongo

import (
	"bytes"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// element is one of a document's. val is the value's bytes; cut: only their beginning.
type element struct {
	typ bsoncore.Type
	key []byte
	val []byte
	cut bool
}

// elements walks a document or array of which only the beginning may be there.
type elements struct {
	rest []byte
	cut  bool // the end was reached without the document's terminator
}

// walk begins at a document's length.
func walk(doc []byte) elements {
	n, rest, ok := bsoncore.ReadLength(doc)
	if !ok || n < 5 {
		return elements{cut: true}
	}
	if int(n) <= len(doc) {
		rest = rest[:n-4]
	}
	return elements{rest: rest}
}

// next returns the next element; false at the end.
func (w *elements) next(e *element) bool {
	if len(w.rest) == 0 {
		w.cut = true
		return false
	}
	if w.rest[0] == 0 {
		return false
	}
	end := bytes.IndexByte(w.rest[1:], 0)
	if end < 0 {
		w.rest, w.cut = nil, true
		return false
	}
	e.typ, e.key = bsoncore.Type(w.rest[0]), w.rest[1:1+end]
	value := w.rest[end+2:]
	v, rest, ok := bsoncore.ReadValue(value, e.typ)
	if !ok { // the rest is this value's beginning, or no BSON
		e.val, e.cut, w.rest, w.cut = value, true, nil, true
		return known(e.typ)
	}
	e.val, e.cut, w.rest = v.Data, false, rest
	return true
}

// known: types of the specification.
func known(t bsoncore.Type) bool {
	return t >= bsoncore.TypeDouble && t <= bsoncore.TypeDecimal128 || t == bsoncore.TypeMinKey || t == bsoncore.TypeMaxKey
}

// isDoc: a document or an array.
func (e *element) isDoc() bool {
	return e.typ == bsoncore.TypeEmbeddedDocument || e.typ == bsoncore.TypeArray
}

func (e *element) is(key string) bool { return string(e.key) == key }

// str is the value of a string, nil if it is none or not all there.
func (e *element) str() []byte {
	if e.typ != bsoncore.TypeString || e.cut || len(e.val) < 5 {
		return nil
	}
	return e.val[4 : len(e.val)-1]
}

// number is the value of any kind of number.
func (e *element) number() (int64, bool) {
	if e.cut {
		return 0, false
	}
	if e.typ == bsoncore.TypeBoolean { // old servers say ok: true
		return int64(e.val[0]), true
	}
	return bsoncore.Value{Type: e.typ, Data: e.val}.AsInt64OK()
}

// countDocs counts documents that follow each other; -1 when not all are there.
func countDocs(b []byte, cut bool) int {
	n := 0
	for len(b) > 0 {
		l, _, ok := bsoncore.ReadLength(b)
		if !ok || l < 5 || int(l) > len(b) {
			return -1
		}
		b = b[l:]
		n++
	}
	if cut {
		return -1
	}
	return n
}

// countElements counts those of an array; -1 when not all are there.
func countElements(a []byte) int {
	var e element
	w, n := walk(a), 0
	for w.next(&e) {
		n++
	}
	if w.cut {
		return -1
	}
	return n
}
