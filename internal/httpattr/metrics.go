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

// sizeBounds are the boundaries of body sizes, in bytes.
var sizeBounds = []float64{0, 100, 1e3, 1e4, 1e5, 1e6, 1e7}

// Sizes of bodies, of servers and clients.
var (
	ServerRequestSize = &telemetry.Instrument{
		Name: "http.server.request.body.size", Unit: "By", Kind: telemetry.Histogram,
		Description: "Size of HTTP server request bodies.", Bounds: sizeBounds,
	}
	ServerResponseSize = &telemetry.Instrument{
		Name: "http.server.response.body.size", Unit: "By", Kind: telemetry.Histogram,
		Description: "Size of HTTP server response bodies.", Bounds: sizeBounds,
	}
	ClientRequestSize = &telemetry.Instrument{
		Name: "http.client.request.body.size", Unit: "By", Kind: telemetry.Histogram,
		Description: "Size of HTTP client request bodies.", Bounds: sizeBounds,
	}
	ClientResponseSize = &telemetry.Instrument{
		Name: "http.client.response.body.size", Unit: "By", Kind: telemetry.Histogram,
		Description: "Size of HTTP client response bodies.", Bounds: sizeBounds,
	}
)

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
