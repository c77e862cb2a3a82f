package kernels

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"testing"
)

// shape is what of a request is meant to vary, as it came over the wire. Of HTTP/2 head
// is the length of the first frame.
type shape struct {
	headers, head, body                 int
	chunked, trailer, expect, continues bool
}

func shapeOf(head []byte, body int) shape {
	return shape{
		headers: bytes.Count(head, []byte("\r\n")) - 2, head: len(head), body: body,
		chunked: body > 0 && named(head, "content-length") == 0,
		trailer: named(head, "trailer") > 0, expect: named(head, "expect") > 0,
	}
}

// Where buffers end: those of the transports' writers (client.go of the target), and
// what is written at once of a body. closeTo is how near is near.
var (
	headEnds = []int{300, 1024, 4096, 8192}
	bodyEnds = []int{1024, 4096, 16384, 65536}
)

const closeTo = 100

// coverage counts requests by what they were like, to see that none is missing of what
// was to be compared.
type coverage map[string]int

func (c coverage) add(kind string, attempts []arrival) {
	s := attempts[0].shape
	c[kind]++
	for _, f := range []struct {
		what string
		is   bool
	}{
		{"no header of the program's", s.headers <= 4},
		{"up to 50 headers", s.headers > 4 && s.headers <= 50},
		{"51 to 150 headers", s.headers > 50 && s.headers <= 150},
		{"151 headers and more", s.headers > 150},
		{"195 headers and more", s.headers >= 195},
		{"body", s.body > 0}, {"chunked", s.chunked}, {"trailer", s.trailer}, {"expect", s.expect},
		{kind + " sent again", len(attempts) > 1}, {"in more than one frame", s.continues},
		{"own traceparent", attempts[0].named == 1}, {"two traceparents", attempts[0].named == 2},
	} {
		if f.is {
			c[f.what]++
		}
	}
	for _, end := range headEnds {
		if abs(s.head-end) <= closeTo {
			c["header ends near "+strconv.Itoa(end)]++
		}
	}
	for _, end := range bodyEnds {
		if abs(s.body-end) <= closeTo {
			c["body ends near "+strconv.Itoa(end)]++
		}
	}
}

// check requires some of everything; runs too short for that are only logged.
func (c coverage) check(t *testing.T, total int) {
	t.Helper()
	want := []string{
		"no header of the program's", "up to 50 headers", "51 to 150 headers", "151 headers and more", "195 headers and more",
		"body", "chunked", "trailer", "expect", "in more than one frame", "own traceparent", "two traceparents",
	}
	for _, k := range byteKinds {
		want = append(want, k.name, k.name+" sent again")
	}
	for _, end := range headEnds {
		want = append(want, "header ends near "+strconv.Itoa(end))
	}
	for _, end := range bodyEnds {
		want = append(want, "body ends near "+strconv.Itoa(end))
	}
	for _, what := range slices.Sorted(maps.Keys(c)) {
		t.Logf("%6d %s", c[what], what)
	}
	for _, what := range want {
		if c[what] == 0 && total >= 5000 {
			t.Errorf("no request of %d: %s", total, what)
		}
	}
}

func abs(n int) int { return max(n, -n) }
