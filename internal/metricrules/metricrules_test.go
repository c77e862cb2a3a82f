package metricrules

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/jsonfields"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

type sink struct{ got []telemetry.Measurement }

func (s *sink) Record(op *telemetry.Operation) { s.got = append(s.got, op.Measurements...) }

func isToken(name string) bool { return name == "token" }

func trade(status int) *telemetry.Operation {
	op := &telemetry.Operation{
		Kind: trace.SpanKindServer, Name: "POST /trades", Probe: "nethttp", StartKtimeNs: 1e9, EndKtimeNs: 15e8,
		Attributes: []attribute.KeyValue{
			attribute.String("http.route", "/trades"), attribute.Int("http.response.status_code", status),
			attribute.Int("http.request.body.size", 120), attribute.StringSlice("http.request.header.x-amount", []string{"12.5"}),
		},
		Resource:       &telemetry.Resource{Attributes: []attribute.KeyValue{attribute.String("service.name", "bot")}},
		RequestFields:  map[string]any{"signal.quantity": 12, "signal.symbol": "ACME", "price": 1.5, "dry": false},
		ResponseFields: map[string]any{"id": 7},
	}
	if status >= 500 {
		op.Status = codes.Error
	}
	return op
}

func TestRules(t *testing.T) {
	trades := `kind == "server" and attributes["http.route"] == "/trades"`
	for name, c := range map[string]struct {
		rule   Rule
		op     *telemetry.Operation
		want   []float64
		attrs  string
		failed uint64
	}{
		"duration":        {rule: Rule{Kind: "histogram", When: trades, Value: "duration"}, want: []float64{0.5}},
		"counter":         {rule: Rule{Kind: "counter", When: trades}, want: []float64{1}},
		"size":            {rule: Rule{Kind: "counter", Value: `attributes["http.request.body.size"]`}, want: []float64{120}},
		"header":          {rule: Rule{Kind: "gauge", Value: `float(attributes["http.request.header.x-amount"][0])`}, want: []float64{12.5}},
		"service":         {rule: Rule{Kind: "counter", When: `service == "bot" && name startsWith "POST"`}, want: []float64{1}},
		"failed":          {rule: Rule{Kind: "counter", When: trades + " and failed"}, op: trade(503), want: []float64{1}},
		"not failed":      {rule: Rule{Kind: "counter", When: "failed"}},
		"by status":       {rule: Rule{Kind: "counter", Attributes: map[string]string{"code": `attributes["http.response.status_code"]`}}, want: []float64{1}, attrs: "code=200"},
		"by a header":     {rule: Rule{Kind: "counter", Attributes: map[string]string{"amount": `attributes["http.request.header.x-amount"]`}}, want: []float64{1}, attrs: "amount=12.5"},
		"absent":          {rule: Rule{Kind: "counter", When: `attributes["a.b"] == "x"`}},
		"absent, told":    {rule: Rule{Kind: "counter", When: `attributes["a.b"] > 3`}, failed: 1},
		"absent, known":   {rule: Rule{Kind: "counter", When: `(attributes["a.b"] ?? 4) > 3`}, want: []float64{1}},
		"field":           {rule: Rule{Kind: "counter", Value: `request_body["signal.quantity"]`, Attributes: map[string]string{"symbol": `request_body["signal.symbol"]`}}, want: []float64{12}, attrs: "symbol=ACME"},
		"fields":          {rule: Rule{Kind: "counter", When: `!request_body["dry"] && response_body["id"] == 7`, Value: `request_body["signal.quantity"] * request_body["price"]`}, want: []float64{18}},
		"no field":        {rule: Rule{Kind: "counter", Value: `request_body["quantity"]`}, failed: 1},
		"no field, known": {rule: Rule{Kind: "counter", Value: `request_body["quantity"] ?? 2`, Attributes: map[string]string{"symbol": `request_body["x"]`}}, want: []float64{2}},
		"field, told":     {rule: Rule{Kind: "counter", When: `"signal.symbol" in request_body`}, want: []float64{1}},
		"text as number":  {rule: Rule{Kind: "gauge", Value: `request_body["signal.symbol"]`}, failed: 1},
		"not a number":    {rule: Rule{Kind: "gauge", Value: `attributes["http.route"]`}, failed: 1},
		"falls":           {rule: Rule{Kind: "counter", Value: "-duration"}, failed: 1},
		"infinite":        {rule: Rule{Kind: "gauge", Value: "duration / 0"}, failed: 1},
	} {
		t.Run(name, func(t *testing.T) {
			c.rule.Name = "trade.x"
			set, err := Compile([]Rule{c.rule}, isToken)
			if err != nil {
				t.Fatal(err)
			}
			if c.op == nil {
				c.op = trade(200)
			}
			s, reg := &sink{}, selfmetrics.New()
			Apply(set, s, reg).Record(c.op)
			if c.op.RequestFields != nil || c.op.ResponseFields != nil {
				t.Error("fields of bodies go on with the operation")
			}
			var got []float64
			attrs := ""
			for _, m := range s.got {
				got = append(got, m.Value)
				attrs = m.Attributes.Encoded(attribute.DefaultEncoder())
			}
			if len(got) != len(c.want) || len(got) > 0 && got[0] != c.want[0] || attrs != c.attrs {
				t.Errorf("measured %v {%s}, want %v {%s}", got, attrs, c.want, c.attrs)
			}
			if n := reg.Counter(nameErrors, selfmetrics.L("rule", "trade.x")).Value(); n != c.failed {
				t.Errorf("%d evaluations failed, want %d", n, c.failed)
			}
		})
	}
}

// An operation that is only counted has the attributes of its measurements.
func TestCountedOnly(t *testing.T) {
	set, err := Compile([]Rule{{Name: "a", Kind: "counter", When: `attributes["http.route"] == "/trades"`}}, isToken)
	if err != nil {
		t.Fatal(err)
	}
	op := &telemetry.Operation{MetricsOnly: true, Measurements: []telemetry.Measurement{
		{Instrument: &telemetry.Instrument{}, Attributes: attribute.NewSet(attribute.String("http.route", "/trades"))},
	}}
	s := &sink{}
	Apply(set, s, selfmetrics.New()).Record(op)
	if len(s.got) != 2 {
		t.Errorf("%d measurements, want 2", len(s.got))
	}
	if set.NeedsMore([]string{"http.route"}) || !set.NeedsMore([]string{"error.type"}) {
		t.Error("what the rules need of operations that are only counted is wrong")
	}
}

// Bodies are looked at for what rules ask for, and not without a rule that does.
func TestBodyFields(t *testing.T) {
	var none *Set
	if in, out := none.BodyFields(); in != nil || out != nil {
		t.Error("no rules ask for fields")
	}
	set, err := Compile([]Rule{
		{Name: "a", Kind: "gauge", Value: `request_body["b"] + request_body["a.0"]`},
		{Name: "b", Kind: "counter", When: `"c" in response_body`, Attributes: map[string]string{"d": `request_body["b"]`}},
	}, isToken)
	if err != nil {
		t.Fatal(err)
	}
	if in, out := set.BodyFields(); !slices.Equal(in, []string{"a.0", "b"}) || !slices.Equal(out, []string{"c"}) {
		t.Errorf("fields of requests %q, of responses %q", in, out)
	}
	if set.NeedsMore(nil) {
		t.Error("fields of bodies need no attributes")
	}
	var rules []Rule
	for i := range jsonfields.MaxPaths + 1 {
		rules = append(rules, Rule{Name: "a", Kind: "counter", When: fmt.Sprintf(`request_body["f%d"] == 1`, i)})
	}
	again := append(rules[:jsonfields.MaxPaths:jsonfields.MaxPaths], rules[0])
	if _, err := Compile(again, isToken); err != nil {
		t.Errorf("the most fields, one of them twice: %v", err)
	}
	if _, err := Compile(rules, isToken); err == nil || !strings.Contains(err.Error(), "rule 33") || !strings.Contains(err.Error(), "more than 32 fields") {
		t.Errorf("too many fields: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		rules []Rule
		want  string
	}{
		"syntax":         {[]Rule{{Name: "a.b", Kind: "counter", When: `kind ==`}}, `rule 1 ("a.b"): when: unexpected token`},
		"unknown name":   {[]Rule{{Name: "a.b", Kind: "counter", When: `knd == "server"`}}, `rule 1 ("a.b"): when: unknown name knd`},
		"not a yes":      {[]Rule{{Name: "a.b", Kind: "counter", When: `duration`}}, `when: expected bool`},
		"not a number":   {[]Rule{{Name: "a.b", Kind: "gauge", Value: `kind`}}, `value: expected float64`},
		"computed key":   {[]Rule{{Name: "a.b", Kind: "counter", When: `attributes[kind] == ""`}}, `attributes["a.name"]`},
		"computed field": {[]Rule{{Name: "a.b", Kind: "counter", When: `request_body[kind] == ""`}}, `request_body["a.name"]`},
		"secret field":   {[]Rule{{Name: "a", Kind: "counter"}, {Name: "a.b", Kind: "gauge", Value: `request_body["user.token"]`}}, `rule 2 ("a.b"): "user.token" of a body or response has the name of a secret`},
		"secret header":  {[]Rule{{Name: "a.b", Kind: "counter", When: `attributes["http.response.header.token"][0] == ""`}}, `rule 1 ("a.b"): "token" of a body or response has the name of a secret`},
		"header's case":  {[]Rule{{Name: "a.b", Kind: "counter", When: `"http.response.header.X-A" in attributes`}}, `rule 1 ("a.b"): when: http.response.header.X-A: want the name of a header, in lower case`},
		"many headers": {[]Rule{{Name: "a", Kind: "counter", When: `[attributes["http.response.header.a"], attributes["http.response.header.b"],
			attributes["http.response.header.c"], attributes["http.response.header.d"], attributes["http.response.header.e"]] != nil`}}, `rules use more than 4 response headers`},
		"no path":        {[]Rule{{Name: "a.b", Kind: "counter", When: `response_body["a..b"] == 1`}}, `rule 1 ("a.b"): when: field "a..b"`},
		"loops":          {[]Rule{{Name: "a.b", Kind: "counter", When: `all(1..9, true)`}}, `when:`},
		"range":          {[]Rule{{Name: "a.b", Kind: "counter", When: `len(1..999999999) > 1`}}, `the operator .. is not allowed`},
		"kind":           {[]Rule{{Name: "a.b", Kind: "summary"}}, `rule 1 ("a.b"): kind "summary": want counter, gauge or histogram`},
		"no value":       {[]Rule{{Name: "a.b", Kind: "histogram"}}, `value: a histogram needs one`},
		"name":           {[]Rule{{Name: "9", Kind: "counter"}}, `name: want a letter`},
		"reserved":       {[]Rule{{Name: "http.server.x", Kind: "counter"}}, `agent's own`},
		"buckets":        {[]Rule{{Name: "a", Kind: "histogram", Value: "duration", Buckets: []float64{2, 1}}}, `ascending`},
		"disagreement":   {[]Rule{{Name: "a", Kind: "counter"}, {Name: "a", Kind: "gauge", Value: "1.0"}}, `rule 2 ("a"): an earlier rule`},
		"attribute":      {[]Rule{{Name: "a", Kind: "counter", Attributes: map[string]string{"x y": "kind"}}}, `attribute "x y"`},
		"attribute expr": {[]Rule{{Name: "a", Kind: "counter", Attributes: map[string]string{"x": "kin"}}}, `attribute x: unknown name kin`},
		"too long":       {[]Rule{{Name: "a", Kind: "counter", When: strings.Repeat("not ", 400) + "failed"}}, `longer than`},
		"too many":       {make([]Rule, MaxRules+1), `at most 64`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(c.rules, isToken)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

// What compiles can be evaluated on anything: no panic, and an end.
func FuzzRule(f *testing.F) {
	f.Add(`attributes["http.route"] matches "^/t" or len(split(name, " ")) > 1`, `duration * 1e3`)
	f.Add(`attributes["x"][0] == 1`, `float(attributes["y"] ?? 0)`)
	f.Fuzz(func(t *testing.T, when, value string) {
		set, err := Compile([]Rule{{Name: "a", Kind: "gauge", When: when, Value: value, Attributes: map[string]string{"x": when}}}, isToken)
		if err != nil {
			return
		}
		Apply(set, &sink{}, selfmetrics.New()).Record(trade(500))
		Apply(set, &sink{}, selfmetrics.New()).Record(&telemetry.Operation{})
	})
}

func BenchmarkTenRules(b *testing.B) {
	var rules []Rule
	for range 10 {
		rules = append(rules, Rule{
			Name: "trade.latency", Kind: "histogram", Value: "duration",
			When: `kind == "server" and attributes["http.route"] == "/trades" and attributes["http.response.status_code"] < 500`,
		})
	}
	set, err := Compile(rules, isToken)
	if err != nil {
		b.Fatal(err)
	}
	op := trade(200)
	r := Apply(set, &sink{}, selfmetrics.New())
	b.ReportAllocs()
	for b.Loop() {
		op.Measurements = nil
		r.(*Applier).next.(*sink).got = nil
		r.Record(op)
	}
}
