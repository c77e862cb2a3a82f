package httpattr

import (
	"encoding/binary"
	"fmt"
	"net/textproto"
	"slices"
)

// Wanted is a header that the BPF side of a probe looks for.
type Wanted struct {
	Name string // canonical, as net/http keeps it
	Slot uint32 // the probe's
}

// Canonical is a header's name as net/http keeps it.
func Canonical(name string) (string, error) {
	c := textproto.CanonicalMIMEHeaderKey(name)
	if c == "" || len(c) >= maxHeaderLen {
		return "", fmt.Errorf("%q is not a header name of 1 to 63 bytes", name)
	}
	return c, nil
}

// Captured are the request headers of these names, their slots from first on; at most most.
func Captured(names []string, first uint32, most int) ([]Wanted, error) {
	return wanted("capture headers", names, first, most)
}

// Answers are the response headers of these names, as Captured; one that is also looked for in
// requests has that one's slot.
func Answers(names []string, first uint32, most int, requests []Wanted) ([]Wanted, error) {
	hdrs, err := wanted("response headers", names, first, most)
	for i, h := range hdrs {
		if at := slices.IndexFunc(requests, func(r Wanted) bool { return r.Name == h.Name }); at >= 0 {
			hdrs[i].Slot = requests[at].Slot
		}
	}
	return hdrs, err
}

func wanted(what string, names []string, first uint32, most int) ([]Wanted, error) {
	if len(names) > most {
		return nil, fmt.Errorf("%s: %d given, at most %d", what, len(names), most)
	}
	var hdrs []Wanted
	for i, name := range names {
		c, err := Canonical(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		hdrs = append(hdrs, Wanted{Name: c, Slot: first + uint32(i)})
	}
	return hdrs, nil
}

// HeaderRules builds cfg_hdrs: by length, the wanted names.
func HeaderRules(hdrs []Wanted) ([maxHeaderLen][rulesPerLen]HeaderRule, error) {
	var table [maxHeaderLen][rulesPerLen]HeaderRule
	for _, h := range hdrs {
		row := &table[len(h.Name)]
		i := 0
		for i < rulesPerLen && row[i].Wanted != 0 {
			i++
		}
		if i == rulesPerLen {
			return table, fmt.Errorf("headers: %q is one name too many of %d bytes: at most %d can be told apart, "+
				"of correlation_headers, response headers in rules of metrics and those that are always looked at",
				h.Name, len(h.Name), rulesPerLen)
		}
		row[i] = HeaderRule{Word: headerWords(h.Name), Slot: h.Slot, Wanted: 1}
	}
	return table, nil
}

// HeaderLens is cfg_hdr_lens: the lengths that have a rule.
func HeaderLens(hdrs []Wanted) (lens uint64) {
	for _, h := range hdrs {
		lens |= 1 << len(h.Name)
	}
	return lens
}

// HeaderRule mirrors struct hdr_rule in bpf/lib/headers.h.
type HeaderRule struct {
	Word         [3]uint64
	Slot, Wanted uint32
}

const (
	maxHeaderLen = 64
	rulesPerLen  = 4
)

// headerWords is a name, or of a long one its first 16 and last 8 bytes.
func headerWords(name string) (words [3]uint64) {
	var b [24]byte
	if len(name) <= len(b) {
		copy(b[:], name)
	} else {
		copy(b[:16], name)
		copy(b[16:], name[len(name)-8:])
	}
	for i := range words {
		words[i] = binary.NativeEndian.Uint64(b[8*i:])
	}
	return words
}
