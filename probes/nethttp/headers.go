package nethttp

import (
	"fmt"
	"slices"

	"github.com/tracer-agent/tracer-agent/internal/httpattr"
)

// MaxCapture is how many further request headers can be recorded.
const MaxCapture = int(bpfNhStrS_ANSWER0 - bpfNhStrS_CAPTURE0)

// MaxAnswers is how many response headers can be recorded.
const MaxAnswers = int(bpfNhStrS_ANSWERS)

func wantedHeaders(capture []string) ([]httpattr.Wanted, error) {
	hdrs := []httpattr.Wanted{
		{Name: "User-Agent", Slot: uint32(bpfNhStrS_USER_AGENT)},
		{Name: "Traceparent", Slot: uint32(bpfNhStrS_TRACEPARENT)},
		{Name: "Tracestate", Slot: uint32(bpfNhStrS_TRACESTATE)},
		{Name: "X-Forwarded-For", Slot: uint32(bpfNhStrS_FORWARDED_FOR)},
		{Name: "Forwarded", Slot: uint32(bpfNhStrS_FORWARDED)},
		{Name: "Upgrade", Slot: uint32(bpfNhStrS_UPGRADE)},
	}
	if len(capture) > MaxCapture {
		return nil, fmt.Errorf("capture headers: %d given, at most %d", len(capture), MaxCapture)
	}
	for i, name := range capture {
		c, err := httpattr.Canonical(name)
		if err != nil {
			return nil, fmt.Errorf("capture headers: %w", err)
		}
		hdrs = append(hdrs, httpattr.Wanted{Name: c, Slot: uint32(bpfNhStrS_CAPTURE0) + uint32(i)})
	}
	return hdrs, nil
}

// answerHeaders are the response headers that the BPF side looks for, in the order of their
// strings; one that is also looked for in requests has that one's slot.
func answerHeaders(names []string, requests []httpattr.Wanted) ([]httpattr.Wanted, error) {
	if len(names) > MaxAnswers {
		return nil, fmt.Errorf("response headers: %d given, at most %d", len(names), MaxAnswers)
	}
	var hdrs []httpattr.Wanted
	for i, name := range names {
		c, err := httpattr.Canonical(name)
		if err != nil {
			return nil, fmt.Errorf("response headers: %w", err)
		}
		h := httpattr.Wanted{Name: c, Slot: uint32(bpfNhStrS_ANSWER0) + uint32(i)}
		if at := slices.IndexFunc(requests, func(r httpattr.Wanted) bool { return r.Name == c }); at >= 0 {
			h.Slot = requests[at].Slot
		}
		hdrs = append(hdrs, h)
	}
	return hdrs, nil
}
