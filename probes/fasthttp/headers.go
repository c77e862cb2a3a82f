package fasthttp

import (
	"fmt"
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
	if len(cfg.CaptureHeaders) > maxCapture || len(cfg.AnswerHeaders) > maxAnswers {
		return nil, a, fmt.Errorf("headers: %d of requests, %d of responses given, at most %d and %d",
			len(cfg.CaptureHeaders), len(cfg.AnswerHeaders), maxCapture, maxAnswers)
	}
	for i, name := range cfg.CaptureHeaders {
		c, err := httpattr.Canonical(name)
		if err != nil {
			return nil, a, fmt.Errorf("capture headers: %w", err)
		}
		captured = append(captured, httpattr.Wanted{Name: c, Slot: uint32(i)})
	}
	for i, name := range cfg.AnswerHeaders {
		c, err := httpattr.Canonical(name)
		if err != nil {
			return nil, a, fmt.Errorf("response headers: %w", err)
		}
		h := httpattr.Wanted{Name: c, Slot: uint32(maxCapture + i)}
		if at := slices.IndexFunc(captured, func(r httpattr.Wanted) bool { return r.Name == c }); at >= 0 {
			h = captured[at]
		} else {
			a.own = append(a.own, h)
		}
		a.all = append(a.all, h)
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
