package websocket

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"unsafe"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const headLen = int(unsafe.Offsetof(bpfWsEvent{}.Tail))

// The conventions have no attributes for WebSocket connections.
const (
	keyMessagesReceived = attribute.Key("websocket.messages.received")
	keyMessagesSent     = attribute.Key("websocket.messages.sent")
	keyBytesReceived    = attribute.Key("websocket.bytes.received")
	keyBytesSent        = attribute.Key("websocket.bytes.sent")
	keyCloseCode        = attribute.Key("websocket.close.code")
)

// decoder's state is when it asked for an executable's point that sees connections end.
type decoder struct {
	env   probe.DecoderEnv
	asked probe.Asking
}

// taken has the ends of connections looked at, once there is one that no library shows.
func (d *decoder) taken(rec event.Record) error {
	call, _, _, err := probe.ParseCall(rec.Raw, probe.CallLen)
	if err != nil {
		return err
	}
	if d.asked.Due(rec.ExeID, call.StartNs) {
		d.env.SetPoint(rec.ExeID, true, pointTakenEnd)
	}
	return nil
}

// forgotten says of a connection whose end will not be seen, because its program has ended
// or is no longer watched, that it is not open any more.
func forgotten(value []byte) *telemetry.Operation {
	if len(value) < probe.CallLen {
		return nil
	}
	raw := slices.Clone(value[:probe.CallLen])
	binary.NativeEndian.PutUint32(raw[4:], uint32(len(raw))) // the header's length is set when a record is sent
	rec, err := event.Parse(raw)
	if err != nil {
		return nil
	}
	call, _, _, err := probe.ParseCall(rec.Raw, probe.CallLen)
	if err != nil {
		return nil
	}
	op := call.Operation(rec, "websocket")
	op.MetricsOnly, op.TakesBack = true, true
	op.Measurements = ended(call.Flags, 0)
	return op
}

// Decode implements probe.Decoder.
func (d *decoder) Decode(rec event.Record, emit func(*telemetry.Operation)) error {
	switch bpfWsType(rec.Type) {
	case bpfWsTypeWS_CONN:
	case bpfWsTypeWS_OPEN:
		call, _, _, err := probe.ParseCall(rec.Raw, probe.CallLen)
		if err != nil {
			return err
		}
		op := call.Operation(rec, "websocket")
		op.MetricsOnly = true // its span comes when it is closed
		op.Measurements = begun(call.Flags)
		emit(op)
		return nil
	case bpfWsTypeWS_TAKEN:
		return d.taken(rec)
	default:
		return fmt.Errorf("%w: type %d", probe.ErrRecord, rec.Type)
	}
	call, own, _, err := probe.ParseCall(rec.Raw, headLen)
	if err != nil {
		return err
	}
	ne := binary.NativeEndian
	op := call.Operation(rec, "websocket")
	op.Name = "websocket"
	client := call.Flags&uint32(bpfWsFlagWS_CLIENT) != 0
	if !client {
		op.Kind = trace.SpanKindInternal // the request that was upgraded is the server's span
	}
	count := func(at int) int64 { return int64(ne.Uint64(own[at:]) & (1<<63 - 1)) }
	a := []attribute.KeyValue{semconv.NetworkProtocolName("websocket"), keyBytesReceived.Int64(count(8)), keyBytesSent.Int64(count(24))}
	if call.Flags&uint32(bpfWsFlagWS_RAW) == 0 {
		a = append(a, keyMessagesReceived.Int64(count(0)), keyMessagesSent.Int64(count(16)))
	}
	code := ne.Uint32(own[32:])
	op.Measurements = ended(call.Flags, code)
	op.MetricsOnly = call.Flags&uint32(bpfWsFlagWS_UNSEEN) != 0
	if code != 0 {
		a = append(a, keyCloseCode.Int64(int64(code)))
	}
	if port := ne.Uint32(own[36:]); port != 0 {
		ip := netip.AddrFrom16([16]byte(own[40:])).Unmap().String()
		a = append(a, semconv.NetworkPeerAddress(ip), semconv.NetworkPeerPort(int(port)))
		if client {
			a = append(a, semconv.ServerAddress(ip), semconv.ServerPort(int(port)))
		}
	}
	op.Attributes = a
	emit(op)
	return nil
}
