package telemetry

import (
	"fmt"
	"testing"

	"go.opentelemetry.io/otel/attribute"
)

func TestDurationOf(t *testing.T) {
	i := &Instrument{Name: "x", Kind: Histogram}
	d := NewDurationOf(i, "a", "b")
	measure := func(kvs ...attribute.KeyValue) string {
		op := &Operation{StartKtimeNs: 1e9, EndKtimeNs: 3e9, Attributes: kvs}
		d.Measure(op)
		m := op.Measurements[0]
		return fmt.Sprint(m.Instrument.Name, " ", m.Value, " ", m.Attributes.Encoded(attribute.DefaultEncoder()))
	}
	a, b, c := attribute.String("a", "1"), attribute.Int("b", 2), attribute.String("c", "3")
	for _, tt := range []struct {
		got, want string
	}{
		{measure(c, b, a), "x 2 a=1,b=2"},
		{measure(a, b), "x 2 a=1,b=2"},
		{measure(c), "x 2 "},
		{measure(attribute.String("a", "1\x01\x012")), "x 2 a=1\x01\x012"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
	for n := range 3 * maxDurationSets {
		measure(attribute.Int("b", n))
	}
	if len(d.sets) > maxDurationSets {
		t.Errorf("%d sets are kept", len(d.sets))
	}
	op := &Operation{StartKtimeNs: 2, EndKtimeNs: 1}
	if d.Measure(op); op.Measurements[0].Value != 0 {
		t.Errorf("a negative duration: %v", op.Measurements[0].Value)
	}
}
