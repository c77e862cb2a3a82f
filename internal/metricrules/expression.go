package metricrules

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/vm"

	"github.com/tracer-agent/tracer-agent/internal/jsonfields"
)

// view is an operation as expressions see it.
type view struct {
	Kind       string         `expr:"kind"` // server, client, producer, consumer, internal
	Name       string         `expr:"name"`
	Probe      string         `expr:"probe"`
	Service    string         `expr:"service"`
	Duration   float64        `expr:"duration"` // seconds
	Failed     bool           `expr:"failed"`
	Attributes map[string]any `expr:"attributes"` // those that some rule names
	// Fields of JSON bodies, those that some rule names.
	RequestBody  map[string]any `expr:"request_body"`
	ResponseBody map[string]any `expr:"response_body"`
}

// The maps of a view, by name.
const (
	inAttributes = "attributes"
	inRequest    = "request_body"
	inResponse   = "response_body"
)

// functions are the builtins that are left: none that loops, none that reads a clock.
var functions = []string{
	"len", "lower", "upper", "trim", "trimPrefix", "trimSuffix", "split", "int", "float", "string", "abs", "ceil",
	"floor", "round", "min", "max", "indexOf", "hasPrefix", "hasSuffix",
}

const maxNodes = 200

type result uint8

const (
	asAny result = iota
	asBool
	asNumber
)

// program compiles one expression and notes what it uses.
func (s *Set) program(text string, want result) (*vm.Program, error) {
	switch {
	case len(text) > maxText:
		return nil, fmt.Errorf("longer than %d bytes", maxText)
	case strings.TrimSpace(text) == "":
		return nil, errors.New("empty")
	}
	opts := []expr.Option{expr.Env(&view{}), expr.MaxNodes(maxNodes), expr.DisableAllBuiltins(), expr.Patch(&s.uses)}
	for _, name := range functions {
		opts = append(opts, expr.EnableBuiltin(name))
	}
	switch want {
	case asBool:
		opts = append(opts, expr.AsBool())
	case asNumber:
		opts = append(opts, expr.AsFloat64())
	}
	p, err := expr.Compile(text, opts...)
	if err != nil {
		return nil, oneLine(err)
	}
	if s.uses.bad != "" {
		err := fmt.Errorf("%s", s.uses.bad)
		s.uses.bad = ""
		return nil, err
	}
	return p, nil
}

// oneLine takes the message and its place; the compiler adds a drawing.
func oneLine(err error) error {
	first, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(first)
}

// uses is what all expressions together look at. It implements ast.Visitor.
type uses struct {
	keys map[string]map[string]bool // by the map they are keys of
	name bool
	bad  string
	// body are the fields of bodies, and the response headers, that the rule in work uses.
	body []string
}

func newUses() uses {
	return uses{keys: map[string]map[string]bool{inAttributes: {}, inRequest: {}, inResponse: {}}}
}

const (
	requestHeader  = "http.request.header."
	responseHeader = "http.response.header."
	// MaxResponseHeaders is how many of them rules may look at.
	MaxResponseHeaders = 4
)

// answer notes a response header that a rule looks at.
func (u *uses) answer(name string) {
	u.body = append(u.body, name)
	names := u.headers(responseHeader)
	switch {
	case name == "" || len(name) > 63 || name != strings.ToLower(name):
		u.bad = fmt.Sprintf("%s%s: want the name of a header, in lower case, of 1 to 63 bytes", responseHeader, name)
	case len(names) > MaxResponseHeaders:
		u.bad = fmt.Sprintf("rules use more than %d response headers", MaxResponseHeaders)
	}
}

// headers lists the names behind a prefix.
func (u *uses) headers(prefix string) (names []string) {
	for key := range u.keys[inAttributes] {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// use notes a key of one of the view's maps.
func (u *uses) use(of, key string) {
	if name, ok := strings.CutPrefix(key, responseHeader); ok && of == inAttributes {
		defer u.answer(name)
	}
	if of != inAttributes {
		if err := jsonfields.Check(key); err != nil {
			u.bad = err.Error()
			return
		}
		if !u.keys[of][key] && len(u.keys[of]) >= jsonfields.MaxPaths {
			u.bad = fmt.Sprintf("%s: rules use more than %d fields", of, jsonfields.MaxPaths)
			return
		}
		u.body = append(u.body, key)
	}
	u.keys[of][key] = true
}

// Visit implements ast.Visitor; children come before their parents.
func (u *uses) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if n.Value == "name" {
			u.name = true
		}
	case *ast.MemberNode:
		id, ok := n.Node.(*ast.IdentifierNode)
		if !ok || u.keys[id.Value] == nil {
			return
		}
		key, ok := n.Property.(*ast.StringNode)
		if !ok {
			u.bad = fmt.Sprintf(`want %s["a.name"]: what is used must be known beforehand`, id.Value)
			return
		}
		u.use(id.Value, key.Value)
	case *ast.BinaryNode:
		switch n.Operator {
		case "in":
			// "http.route" in attributes
			id, isMap := n.Right.(*ast.IdentifierNode)
			key, isText := n.Left.(*ast.StringNode)
			if isMap && u.keys[id.Value] != nil && isText {
				u.use(id.Value, key.Value)
			}
		case "..", "**", "^":
			u.bad = fmt.Sprintf("the operator %s is not allowed", n.Operator)
		}
	}
}

// Attributes lists the attributes that rules look at.
func (s *Set) Attributes() []string {
	return slices.Sorted(maps.Keys(s.uses.keys[inAttributes]))
}

// BodyFields lists the fields of JSON bodies that rules look at: of requests and of responses.
func (s *Set) BodyFields() (request, response []string) {
	if s.Len() == 0 {
		return nil, nil
	}
	return slices.Sorted(maps.Keys(s.uses.keys[inRequest])), slices.Sorted(maps.Keys(s.uses.keys[inResponse]))
}

// ResponseHeaders lists the captured response headers that rules look at.
func (s *Set) ResponseHeaders() []string { return s.uses.headers(responseHeader) }

// NeedsMore says whether rules look at more than the attributes of counted.
func (s *Set) NeedsMore(counted []string) bool {
	if s.Len() == 0 {
		return false
	}
	if s.uses.name {
		return true
	}
	for a := range s.uses.keys[inAttributes] {
		if !slices.Contains(counted, a) {
			return true
		}
	}
	return false
}
