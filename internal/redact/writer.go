package redact

import (
	"cmp"
	"io"
	"slices"
	"strconv"
	"strings"
)

// minKnown is the shortest known secret that is looked for: shorter ones are words.
const minKnown = 6

// Known returns a function that replaces each of the known secrets in a text, as they are
// and as slog quotes them; nil when there are none to look for.
func Known(secrets []string) func(string) string {
	var known []string
	for _, s := range secrets {
		if len(s) < minKnown {
			continue
		}
		known = append(known, s)
		if q := strconv.Quote(s); q[1:len(q)-1] != s {
			known = append(known, q[1:len(q)-1])
		}
	}
	if len(known) == 0 {
		return nil
	}
	// The longest first: one may be a part of another.
	slices.SortFunc(known, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	var pairs []string
	for _, s := range slices.Compact(known) {
		pairs = append(pairs, s, Mask)
	}
	return strings.NewReplacer(pairs...).Replace
}

// NewWriter passes on what is written to it without the known secrets. A record has to come
// in one Write.
func NewWriter(w io.Writer, secrets []string) io.Writer {
	mask := Known(secrets)
	if mask == nil {
		return w
	}
	return &writer{w, mask}
}

type writer struct {
	next io.Writer
	mask func(string) string
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	// One Write for one, so that records of several writers do not mix.
	if _, err := io.WriteString(w.next, w.mask(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
