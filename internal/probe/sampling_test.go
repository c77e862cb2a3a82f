package probe

import (
	"encoding/binary"
	"math"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// The bound must decide exactly as the SDK's ratio sampler does, or services with an
// SDK and services with the agent would keep different traces.
func TestRatioBoundAgreesWithTheSDK(t *testing.T) {
	for _, ratio := range []float64{0, 0.001, 0.1, 0.5, 0.999, 1} {
		sdk := sdktrace.TraceIDRatioBased(ratio)
		bound := Sampling{Root: Ratio, Ratio: ratio}.bound()
		for _, low := range []uint64{0, 1, 1 << 52, 1 << 60, 1 << 62, 1 << 63, math.MaxUint64, 0x19999999999999a0, 0xfae147ae147ae148} {
			var id trace.TraceID
			binary.BigEndian.PutUint64(id[8:], low)
			id[0] = 1
			want := sdk.ShouldSample(sdktrace.SamplingParameters{TraceID: id}).Decision == sdktrace.RecordAndSample
			if got := low>>1 < bound; got != want {
				t.Errorf("ratio %v, low half %#x: kept %v, the SDK says %v", ratio, low, got, want)
			}
		}
	}
}
