package redact

import (
	"strings"
)

// Mask replaces a secret, as the semantic conventions ask for.
const Mask = "REDACTED"

// maxNesting bounds how often a value is decoded to look for a URL inside it.
const maxNesting = 3

// Rules say what is secret. The zero value holds the built-in names; it is
// never changed after New and can be shared.
type Rules struct {
	extra map[string]struct{} // names in compact form
}

// New returns the built-in rules and further names of query parameters. Names
// are compared whole, without regard to case and punctuation.
func New(names []string) *Rules {
	r := &Rules{extra: map[string]struct{}{}}
	for _, n := range names {
		if letters, _ := compact(nil, nil, n); len(letters) > 0 {
			r.extra[string(letters)] = struct{}{}
		}
	}
	return r
}

var builtin = &Rules{}

// Query redacts a raw query (without the question mark) by the built-in rules.
func Query(raw string) string { return builtin.Query(raw) }

// Field says whether a value in a document must not leave the host because of its name.
// Names that are as often harmless there, such as code and key, are not secret.
func (r *Rules) Field(name string) bool {
	letters, _ := compact(nil, nil, name)
	_, asked := r.extra[string(letters)]
	return asked || len(letters) > 0 && !in(&whole, letters) && r.secretName(name)
}

// Value redacts a value that is secret by its look.
func (r *Rules) Value(v string) string {
	if secretValue(r, v, 0) {
		return Mask
	}
	return v
}

// URL redacts a URL, absolute or not, by the built-in rules.
func URL(raw string) string { return builtin.URL(raw) }

// Query redacts a raw query (without the question mark).
func (r *Rules) Query(raw string) string { return r.query(raw, 0) }

func (r *Rules) query(raw string, depth int) string {
	var out strings.Builder
	copied := 0
	for i := 0; i < len(raw); {
		end := i
		for end < len(raw) && raw[end] != '&' && raw[end] != ';' {
			end++
		}
		if from, to := r.secretIn(raw[i:end], depth); from < to {
			out.WriteString(raw[copied : i+from])
			out.WriteString(Mask)
			copied = i + to
		}
		i = end + 1
	}
	if copied == 0 {
		return raw
	}
	out.WriteString(raw[copied:])
	return out.String()
}

// secretIn finds the part of one name=value pair that must be replaced.
func (r *Rules) secretIn(pair string, depth int) (from, to int) {
	eq := strings.IndexByte(pair, '=')
	if eq < 0 {
		// A bare word is a name without a value; a token may stand there, too.
		if secretValue(r, pair, depth) {
			return 0, len(pair)
		}
		return 0, 0
	}
	value := pair[eq+1:]
	if value == "" {
		return 0, 0
	}
	if secretValue(r, pair[:eq], depth) {
		// Secrets on both sides cannot be told apart: nothing of the pair stays.
		return 0, len(pair)
	}
	if r.secretName(pair[:eq]) || secretValue(r, value, depth) {
		return eq + 1, len(pair)
	}
	return 0, 0
}

// URL redacts user information, the query and the fragment of a URL.
func (r *Rules) URL(raw string) string { return r.url(raw, 0) }

func (r *Rules) url(raw string, depth int) string {
	rest, fragment, hasFragment := strings.Cut(raw, "#")
	base, query, hasQuery := strings.Cut(rest, "?")

	newBase := userinfo(base)
	newQuery := r.query(query, depth)
	newFragment := fragment
	if hasFragment {
		// Single-page applications put queries there, tokens included, often
		// behind a path of their own.
		path, inner, ok := strings.Cut(fragment, "?")
		if ok {
			newFragment = path + "?" + r.query(inner, depth)
		} else {
			newFragment = r.query(fragment, depth)
		}
	}
	if newBase == base && newQuery == query && newFragment == fragment {
		return raw
	}
	var out strings.Builder
	out.WriteString(newBase)
	if hasQuery {
		out.WriteByte('?')
		out.WriteString(newQuery)
	}
	if hasFragment {
		out.WriteByte('#')
		out.WriteString(newFragment)
	}
	return out.String()
}

// userinfo masks what stands before the host. The authority ends at the first
// slash or backslash; up to its last @ everything is credentials.
func userinfo(base string) string {
	start := strings.Index(base, "//")
	if start < 0 {
		return base
	}
	start += 2
	end := len(base)
	if i := strings.IndexAny(base[start:], `/\`); i >= 0 {
		end = start + i
	}
	at := strings.LastIndexByte(base[start:end], '@')
	if at < 0 {
		return base
	}
	mask := Mask
	if strings.IndexByte(base[start:start+at], ':') >= 0 {
		mask = Mask + ":" + Mask
	}
	return base[:start] + mask + base[start+at:]
}

// secretValue says that a value is secret by its look: a JSON web token, or
// something that holds a URL or a query with a secret of its own.
func secretValue(r *Rules, v string, depth int) bool {
	if jwt(v) {
		return true
	}
	if depth >= maxNesting || !strings.ContainsAny(v, "%=@") {
		return false
	}
	plain := decode(v)
	if jwt(plain) {
		return true
	}
	if !strings.ContainsAny(plain, "=@") {
		// Encoded more than once.
		return plain != v && secretValue(r, plain, depth+1)
	}
	return r.url(plain, depth+1) != plain || r.query(plain, depth+1) != plain
}

// jwt finds header.payload.signature anywhere in v: the header of a JSON web
// token is a JSON object, and {" in base64 is eyJ.
func jwt(v string) bool {
	for {
		i := strings.Index(v, "eyJ")
		if i < 0 {
			return false
		}
		v = v[i:]
		n := base64Run(v)
		if n >= 10 && n < len(v) && v[n] == '.' && base64Run(v[n+1:]) >= 2 {
			return true
		}
		v = v[3:]
	}
}

// base64Run is the length of the URL-safe base64 text at the start of s.
func base64Run(s string) int {
	for i := range len(s) {
		c := s[i]
		if !alnum(c) && c != '-' && c != '_' {
			return i
		}
	}
	return len(s)
}

func alnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// decode undoes percent-encoding; malformed escapes stay as they are.
func decode(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if c, ok := escape(s, i); ok {
			b = append(b, c)
			i += 2
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

// escape reads a percent-escape at s[i:].
func escape(s string, i int) (byte, bool) {
	if s[i] != '%' || i+2 >= len(s) {
		return 0, false
	}
	hi, lo := hexDigit(s[i+1]), hexDigit(s[i+2])
	if hi < 0 || lo < 0 {
		return 0, false
	}
	return byte(hi<<4 | lo), true
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
