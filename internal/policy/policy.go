// Package policy is what the configuration says about one watched program in
// particular: its name, its share of traces, which probes it gets, what is left out of
// its spans. It is not about which programs are watched (discover) nor how.
//
// A Policy is never changed after it was made, and is shared by processes.
package policy

import (
	"encoding/binary"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/redact"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Policy is what holds for some processes.
type Policy struct {
	// Service names what does not name itself.
	Service config.Service
	// Propagation is one of the configuration's modes, never empty.
	Propagation string
	// Exporting: a program that exports its own spans is watched all the same.
	Exporting bool

	off         map[string]bool // probes
	ratio       float64
	noQueryText bool
	redact      *redact.Rules // nil: the decoders' own rules suffice
}

// Off says whether a probe is switched off for these processes.
func (p *Policy) Off(probe string) bool { return p.off[probe] }

// Global is the policy of processes that no selector has settings for.
func Global(cfg *config.Config) *Policy { return New(cfg, nil) }

// New adds a selector's settings to the general ones; s may be nil.
func New(cfg *config.Config, s *config.Selector) *Policy {
	p := &Policy{
		Service: cfg.Service, Propagation: cfg.Propagation.Mode, Exporting: cfg.Select.Exporting,
		off: map[string]bool{}, ratio: 1,
	}
	p.switches(cfg.Probes)
	if s == nil {
		return p
	}
	p.switches(s.Probes)
	if s.Service.Name != "" {
		p.Service.Name = s.Service.Name
	}
	if len(s.Service.Attributes) > 0 {
		merged := map[string]string{}
		for _, from := range []map[string]string{cfg.Service.Attributes, s.Service.Attributes} {
			for k, v := range from {
				merged[k] = v
			}
		}
		p.Service.Attributes = merged
	}
	if s.Propagation.Mode != "" {
		p.Propagation = s.Propagation.Mode
	}
	if s.Exporting != nil {
		p.Exporting = *s.Exporting
	}
	if s.Sampling.Ratio != nil {
		p.ratio = *s.Sampling.Ratio
	}
	p.noQueryText = s.Redact.QueryText
	if len(s.Redact.QueryNames) > 0 {
		p.redact = redact.New(slices.Concat(cfg.Redact.QueryNames, s.Redact.QueryNames))
	}
	return p
}

func (p *Policy) switches(probes map[string]bool) {
	for name, on := range probes {
		p.off[name] = !on
	}
}

// Apply changes a finished operation as the policy wants; false: it is not wanted at
// all. What is not sampled is still counted by metrics.
func (p *Policy) Apply(op *telemetry.Operation) bool {
	if p.off[op.Probe] {
		return false
	}
	if op.MetricsOnly {
		return true
	}
	if p.ratio < 1 && !p.sampled(op) {
		op.MetricsOnly = true
		return true
	}
	if p.noQueryText {
		op.Attributes = slices.DeleteFunc(slices.Clone(op.Attributes), func(kv attribute.KeyValue) bool {
			return kv.Key == semconv.DBQueryTextKey
		})
	}
	if p.redact != nil {
		op.Attributes = p.redacted(op.Attributes)
	}
	return true
}

// sampled decides by the trace's id, like the SDK's TraceIDRatioBased, so that every
// span of a trace in programs with the same ratio has the same fate.
func (p *Policy) sampled(op *telemetry.Operation) bool {
	const bits = 63
	return binary.BigEndian.Uint64(op.TraceID[8:])>>1 < uint64(p.ratio*(1<<bits))
}

func (p *Policy) redacted(attrs []attribute.KeyValue) []attribute.KeyValue {
	out := slices.Clone(attrs)
	for i, kv := range out {
		switch kv.Key {
		case semconv.URLQueryKey:
			out[i] = kv.Key.String(p.redact.Query(kv.Value.AsString()))
		case semconv.URLFullKey:
			out[i] = kv.Key.String(p.redact.URL(kv.Value.AsString()))
		}
	}
	return out
}
