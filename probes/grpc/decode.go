package grpc

import (
	"errors"
	"fmt"
	"unsafe"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/goerror"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// ErrRecord says that a record does not have the shape of this probe's records.
var ErrRecord = errors.New("grpc: bad record")

const (
	headLen = int(unsafe.Offsetof(bpfGrpcEvent{}.Tail))
	tailLen = int(unsafe.Sizeof(bpfGrpcEvent{}.Tail))
)

// decoder turns records into operations. Its state is bounded: interned strings.
type decoder struct {
	env   probe.DecoderEnv
	cfg   Config
	call  probe.Call
	ev    bpfGrpcEvent
	names interned

	served, called *telemetry.DurationOf
}

func newDecoder(env probe.DecoderEnv, cfg Config) *decoder {
	return &decoder{
		env: env, cfg: cfg, names: interned{},
		served: newDuration(serverDuration), called: newDuration(clientDuration, semconv.ServerAddressKey, semconv.ServerPortKey),
	}
}

// Decode implements probe.Decoder.
func (d *decoder) Decode(rec event.Record, emit func(*telemetry.Operation)) error {
	if rec.Type == probe.TypeUnsane {
		check, err := probe.ParseUnsane(rec.Raw)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRecord, err)
		}
		d.env.Refuse(rec.ExeID, probe.UnsaneReason(check, checks))
		return nil
	}
	if err := d.load(rec.Raw); err != nil {
		return err
	}
	op := d.call.Operation(rec, "grpc")
	switch bpfGrpcEventType(rec.Type) {
	case bpfGrpcEventTypeGR_SERVER:
		op = d.server(op, rec.ExeID)
		d.served.Measure(op)
	case bpfGrpcEventTypeGR_CLIENT:
		op = d.client(op, rec.ExeID)
		d.called.Measure(op)
	default:
		return fmt.Errorf("%w: type %d", ErrRecord, rec.Type)
	}
	emit(op)
	return nil
}

var checks = map[uint32]string{
	uint32(bpfGrCheckCHECK_STREAM): "grpc's transport.Stream",
	uint32(bpfGrCheckCHECK_METHOD): "the method of an RPC",
	uint32(bpfGrCheckCHECK_TARGET): "grpc.ClientConn.target",
}

// load copies a record, whose tail is cut to what it holds, into d.ev.
func (d *decoder) load(raw []byte) error {
	if len(raw) < headLen || len(raw) > headLen+tailLen {
		return fmt.Errorf("%w: %d bytes", ErrRecord, len(raw))
	}
	var err error
	if d.call, _, _, err = probe.ParseCall(raw, headLen); err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&d.ev)), headLen+tailLen), raw)
	for i, s := range d.ev.Str {
		if int(s.Off)+int(s.Len) > int(d.call.TailLen) {
			return fmt.Errorf("%w: string %d ends at %d of %d bytes", ErrRecord, i, int(s.Off)+int(s.Len), d.call.TailLen)
		}
	}
	if int(d.ev.PeerIpLen) > len(d.ev.PeerIp) {
		return fmt.Errorf("%w: address of %d bytes", ErrRecord, d.ev.PeerIpLen)
	}
	return nil
}

func (d *decoder) bytes(i bpfGrStr) []byte {
	s := d.ev.Str[i]
	return d.ev.Tail[s.Off : int(s.Off)+int(s.Len)]
}

func (d *decoder) str(i bpfGrStr) string { return string(d.bytes(i)) }

// name is for strings of few distinct values: they are allocated once.
func (d *decoder) name(i bpfGrStr) string { return d.names.get(d.bytes(i)) }

func (d *decoder) has(f bpfGrFlag) bool { return d.call.Flags&uint32(f) != 0 }

// errorInfo resolves the error in the record.
func (d *decoder) errorInfo(exeID uint32) goerror.Info {
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&d.ev.Errs)), probe.ErrsLen)
	return d.env.ErrorInfo(exeID, raw, d.bytes(bpfGrStrS_MESSAGE))
}

// interned keeps one copy of each of a bounded number of strings.
type interned map[string]string

const maxInterned = 4096

func (m interned) get(b []byte) string {
	if s, ok := m[string(b)]; ok {
		return s
	}
	if len(m) >= maxInterned {
		clear(m)
	}
	s := string(b)
	m[s] = s
	return s
}
