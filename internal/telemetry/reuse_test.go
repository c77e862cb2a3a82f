package telemetry

import (
	"testing"

	"go.opentelemetry.io/otel/attribute"
)

func TestRelease(t *testing.T) {
	fill := func(op *Operation) *Operation {
		op.Name = "GET /"
		op.Attributes = append(op.Attributes[:0], attribute.String("a", "secret"))
		return op
	}
	op := fill(NewOperation())
	op.Share(2)
	op.Release()
	if op.Name == "" {
		t.Error("an operation was taken from its second holder")
	}
	attrs := op.Attributes
	op.Release()
	if op.Name != "" || len(op.Attributes) != 0 || attrs[0].Key != "" {
		t.Errorf("what was released still holds %+v, %v", op, attrs)
	}
	own := fill(&Operation{})
	own.Share(1)
	own.Release()
	if own.Name == "" {
		t.Error("an operation that does not come from NewOperation was taken")
	}
	kept := fill(NewOperation())
	kept.Release() // nobody shared it
	if kept.Name == "" {
		t.Error("an operation was taken that was not shared")
	}
}
