package metricrules

import (
	"math"
	"strings"
	"sync"

	"github.com/expr-lang/expr/vm"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// maxValueLen bounds an attribute's text: it is one more series, not a place for data.
const maxValueLen = 128

// nameErrors counts evaluations that gave nothing.
const nameErrors = "tracer_agent_metric_rule_errors_total"

// Recorder adds up measurements; see internal/metrics.
type Recorder interface{ Record(op *telemetry.Operation) }

// Applier adds what the rules measure to operations on their way to a recorder.
type Applier struct {
	set    *Set
	next   Recorder
	errors []*selfmetrics.Counter // by rule
	spare  sync.Pool              // of *evaluation
}

// evaluation is what one operation's evaluation needs.
type evaluation struct {
	view view
	vm   vm.VM
}

// Apply returns a recorder that measures by the rules of set, then gives the operation
// to next; next itself when there are no rules.
func Apply(set *Set, next Recorder, reg *selfmetrics.Registry) Recorder {
	if set.Len() == 0 {
		return next
	}
	a := &Applier{set: set, next: next}
	a.spare.New = func() any {
		return &evaluation{view: view{Attributes: make(map[string]any, len(set.uses.keys[inAttributes]))}, vm: vm.VM{MemoryBudget: 1 << 16}}
	}
	for _, c := range set.rules {
		a.errors = append(a.errors, reg.Counter(nameErrors, selfmetrics.L("rule", c.rule.Name)))
	}
	return a
}

// Record implements Recorder.
func (a *Applier) Record(op *telemetry.Operation) {
	e := a.spare.Get().(*evaluation)
	a.set.look(&e.view, op)
	op.RequestFields, op.ResponseFields = nil, nil // nothing else is theirs
	for i := range a.set.rules {
		m, ok, err := e.measure(&a.set.rules[i])
		if err {
			a.errors[i].Inc()
		}
		if ok {
			op.Measurements = append(op.Measurements, m)
		}
	}
	e.view.RequestBody, e.view.ResponseBody = nil, nil
	a.spare.Put(e)
	a.next.Record(op)
}

// look fills a view from an operation. One that is only counted has the attributes of
// its measurements.
func (s *Set) look(v *view, op *telemetry.Operation) {
	clear(v.Attributes)
	v.Kind, v.Name, v.Probe, v.Service = kindNames[op.Kind], op.Name, op.Probe, ""
	v.Failed, v.Duration = op.Status == codes.Error, 0
	v.RequestBody, v.ResponseBody = op.RequestFields, op.ResponseFields
	if op.EndKtimeNs > op.StartKtimeNs {
		v.Duration = float64(op.EndKtimeNs-op.StartKtimeNs) / 1e9
	}
	take := func(kv attribute.KeyValue) {
		if s.uses.keys[inAttributes][string(kv.Key)] {
			v.Attributes[string(kv.Key)] = plain(kv.Value)
		}
	}
	for _, kv := range op.Attributes {
		take(kv)
	}
	if len(op.Attributes) == 0 && len(op.Measurements) > 0 {
		for it := op.Measurements[0].Attributes.Iter(); it.Next(); {
			take(it.Attribute())
		}
	}
	if op.Resource != nil {
		for _, kv := range op.Resource.Attributes {
			if kv.Key == "service.name" {
				v.Service = kv.Value.AsString()
			}
		}
	}
}

var kindNames = map[trace.SpanKind]string{
	trace.SpanKindServer: "server", trace.SpanKindClient: "client", trace.SpanKindProducer: "producer",
	trace.SpanKindConsumer: "consumer", trace.SpanKindInternal: "internal", trace.SpanKindUnspecified: "internal",
}

// plain is a value in the types that expressions compute with; a header is a list.
func plain(v attribute.Value) any {
	switch v.Type() {
	case attribute.INT64:
		return int(v.AsInt64())
	case attribute.STRINGSLICE:
		return v.AsStringSlice()
	default:
		return v.AsInterface()
	}
}

// measure evaluates one rule. What cannot be evaluated, such as a comparison with an
// attribute that is not there, does not count.
func (e *evaluation) measure(c *compiled) (m telemetry.Measurement, ok, failed bool) {
	if c.when != nil {
		r, err := e.vm.Run(c.when, &e.view)
		if err != nil {
			return m, false, true
		}
		if yes, isBool := r.(bool); !isBool || !yes {
			return m, false, !isBool
		}
	}
	m = telemetry.Measurement{Instrument: c.inst, Value: 1}
	if c.value != nil {
		r, err := e.vm.Run(c.value, &e.view)
		v, isNumber := r.(float64)
		if err != nil || !isNumber || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 && c.inst.Kind == telemetry.Counter {
			return m, false, true
		}
		m.Value = v
	}
	if len(c.attrs) == 0 {
		return m, true, false
	}
	kvs := make([]attribute.KeyValue, 0, len(c.attrs))
	for i, p := range c.attrs {
		r, err := e.vm.Run(p, &e.view)
		if err != nil {
			failed = true
			continue
		}
		if v, ok := value(r); ok {
			kvs = append(kvs, attribute.KeyValue{Key: c.keys[i], Value: v})
		}
	}
	m.Attributes = attribute.NewSet(kvs...)
	return m, true, failed
}

// value turns an expression's result into an attribute; nothing when it is nothing.
func value(r any) (attribute.Value, bool) {
	switch v := r.(type) {
	case string:
		return attribute.StringValue(strings.ToValidUTF8(v[:min(len(v), maxValueLen)], "")), true
	case []string:
		if len(v) == 0 {
			return attribute.Value{}, false
		}
		return value(v[0])
	case bool:
		return attribute.BoolValue(v), true
	case int:
		return attribute.IntValue(v), true
	case float64:
		return attribute.Float64Value(v), true
	}
	return attribute.Value{}, false
}
