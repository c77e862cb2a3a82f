// Package jsonfields picks single values out of JSON of which only the beginning may be
// there. What it reads was written by strangers: it does not recurse, keeps nothing but the
// values that were asked for, and its work is bounded by the length of its input.
package jsonfields

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// Bounds of what can be asked for.
const (
	MaxPaths = 32
	maxPath  = 128 // bytes of a path
	maxDepth = 8   // its elements
)

// Bounds of what is read.
const (
	maxTokens = 1 << 14
	maxOpen   = 256 // objects and arrays within each other
)

// What became of an input.
var (
	// ErrCut: the input ends before the JSON does. The values up to there are known.
	ErrCut = errors.New("ends early")
	// ErrSyntax: it is not JSON.
	ErrSyntax = errors.New("not JSON")
	// ErrLarge: it is nested too deeply or has too many values. Those up to there are known.
	ErrLarge = errors.New("too large")
)

// Paths are the fields that are wanted. It is never changed after New.
type Paths struct{ root *node }

// node is an element of paths. One that a path ends at has its full name.
type node struct {
	children map[string]*node
	path     string
}

// New returns the paths, each the names of nested fields with dots between them; an
// element of an array is named by its number, from 0: "orders.0.quantity".
func New(paths []string) (*Paths, error) {
	if len(paths) > MaxPaths {
		return nil, fmt.Errorf("%d fields: at most %d", len(paths), MaxPaths)
	}
	p := &Paths{root: &node{}}
	for _, path := range paths {
		if err := Check(path); err != nil {
			return nil, err
		}
		n := p.root
		for name := range strings.SplitSeq(path, ".") {
			next := n.children[name]
			if next == nil {
				next = &node{}
				if n.children == nil {
					n.children = map[string]*node{}
				}
				n.children[name] = next
			}
			n = next
		}
		n.path = path
	}
	return p, nil
}

// Check says what is wrong with a path.
func Check(path string) error {
	names := strings.Split(path, ".")
	switch {
	case len(path) > maxPath:
		return fmt.Errorf("field %.20q...: longer than %d bytes", path, maxPath)
	case len(names) > maxDepth:
		return fmt.Errorf("field %q: nested deeper than %d", path, maxDepth)
	}
	for _, name := range names {
		if name == "" {
			return fmt.Errorf("field %q: want names with a dot between them", path)
		}
	}
	return nil
}

// level is an object or an array that has begun. Its node is nil where nothing is wanted.
type level struct {
	node  *node
	array bool
	index int    // array: of the next element
	key   string // object: of the next value, when hasKey
	isKey bool   // object: a key comes next
}

// Values returns the wanted values in data by their paths: texts, numbers (int where it is
// one, else float64) and bools. What is null, an object, an array or too big a number is not
// there. Of a name that is there twice the last value holds. The error is ErrCut, ErrSyntax or ErrLarge.
func (p *Paths) Values(data []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	out := map[string]any{}
	var open []level
	for range maxTokens {
		token, err := dec.Token()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return out, ErrCut
		case err != nil:
			return out, ErrSyntax
		}
		if _, number := token.(json.Number); number && dec.InputOffset() == int64(len(data)) && len(open) > 0 {
			return out, ErrCut // there may be more digits
		}
		if delim, ok := token.(json.Delim); ok && (delim == '}' || delim == ']') {
			open = open[:len(open)-1]
		} else if n, isValue := next(open, token, p.root); isValue {
			if ok {
				if len(open) == maxOpen {
					return out, ErrLarge
				}
				open = append(open, level{node: n, array: delim == '[', isKey: delim == '{'})
			} else if n != nil && n.path != "" {
				put(out, n.path, token)
			}
		}
		if len(open) == 0 {
			return out, nil
		}
	}
	return out, ErrLarge
}

// next says where in the paths a token is that begins a value; a key is none.
func next(open []level, token json.Token, root *node) (n *node, isValue bool) {
	if len(open) == 0 {
		return root, true
	}
	l := &open[len(open)-1]
	if l.isKey {
		l.key, _ = token.(string)
		l.isKey = false
		return nil, false
	}
	name := l.key
	if l.array {
		name = strconv.Itoa(l.index)
		l.index++
	} else {
		l.isKey = true
	}
	if l.node == nil {
		return nil, true
	}
	return l.node.children[name], true
}

// put keeps a value; nothing is left of an earlier one of the same name.
func put(out map[string]any, path string, token json.Token) {
	delete(out, path)
	switch v := token.(type) {
	case string:
		out[path] = strings.ToValidUTF8(v, "")
	case bool:
		out[path] = v
	case json.Number:
		if i, err := strconv.Atoi(string(v)); err == nil {
			out[path] = i
		} else if f, err := strconv.ParseFloat(string(v), 64); err == nil && !math.IsInf(f, 0) {
			out[path] = f
		}
	}
}
