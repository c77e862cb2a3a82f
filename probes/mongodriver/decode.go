package mongodriver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/goerror"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
	"github.com/tracer-agent/tracer-agent/probes/wire/mongo"
)

// headLen is where a record's tail begins.
const headLen = int(unsafe.Offsetof(bpfMongoEvent{}.Tail))

// record is what is between a record's head and its tail: struct mongo_event.
type record struct {
	probe.Call
	errs                            []byte
	sent, got                       int32
	pool                            uint64
	waits                           uint32
	waited                          time.Duration
	addr, request, end, reply, text []byte
}

// decoder turns records into operations.
type decoder struct {
	env    probe.DecoderEnv
	cfg    Config
	parser *mongo.Parser
	peers  map[string]peer
	attrs  attrs // of the command in work
	// When what is compressed, or was, was asked for.
	packs, unpacks probe.Asking
	spares         [len(drivers)]probe.Asking // when what is not needed was to be taken off

	duration *telemetry.DurationOf
}

func newDecoder(env probe.DecoderEnv, cfg Config) *decoder {
	return &decoder{
		env: env, cfg: cfg, parser: mongo.NewParser(cfg.QueryText), peers: map[string]peer{}, packs: probe.Asking{}, unpacks: probe.Asking{},
		spares:   [len(drivers)]probe.Asking{{}, {}},
		duration: probe.NewDBDuration(),
	}
}

// Decode implements probe.Decoder.
func (d *decoder) Decode(rec event.Record, emit func(*telemetry.Operation)) error {
	switch rec.Type {
	case probe.TypeUnsane:
		check, err := probe.ParseUnsane(rec.Raw)
		if err != nil {
			return err
		}
		d.env.Refuse(rec.ExeID, probe.UnsaneReason(check, map[uint32]string{
			uint32(bpfMgCheckCHECK_MESSAGE): "a message of the wire protocol, among the arguments of (*connection).write,",
			uint32(bpfMgCheckCHECK_ADDRESS): "topology.connection.addr",
		}))
		return nil
	case uint8(bpfMongoEventTypeMG_COMMAND):
		r, err := parseRecord(rec.Raw)
		if err != nil {
			return err
		}
		return d.command(rec, &r, emit)
	}
	return fmt.Errorf("%w: type %d", probe.ErrRecord, rec.Type)
}

func parseRecord(raw []byte) (record, error) {
	c, own, tail, err := probe.ParseCall(raw, headLen)
	if err != nil {
		return record{}, err
	}
	r := record{Call: c}
	ne, b := binary.NativeEndian, own
	r.got, r.sent = int32(ne.Uint32(b[4:])), int32(ne.Uint32(b[48:]))
	r.pool, r.waited, r.waits = ne.Uint64(b[24:]), time.Duration(ne.Uint64(b[32:])), ne.Uint32(b[40:])
	str := func(at int) []byte { return probe.Str(tail, ne.Uint16(b[at:]), ne.Uint16(b[at+2:])) }
	r.reply, r.text, r.errs, r.addr, r.request, r.end = str(8), str(12), str(16), str(20), str(52), str(56)
	return r, nil
}

// askPlain has commands looked at before they are compressed.
func (d *decoder) askPlain(exeID uint32, nowNs uint64) {
	if d.packs.Due(exeID, nowNs) {
		d.env.SetPoint(exeID, true, drivers[0].pack(), drivers[1].pack())
	}
}

// askUnpacked has replies looked at after they have been decompressed.
func (d *decoder) askUnpacked(exeID uint32, nowNs uint64) {
	if d.unpacks.Due(exeID, nowNs) {
		for _, v := range drivers {
			d.env.SetPoint(exeID, true, v.decode()...)
		}
	}
}

// spare takes off what ended a command whose end has been seen at decodeResult: nothing but
// that ends there.
func (d *decoder) spare(exeID, flags uint32, nowNs uint64) {
	for i, v := range drivers {
		if flags&(uint32(bpfMgFlagF_SPARE_V1)<<i) != 0 && d.spares[i].Due(exeID, nowNs) {
			d.env.SetPoint(exeID, false, v.read())
		}
	}
}

// command emits what is known also when the command or its reply cannot be read (the
// beginning of a zstd block, say): that it was made and how long it took.
func (d *decoder) command(rec event.Record, r *record, emit func(*telemetry.Operation)) error {
	req, reqErr := d.parser.Request(r.request, r.end)
	var replyErr error
	if errors.Is(reqErr, mongo.ErrCut) || reqErr == nil && req.Compressed() && req.Uncounted() {
		d.askPlain(rec.ExeID, r.EndNs)
	}
	if reqErr != nil {
		req = mongo.Request{Command: mongo.Other, Documents: -1}
	}
	d.pool(rec, r)
	d.spare(rec.ExeID, r.Flags, r.EndNs)
	if req.Monitoring() {
		return nil
	}
	if req.Documents < 0 {
		req.Documents = int(r.sent)
	}
	op := r.Operation(rec, Name)
	a := d.request(op, &req, r)
	switch {
	case r.Flags&uint32(bpfMgFlagF_FAILED) != 0:
		var info goerror.Info
		if len(r.errs) == probe.ErrsLen {
			info = d.env.ErrorInfo(rec.ExeID, r.errs, r.text)
		}
		a.network(&info)
	case len(r.reply) > 0:
		var reply mongo.Reply
		reply, replyErr = d.parser.ReplyTo(r.reply, req.Command)
		if errors.Is(replyErr, mongo.ErrCut) || replyErr == nil && reply.Compressed() && reply.Uncounted {
			d.askUnpacked(rec.ExeID, r.EndNs)
		}
		if replyErr != nil {
			break
		}
		if reqErr == nil && r.Flags&uint32(bpfMgFlagF_NO_HEADER) == 0 && reply.ResponseTo != req.RequestID {
			break // the driver takes it for its reply, but it answers another command
		}
		if reply.Returned < 0 && req.Command != "bulkWrite" { // its rows are no documents
			reply.Returned = int(r.got)
		}
		a.reply(&reply, d.cfg.QueryText == mongo.TextFull)
	}
	op.Attributes = a.list
	d.duration.Measure(op)
	emit(op)
	return errors.Join(reqErr, replyErr)
}
