package nethttp

import (
	"encoding/binary"
	"fmt"
	"net/textproto"
	"slices"
)

// MaxCapture is how many further request headers can be recorded.
const MaxCapture = int(bpfNhStrS_ANSWER0 - bpfNhStrS_CAPTURE0)

// MaxAnswers is how many response headers can be recorded.
const MaxAnswers = int(bpfNhStrS_ANSWERS)

// wanted is a request header that the BPF side looks for.
type wanted struct {
	name string // canonical, as net/http keeps it
	slot uint32 // enum nh_str
}

// canonical is a header's name as net/http keeps it.
func canonical(name string) (string, error) {
	c := textproto.CanonicalMIMEHeaderKey(name)
	if c == "" || len(c) >= maxHeaderLen {
		return "", fmt.Errorf("%q is not a header name of 1 to 63 bytes", name)
	}
	return c, nil
}

func wantedHeaders(capture []string) ([]wanted, error) {
	hdrs := []wanted{
		{"User-Agent", uint32(bpfNhStrS_USER_AGENT)},
		{"Traceparent", uint32(bpfNhStrS_TRACEPARENT)},
		{"Tracestate", uint32(bpfNhStrS_TRACESTATE)},
		{"X-Forwarded-For", uint32(bpfNhStrS_FORWARDED_FOR)},
		{"Forwarded", uint32(bpfNhStrS_FORWARDED)},
		{"Upgrade", uint32(bpfNhStrS_UPGRADE)},
	}
	if len(capture) > MaxCapture {
		return nil, fmt.Errorf("capture headers: %d given, at most %d", len(capture), MaxCapture)
	}
	for i, name := range capture {
		c, err := canonical(name)
		if err != nil {
			return nil, fmt.Errorf("capture headers: %w", err)
		}
		hdrs = append(hdrs, wanted{c, uint32(bpfNhStrS_CAPTURE0) + uint32(i)})
	}
	return hdrs, nil
}

// answerHeaders are the response headers that the BPF side looks for, in the order of their
// strings; one that is also looked for in requests has that one's slot.
func answerHeaders(names []string, requests []wanted) ([]wanted, error) {
	if len(names) > MaxAnswers {
		return nil, fmt.Errorf("response headers: %d given, at most %d", len(names), MaxAnswers)
	}
	var hdrs []wanted
	for i, name := range names {
		c, err := canonical(name)
		if err != nil {
			return nil, fmt.Errorf("response headers: %w", err)
		}
		h := wanted{c, uint32(bpfNhStrS_ANSWER0) + uint32(i)}
		if at := slices.IndexFunc(requests, func(r wanted) bool { return r.name == c }); at >= 0 {
			h.slot = requests[at].slot
		}
		hdrs = append(hdrs, h)
	}
	return hdrs, nil
}

// headerRules builds cfg_hdrs: by length, the wanted names.
func headerRules(hdrs []wanted) ([maxHeaderLen][rulesPerLen]hdrRule, error) {
	var table [maxHeaderLen][rulesPerLen]hdrRule
	for _, h := range hdrs {
		row := &table[len(h.name)]
		i := 0
		for i < rulesPerLen && row[i].Wanted != 0 {
			i++
		}
		if i == rulesPerLen {
			return table, fmt.Errorf("headers: %q is one name too many of %d bytes: at most %d can be told apart, "+
				"of correlation_headers, response headers in rules of metrics and those that are always looked at",
				h.name, len(h.name), rulesPerLen)
		}
		row[i] = hdrRule{Word: headerWords(h.name), Slot: h.slot, Wanted: 1}
	}
	return table, nil
}

// headerLens is cfg_hdr_lens: the lengths that have a rule.
func headerLens(hdrs []wanted) (lens uint64) {
	for _, h := range hdrs {
		lens |= 1 << len(h.name)
	}
	return lens
}

// hdrRule mirrors struct hdr_rule in bpf/lib/headers.h.
type hdrRule struct {
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
