package httpattr

import (
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// ServerDuration is what every library that serves HTTP measures.
var ServerDuration = &telemetry.Instrument{
	Name: "http.server.request.duration", Unit: "s", Kind: telemetry.Histogram,
	Description: "Duration of HTTP server requests.", Bounds: telemetry.DurationBounds,
	Scored: semconv.HTTPRouteKey,
}

// ServerActive is how many requests are being served.
var ServerActive = &telemetry.Instrument{
	Name: "http.server.active_requests", Unit: "{request}", Kind: telemetry.UpDownCounter,
	Description: "HTTP server requests that are being served.",
}

// NewServerDuration measures served requests by what the semantic conventions say.
func NewServerDuration() *telemetry.DurationOf {
	return telemetry.NewDurationOf(ServerDuration, semconv.HTTPRequestMethodKey, semconv.HTTPRouteKey,
		semconv.HTTPResponseStatusCodeKey, semconv.ErrorTypeKey, semconv.URLSchemeKey, semconv.NetworkProtocolVersionKey)
}
