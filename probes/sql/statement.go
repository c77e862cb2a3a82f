package sql

import (
	"strings"
)

// dialect is what of a database's language decides where a literal ends. Of none it is
// not known: whatever two databases read differently is in doubt.
type dialect uint8

const (
	dialectUnknown  dialect = iota
	dialectPostgres         // "x" is a name, # an operator, comments nest
	dialectMySQL            // "x" is a string, \ escapes in strings, # begins a comment
)

// statement is what is said of an SQL text without its values.
type statement struct {
	text      string // literals replaced by ?, comments and needless space left out
	operation string // the first word of a known command
	table     string // if it is about exactly one
}

// tokKind is the kind of a token that is kept.
type tokKind uint8

const (
	tokWord    tokKind = iota // keyword or name
	tokQuoted                 // "name", `name`, [name]
	tokLiteral                // replaced
	tokOther
)

type token struct {
	kind  tokKind
	text  string
	space bool // there was space or a comment before it
}

// lexer cuts a text into tokens. When in doubt about where a literal ends it takes the
// rest of the text for a part of it.
type lexer struct {
	s    string
	i    int
	d    dialect
	toks []token
	end  bool
}

// analyse takes the values out of an SQL text, which may have been cut anywhere.
func analyse(sql string, d dialect) statement {
	l := lexer{s: sql, d: d, toks: make([]token, 0, 32)}
	for l.next() {
	}
	st := statement{text: l.join()}
	st.operation, st.table = l.about()
	return st
}

// next appends the next token; false at the end.
func (l *lexer) next() bool {
	space := l.skip()
	if l.end || l.i >= len(l.s) {
		return false
	}
	start, c := l.i, l.s[l.i]
	kind, text := tokOther, ""
	switch {
	case c == '\'':
		kind, text = tokLiteral, "?"
		l.quoted('\'', l.d == dialectMySQL)
	case c == '"' && (l.d == dialectMySQL || l.d == dialectUnknown && !l.namesTable()):
		kind, text = tokLiteral, "?"
		l.quoted('"', l.d == dialectMySQL)
	case c == '"' || c == '`':
		kind = tokQuoted
		l.quoted(c, false)
	case c == '$':
		kind, text = l.dollar()
	case digit(c), c == '.' && l.i+1 < len(l.s) && digit(l.s[l.i+1]):
		kind, text = tokLiteral, "?"
		l.number()
	case letter(c):
		for l.i < len(l.s) && (letter(l.s[l.i]) || digit(l.s[l.i]) || l.s[l.i] == '$') {
			l.i++
		}
		kind = tokWord
		if l.prefixed(l.s[start:l.i]) {
			kind, text = tokLiteral, "?"
		}
	default:
		l.i++
	}
	if text == "" {
		text = l.s[start:l.i]
	}
	if kind == tokQuoted && l.end { // a name that does not end may be no name
		kind, text = tokLiteral, "?"
	}
	l.toks = append(l.toks, token{kind, text, space})
	return true
}

// skip passes over space and comments.
func (l *lexer) skip() (space bool) {
	for l.i < len(l.s) {
		rest := l.s[l.i:]
		switch {
		case rest[0] <= ' ':
			l.i++
		case l.doubtful(rest):
			l.i, l.end = len(l.s), true
		case strings.HasPrefix(rest, "--") && (l.d != dialectMySQL || dashComment(rest)), rest[0] == '#' && l.d == dialectMySQL:
			n := strings.IndexByte(rest, '\n')
			if n < 0 {
				n = len(rest)
			}
			l.i += n
		case strings.HasPrefix(rest, "/*"):
			l.comment()
		default:
			return space
		}
		space = true
	}
	return space
}

// doubtful says that databases differ about where a literal begins or ends in rest: # is
// a comment or a part of a name, -- one or two operators, [ a name or an array, ”' the
// beginning of a long string or of one with a quote in it, /*! no comment.
func (l *lexer) doubtful(rest string) bool {
	switch {
	case l.d == dialectPostgres:
		return false
	case strings.HasPrefix(rest, "/*!"), strings.HasPrefix(rest, "/*M!"):
		return true
	case l.d == dialectMySQL:
		return false
	case rest[0] == '[':
		inside, _, _ := strings.Cut(rest, "]")
		return strings.ContainsAny(inside, "'\"`")
	}
	return rest[0] == '#' || strings.HasPrefix(rest, "'''") || strings.HasPrefix(rest, "--") && !dashComment(rest)
}

// dashComment says that -- begins a comment in MySQL too.
func dashComment(rest string) bool { return len(rest) == 2 || rest[2] <= ' ' || rest[2] == '-' }

// comment passes over a comment. Only Postgres is sure to have one within another.
func (l *lexer) comment() {
	depth := 0
	for l.i < len(l.s) {
		switch rest := l.s[l.i:]; {
		case strings.HasPrefix(rest, "/*"):
			if depth++; depth > 1 && l.d != dialectPostgres {
				l.i, l.end = len(l.s), true
				return
			}
			l.i += 2
		case strings.HasPrefix(rest, "*/"):
			l.i += 2
			if depth--; depth == 0 {
				return
			}
		default:
			l.i++
		}
	}
	l.end = true
}

// quoted passes over what is between quotes, of which a doubled one is none. A quote
// behind a backslash ends a string in one database and not in another.
func (l *lexer) quoted(q byte, backslash bool) {
	for l.i++; l.i < len(l.s); l.i++ {
		switch c := l.s[l.i]; {
		case c == '\\' && backslash:
			l.i++
		case c == '\\' && q != '`' && l.i+1 < len(l.s) && l.s[l.i+1] == q && !(q == '"' && l.d == dialectPostgres):
			l.i, l.end = len(l.s), true
			return
		case c != q:
		case l.i+1 < len(l.s) && l.s[l.i+1] == q:
			l.i++
		default:
			l.i++
			return
		}
	}
	l.i, l.end = len(l.s), true
}

// dollar passes over $1, or $tag$ with all up to the next $tag$.
func (l *lexer) dollar() (tokKind, string) {
	start := l.i
	l.i++
	for l.i < len(l.s) && (letter(l.s[l.i]) || digit(l.s[l.i])) {
		l.i++
	}
	if l.i >= len(l.s) || l.s[l.i] != '$' || l.i > start+1 && digit(l.s[start+1]) {
		return tokOther, ""
	}
	l.i++
	tag := l.s[start:l.i]
	if n := strings.Index(l.s[l.i:], tag); n >= 0 {
		l.i += n + len(tag)
	} else {
		l.i, l.end = len(l.s), true
	}
	return tokLiteral, "?"
}

// number passes over a number of any base; what is left of a malformed one goes along.
func (l *lexer) number() {
	for ; l.i < len(l.s); l.i++ {
		c := l.s[l.i]
		sign := (c == '+' || c == '-') && (l.s[l.i-1] == 'e' || l.s[l.i-1] == 'E')
		if !digit(c) && !letter(c) && c != '.' && !sign {
			return
		}
	}
}

// prefixed passes over the string that a word such as E, N, x or U& belongs to.
func (l *lexer) prefixed(word string) bool {
	if len(word) > 8 || l.i >= len(l.s) {
		return false
	}
	at := l.i
	if l.s[at] == '&' && strings.EqualFold(word, "u") && at+1 < len(l.s) && l.s[at+1] == '\'' {
		at++
	}
	if l.s[at] != '\'' {
		return false
	}
	l.i = at
	if strings.EqualFold(word, "q") || strings.EqualFold(word, "nq") { // of Oracle, with delimiters of its own
		l.i, l.end = len(l.s), true
		return true
	}
	l.quoted('\'', l.d == dialectMySQL || strings.EqualFold(word, "e"))
	return true
}

// namesTable says that a name of a table is due.
func (l *lexer) namesTable() bool {
	if len(l.toks) == 0 {
		return false
	}
	switch last := l.toks[len(l.toks)-1]; strings.ToUpper(last.text) {
	case "FROM":
		return last.kind == tokWord && l.tableFrom(len(l.toks)-1)
	case "JOIN", "INTO", "UPDATE", "TABLE":
		return last.kind == tokWord
	case ".":
		return len(l.toks) > 1 && l.toks[len(l.toks)-2].kind == tokQuoted
	}
	return false
}

// tableFrom says that the FROM at i belongs to a command, not to a function's arguments
// or to IS DISTINCT FROM.
func (l *lexer) tableFrom(i int) bool {
	if l.is(i-1, "DISTINCT") {
		return false
	}
	for depth, j := 0, i-1; j >= 0; j-- {
		switch t := l.toks[j]; {
		case t.kind == tokOther && t.text == ")":
			depth++
		case t.kind == tokOther && t.text == "(":
			if depth--; depth < 0 {
				return false
			}
		case depth == 0 && (l.is(j, "SELECT") || l.is(j, "DELETE")):
			return true
		}
	}
	return false
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// letter: also _ and whatever is beyond ASCII.
func letter(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func (l *lexer) join() string {
	var b strings.Builder
	b.Grow(len(l.s))
	for i, t := range l.toks {
		if i > 0 && t.space {
			b.WriteByte(' ')
		}
		b.WriteString(t.text)
	}
	return strings.ToValidUTF8(b.String(), "")
}

// commands are the words by which a statement is named.
var commands = map[string]bool{
	"SELECT": true, "INSERT": true, "UPDATE": true, "DELETE": true, "MERGE": true, "REPLACE": true, "UPSERT": true,
	"CREATE": true, "ALTER": true, "DROP": true, "TRUNCATE": true, "BEGIN": true, "START": true, "COMMIT": true,
	"ROLLBACK": true, "SAVEPOINT": true, "RELEASE": true, "END": true, "ABORT": true, "SET": true, "RESET": true,
	"SHOW": true, "EXPLAIN": true, "ANALYZE": true, "VACUUM": true, "CALL": true, "EXEC": true, "EXECUTE": true,
	"PREPARE": true, "DEALLOCATE": true, "COPY": true, "LOCK": true, "GRANT": true, "REVOKE": true, "USE": true,
	"DECLARE": true, "FETCH": true, "CLOSE": true, "LISTEN": true, "NOTIFY": true, "UNLISTEN": true, "VALUES": true,
	"PRAGMA": true, "ATTACH": true, "DETACH": true, "REINDEX": true, "REFRESH": true, "DESCRIBE": true, "DO": true,
	"COMMENT": true, "DISCARD": true, "CHECKPOINT": true, "CLUSTER": true, "LOAD": true, "OPTIMIZE": true, "KILL": true,
}

// about returns the statement's command and, if there is exactly one, its table.
func (l *lexer) about() (operation, table string) {
	depth, at := 0, -1
	for i, t := range l.toks {
		switch {
		case t.text == "(" && t.kind == tokOther:
			depth++
		case t.text == ")" && t.kind == tokOther:
			depth--
		case t.kind != tokWord:
		case at < 0 && strings.EqualFold(t.text, "WITH"):
			at = i
		case at < 0, l.is(at, "WITH") && depth == 0 && mainCommand(strings.ToUpper(t.text)):
			if w := strings.ToUpper(t.text); commands[w] {
				return w, l.table(i, w)
			}
			if at < 0 {
				return "", ""
			}
		}
	}
	return "", ""
}

// mainCommand says that a command may follow WITH.
func mainCommand(word string) bool {
	switch word {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES":
		return true
	}
	return false
}

func (l *lexer) is(i int, word string) bool {
	return i >= 0 && i < len(l.toks) && l.toks[i].kind == tokWord && strings.EqualFold(l.toks[i].text, word)
}

// tableWord is the word that a command's table comes behind.
var tableWord = map[string]string{
	"SELECT": "FROM", "DELETE": "FROM", "INSERT": "INTO", "REPLACE": "INTO", "MERGE": "INTO", "UPDATE": "UPDATE",
	"CREATE": "TABLE", "DROP": "TABLE", "ALTER": "TABLE", "TRUNCATE": "TRUNCATE", "COPY": "COPY",
}

// table returns the name of the only table of the command at i.
func (l *lexer) table(i int, command string) string {
	word := tableWord[command]
	if word == "" {
		return ""
	}
	first, n := -1, 0
	for j := i; j < len(l.toks); j++ {
		from := l.is(j, "FROM")
		if from && (command == "SELECT" || command == "DELETE") && !l.tableFrom(j) {
			continue
		}
		if l.is(j, word) && first < 0 {
			first = j + 1
		}
		if from || l.is(j, "JOIN") || l.is(j, "USING") {
			n++
		}
		if l.is(j, "SELECT") && j > i {
			return "" // one within the other
		}
	}
	if first < 0 || n > 1 || n == 1 && word != "FROM" {
		return ""
	}
	for l.is(first, "IF") || l.is(first, "NOT") || l.is(first, "EXISTS") || l.is(first, "ONLY") || l.is(first, "TABLE") {
		first++
	}
	name, next := l.name(first)
	if next < len(l.toks) && l.toks[next].text == "," && word == "FROM" {
		return ""
	}
	if l.end && next >= len(l.toks) {
		return ""
	}
	return name
}

// name returns the possibly qualified name at i, without quotes, and what is behind it.
func (l *lexer) name(i int) (string, int) {
	var b strings.Builder
	for ; i < len(l.toks); i++ {
		switch t := l.toks[i]; t.kind {
		case tokWord:
			b.WriteString(t.text)
		case tokQuoted:
			b.WriteString(t.text[1 : len(t.text)-1])
		default:
			return "", i
		}
		if i+1 >= len(l.toks) || l.toks[i+1].text != "." {
			return strings.ToValidUTF8(b.String(), ""), i + 1
		}
		b.WriteByte('.')
		i++
	}
	return "", i
}
