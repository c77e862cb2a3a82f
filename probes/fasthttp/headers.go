package fasthttp

import (
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/internal/httpattr"
)

const (
	maxCapture = int(bpfFhStrFS_ANSWER0 - bpfFhStrFS_CAPTURE0)
	maxAnswers = int(bpfFhStrFS_ANSWERS)
)

// answers are the response headers that the BPF side looks for.
type answers struct {
	all, own []httpattr.Wanted // own: those that are not looked for in requests, too
	slots    [maxAnswers]uint8 // cfg_answers
}

// headers are the configured headers, by slots of struct fh_op: a request's have that of
// their string, a response's those behind, unless a request's has the same name.
func headers(cfg Config) (captured []httpattr.Wanted, a answers, err error) {
	if captured, err = httpattr.Captured(cfg.CaptureHeaders, 0, maxCapture); err != nil {
		return nil, a, err
	}
	if a.all, err = httpattr.Answers(cfg.AnswerHeaders, uint32(maxCapture), maxAnswers, captured); err != nil {
		return nil, a, err
	}
	for i, h := range a.all {
		if !slices.Contains(captured, h) {
			a.own = append(a.own, h)
		}
		a.slots[i] = uint8(h.Slot + 1)
	}
	return captured, a, nil
}

// configured appends the headers that are configured.
func (d *decoder) configured(a []attribute.KeyValue, r *request) []attribute.KeyValue {
	for i, name := range d.cfg.CaptureHeaders {
		if v := r.str[int(bpfFhStrFS_CAPTURE0)+i]; v != "" {
			a = append(a, attribute.StringSlice("http.request.header."+strings.ToLower(name), []string{v}))
		}
	}
	for i, name := range d.cfg.AnswerHeaders {
		if v := r.str[int(bpfFhStrFS_ANSWER0)+i]; v != "" {
			a = append(a, attribute.StringSlice("http.response.header."+strings.ToLower(name), []string{d.cfg.Redact.Value(v)}))
		}
	}
	return a
}
