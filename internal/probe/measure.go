package probe

import (
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// dbDuration is what all probes of databases measure.
var dbDuration = &telemetry.Instrument{
	Name: "db.client.operation.duration", Unit: "s", Kind: telemetry.Histogram,
	Description: "Duration of database client operations.",
	Bounds:      []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10},
}

// NewDBDuration measures calls of a database, by what the semantic conventions say.
func NewDBDuration() *telemetry.DurationOf {
	return telemetry.NewDurationOf(dbDuration, semconv.DBSystemNameKey, semconv.DBOperationNameKey, semconv.DBNamespaceKey,
		semconv.DBCollectionNameKey, semconv.DBResponseStatusCodeKey, semconv.ErrorTypeKey, semconv.ServerAddressKey, semconv.ServerPortKey)
}
