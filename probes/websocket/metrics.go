package websocket

import (
	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// The conventions have no metrics for WebSocket connections. Rates are those of the
// counters.
var (
	connsActive = &telemetry.Instrument{Name: "websocket.connections.active", Unit: "{connection}", Kind: telemetry.UpDownCounter,
		Description: "Open WebSocket connections, by side; those from before the agent are not among them."}
	connsOpened = &telemetry.Instrument{Name: "websocket.connections.opened", Unit: "{connection}", Kind: telemetry.Counter,
		Description: "WebSocket connections opened, by side."}
	connsClosed = &telemetry.Instrument{Name: "websocket.connections.closed", Unit: "{connection}", Kind: telemetry.Counter,
		Description: "WebSocket connections closed, by side and close code."}
)

const keySide = attribute.Key("websocket.side")

func side(flags uint32) attribute.KeyValue {
	if flags&uint32(bpfWsFlagWS_CLIENT) != 0 {
		return keySide.String("client")
	}
	return keySide.String("server")
}

func begun(flags uint32) []telemetry.Measurement {
	set := attribute.NewSet(side(flags))
	return []telemetry.Measurement{
		{Instrument: connsActive, Value: 1, Attributes: set}, {Instrument: connsOpened, Value: 1, Attributes: set},
	}
}

// ended: the peer chooses the code, so that only those that RFC 6455 knows are kept.
func ended(flags, code uint32) []telemetry.Measurement {
	set := attribute.NewSet(side(flags))
	closed := set
	if code >= 1000 && code <= 1015 {
		closed = attribute.NewSet(side(flags), keyCloseCode.Int64(int64(code)))
	}
	return []telemetry.Measurement{
		{Instrument: connsActive, Value: -1, Attributes: set}, {Instrument: connsClosed, Value: 1, Attributes: closed},
	}
}
