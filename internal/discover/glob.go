package discover

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// ErrGlob is the error of a pattern that is none.
var ErrGlob = errors.New("not a valid pattern")

// maxGlob bounds a pattern's length in bytes.
const maxGlob = 4096

// globSpecial are the characters that globExpr looks at.
const globSpecial = `*?[{},\`

// glob matches paths. A pattern without a slash is matched against the last
// element only. * and ? do not match a slash, ** matches anything, [a-z] and
// [!a-z] match one of the characters, {a,b} one of the alternatives, and \ takes
// the next character as it is. Matching takes linear time.
type glob struct {
	re   *regexp.Regexp
	base bool
	text bool // see compileText
}

func compileGlob(pattern string) (glob, error) {
	if pattern == "" || len(pattern) > maxGlob {
		return glob{}, fmt.Errorf("%w: %.50q: empty, or longer than %d bytes", ErrGlob, pattern, maxGlob)
	}
	expr, err := globExpr(pattern)
	if err != nil {
		return glob{}, fmt.Errorf("%w: %q: %w", ErrGlob, pattern, err)
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return glob{}, fmt.Errorf("%w: %q: %w", ErrGlob, pattern, err)
	}
	return glob{re: re, base: !strings.Contains(pattern, "/")}, nil
}

// globExpr turns a pattern into a regular expression.
func globExpr(pattern string) (string, error) {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	depth := 0
	for rest := pattern; rest != ""; {
		switch c := rest[0]; {
		case strings.HasPrefix(rest, "**/"):
			// Also no directory at all: /opt/**/x matches /opt/x.
			b.WriteString(`(?:.*/)?`)
			rest = rest[3:]
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			rest = rest[2:]
		case c == '*':
			b.WriteString(`[^/]*`)
			rest = rest[1:]
		case c == '?':
			b.WriteString(`[^/]`)
			rest = rest[1:]
		case c == '[':
			class, after, ok := strings.Cut(rest[1:], "]")
			if !ok || class == "" {
				return "", errors.New("[ without characters and ]")
			}
			not := strings.HasPrefix(class, "!") || strings.HasPrefix(class, "^")
			if not {
				class = class[1:]
			}
			class = strings.NewReplacer(`\`, `\\`, `[`, `\[`, `^`, `\^`, `&`, `\&`).Replace(class)
			if not {
				class = "^/" + class
			}
			b.WriteString("[" + class + "]")
			rest = after
		case c == '{':
			depth++
			b.WriteString(`(?:`)
			rest = rest[1:]
		case c == '}' && depth > 0:
			depth--
			b.WriteString(`)`)
			rest = rest[1:]
		case c == ',' && depth > 0:
			b.WriteString(`|`)
			rest = rest[1:]
		case c == '\\':
			if len(rest) < 2 {
				return "", errors.New(`\ at the end`)
			}
			b.WriteString(regexp.QuoteMeta(rest[1:2]))
			rest = rest[2:]
		default:
			// Ordinary text, up to the next character that may be special. The
			// first one is not, or it would have been taken above.
			end := 1 + strings.IndexAny(rest[1:], globSpecial)
			if end == 0 {
				end = len(rest)
			}
			b.WriteString(regexp.QuoteMeta(rest[:end]))
			rest = rest[end:]
		}
	}
	if depth != 0 {
		return "", errors.New("{ without }")
	}
	b.WriteString(`\z`)
	return b.String(), nil
}

// compileText is for texts that are no paths: * and ? match a slash as well.
func compileText(pattern string) (glob, error) {
	g, err := compileGlob(strings.NewReplacer("/", "\x00", "**", "*").Replace(pattern))
	g.base, g.text = false, true
	return g, err
}

// compilePath is for whole paths, with or without a slash in the pattern.
func compilePath(pattern string) (glob, error) {
	g, err := compileGlob(pattern)
	g.base = false
	return g, err
}

// matchEmpty is match for texts that may be empty.
func (g glob) matchEmpty(p string) bool {
	return p == "" && g.re.MatchString("") || g.match(p)
}

func (g glob) match(p string) bool {
	if g.text {
		p = strings.ReplaceAll(p, "/", "\x00")
	}
	if p == "" {
		return false
	}
	if g.base {
		p = path.Base(p)
	}
	return g.re.MatchString(p)
}
