package nethttp

import "github.com/tracer-agent/tracer-agent/internal/httpattr"

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
	captured, err := httpattr.Captured(capture, uint32(bpfNhStrS_CAPTURE0), MaxCapture)
	return append(hdrs, captured...), err
}

// answerHeaders are the response headers that the BPF side looks for, in the order of their
// strings.
func answerHeaders(names []string, requests []httpattr.Wanted) ([]httpattr.Wanted, error) {
	return httpattr.Answers(names, uint32(bpfNhStrS_ANSWER0), MaxAnswers, requests)
}
