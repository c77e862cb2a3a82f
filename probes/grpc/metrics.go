package grpc

import (
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// The metrics of this probe, for every RPC, sampled or not.
var (
	serverDuration = &telemetry.Instrument{
		Name: "rpc.server.call.duration", Unit: "s", Kind: telemetry.Histogram,
		Description: "Duration of incoming remote procedure calls.", Bounds: telemetry.DurationBounds,
		Scored: semconv.RPCMethodKey,
	}
	clientDuration = &telemetry.Instrument{
		Name: "rpc.client.call.duration", Unit: "s", Kind: telemetry.Histogram,
		Description: "Duration of outgoing remote procedure calls.", Bounds: telemetry.DurationBounds,
	}
)

func newDuration(i *telemetry.Instrument, more ...attribute.Key) *telemetry.DurationOf {
	return telemetry.NewDurationOf(i, append([]attribute.Key{semconv.RPCSystemNameKey, semconv.RPCMethodKey,
		semconv.RPCResponseStatusCodeKey, semconv.ErrorTypeKey}, more...)...)
}
