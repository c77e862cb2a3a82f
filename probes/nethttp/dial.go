package nethttp

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Not in the semantic conventions.
const (
	keyReused       = attribute.Key("http.connection.reused")
	keyDuration     = attribute.Key("duration") // seconds
	eventDial       = "http.dial"
	eventHandshake  = "tls.handshake"
	maxEventSeconds = 24 * 3600
)

// connection says whether the call's connection was there before, and of a new one that
// was made for this call how long that took.
func (d *decoder) connection(op *telemetry.Operation, a []attribute.KeyValue) []attribute.KeyValue {
	e := &d.ev
	if !d.has(bpfNhFlagF_GOT_CONN) {
		return a
	}
	fresh := d.has(bpfNhFlagF_NEW_CONN)
	// One that another call had begun to make, and did not take, was not waited for.
	if at := e.Dial.StartNs; fresh && at >= e.StartNs && at <= e.EndNs {
		op.Events = dialEvent(op.Events, eventDial, at, e.Dial.DialUs)
		op.Events = dialEvent(op.Events, eventHandshake, at+uint64(e.Dial.TlsAtUs)*1000, e.Dial.TlsUs)
	}
	return append(a, keyReused.Bool(!fresh))
}

func dialEvent(events []telemetry.Event, name string, at uint64, us uint32) []telemetry.Event {
	seconds := (time.Duration(us) * time.Microsecond).Seconds()
	if us == 0 || seconds > maxEventSeconds {
		return events
	}
	return append(events, telemetry.Event{Name: name, KtimeNs: at, Attributes: []attribute.KeyValue{keyDuration.Float64(seconds)}})
}
