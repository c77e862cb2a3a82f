package policy

import (
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

func TestApply(t *testing.T) {
	cfg := config.Default()
	cfg.Probes = map[string]bool{"redis": false, "sql": false}
	cfg.Redact.QueryNames = []string{"pin"}
	half := 0.5
	p := New(&cfg, &config.Selector{
		Probes: map[string]bool{"sql": true, "grpc": false}, Sampling: config.SelectorSampling{Ratio: &half},
		Redact: config.SelectorRedact{QueryNames: []string{"iban"}, QueryText: true},
	})
	kept, dropped := trace.TraceID{8: 0x10}, trace.TraceID{8: 0xf0}
	for probe, want := range map[string]bool{"redis": false, "grpc": false, "sql": true, "nethttp": true} {
		if got := p.Apply(&telemetry.Operation{Probe: probe, TraceID: kept}); got != want {
			t.Errorf("%s wanted: %v, want %v", probe, got, want)
		}
	}
	op := &telemetry.Operation{Probe: "nethttp", TraceID: dropped}
	if !p.Apply(op) || !op.MetricsOnly {
		t.Error("what is not sampled should still be counted, and no more")
	}
	attrs := []attribute.KeyValue{
		attribute.String("url.query", "a=1&iban=DE1&pin=2"), attribute.String("db.query.text", "SELECT 1"),
		attribute.String("url.full", "http://h/?iban=DE1"), attribute.Int("x", 1),
	}
	op = &telemetry.Operation{Probe: "sql", TraceID: kept, Attributes: attrs}
	if !p.Apply(op) || op.MetricsOnly {
		t.Fatal("not wanted")
	}
	want := []attribute.KeyValue{
		attribute.String("url.query", "a=1&iban=REDACTED&pin=REDACTED"), attribute.String("url.full", "http://h/?iban=REDACTED"), attribute.Int("x", 1),
	}
	if len(op.Attributes) != len(want) {
		t.Fatalf("got %v", op.Attributes)
	}
	for i := range want {
		if op.Attributes[i] != want[i] {
			t.Errorf("got %v, want %v", op.Attributes[i], want[i])
		}
	}
	if attrs[1].Value.AsString() != "SELECT 1" {
		t.Error("the decoder's attributes were changed")
	}
}

// TestNew: a selector's word goes before the general one, and leaves alone what it does
// not speak of.
func TestNew(t *testing.T) {
	cfg, yes := config.Default(), true
	cfg.Service = config.Service{Name: "all", Attributes: map[string]string{"team": "a", "tier": "b"}}
	cfg.Propagation.Mode = config.PropagateJoin
	want := func(p *Policy, name, team, tier, mode string, exporting bool) {
		t.Helper()
		if a := p.Service.Attributes; p.Service.Name != name || a["team"] != team || a["tier"] != tier || p.Propagation != mode || p.Exporting != exporting {
			t.Errorf("got %+v", p)
		}
	}
	want(Global(&cfg), "all", "a", "b", config.PropagateJoin, false)
	want(New(&cfg, &config.Selector{}), "all", "a", "b", config.PropagateJoin, false)
	want(New(&cfg, &config.Selector{
		Service:     config.Service{Name: "own", Attributes: map[string]string{"tier": "c"}},
		Propagation: config.SelectorPropagation{Mode: config.PropagateOff}, Exporting: &yes,
	}), "own", "a", "c", config.PropagateOff, true)
	if cfg.Service.Attributes["tier"] != "b" {
		t.Error("the general settings were changed")
	}
}

// TestExports: this test holds no exporter.
func TestExports(t *testing.T) {
	exe, err := goexe.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	if err := Exports(exe); err != nil {
		t.Errorf("got %v for a program that exports nothing", err)
	}
}
