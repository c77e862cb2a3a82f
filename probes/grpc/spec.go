package grpc

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"structs"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// ID marks this probe's records.
const ID probe.ID = 30

//go:embed offsets.json
var offsetsJSON []byte

// Point groups.
const (
	groupServer = "grpc-server"
	groupClient = "grpc-client"
	groupWrite  = "grpc-write"
)

// Config is what a user may set.
type Config struct {
	// Join links client and server spans by connection and stream.
	Join bool
	// StatusMessages makes a failed RPC's status message the span's description. The
	// message is the program's own words and may hold anything.
	StatusMessages bool
}

// New returns the probe.
func New(cfg Config) *probe.Spec {
	return &probe.Spec{
		ID:     ID,
		Name:   "grpc",
		Doc:    "google.golang.org/grpc servers and clients, unary and streams",
		Points: points(),
		Groups: groups(),
		Fields: allFields(),
		Table:  func() (*offsets.Table, error) { return offsets.Parse(offsetsJSON) },
		Load:   loadBpf,
		InFlight: []probe.InFlight{{Map: "gr_server"}, {Map: "gr_calls", MaxAge: probe.CallMaxAge}, {Map: "gr_streams"},
			{Map: "gr_writes", MaxAge: probe.NoteMaxAge, Note: true}},
		Prepare: func(cs *ebpf.CollectionSpec) error {
			rules, lens := metadataRules()
			if err := cs.Variables["cfg_hdrs"].Set(rules); err != nil {
				return fmt.Errorf("set cfg_hdrs: %w", err)
			}
			if err := cs.Variables["cfg_hdr_lens"].Set(lens); err != nil {
				return fmt.Errorf("set cfg_hdr_lens: %w", err)
			}
			return nil
		},
		Counters: &probe.Counters{
			Map: "gr_props", Metric: "tracer_agent_grpc_propagation_total",
			Help: "Attempts to hand the trace of an RPC on to its server, by mode and what became of them.",
			Labels: [][2]string{
				{"join", "announced"}, {"join", "unknown_connection"}, {"join", "joined"},
				{"memory", "written"}, {"memory", "own_header_kept"}, {"memory", "absence_not_proven"},
				{"memory", "no_room"}, {"memory", "unknown_buffer"}, {"memory", "write_failed"},
			},
		},
		Propagation: func(p *probe.Placed) *probe.Propagation { return handsOn(p, cfg.Join && canJoin(p)) },
		AttachExe:   func(c *ebpf.Collection, p *probe.Placed) error { return attachExe(c, p, cfg.Join) },
		NewDecoder:  func(env probe.DecoderEnv) probe.Decoder { return newDecoder(env, cfg) },
	}
}

func canJoin(p *probe.Placed) bool { return need(p, joinFields()) == nil }

// handsOn says whether calls are written into.
func handsOn(p *probe.Placed, joined bool) *probe.Propagation {
	out := &probe.Propagation{Joined: joined}
	if p.Groups[groupWrite] {
		out.Written = []string{"gRPC"}
	} else if err := p.Refused[groupWrite]; err != nil {
		out.Refused = []error{fmt.Errorf("gRPC: %w", err)}
	}
	return out
}

func checkWrite(p *probe.Placed) error {
	if !hasPoint(p, "grpc_client_stream") {
		return errors.New("streams of calls are not seen")
	}
	for _, either := range [][2]goexe.Field{{clientFrame, frameFields}, {writerHandle, writerBuf}} {
		if p.Offset(either[0]) == probe.OffNone && p.Offset(either[1]) == probe.OffNone {
			return need(p, either[1:])
		}
	}
	return need(p, writeFields())
}

func groups() []probe.Group {
	return []probe.Group{
		{Name: groupServer, What: "gRPC served",
			Check: func(p *probe.Placed) error {
				if err := need(p, serverFields()); err != nil {
					return err
				}
				if either(p, serverPeer, serverRemote) == probe.OffNone {
					return need(p, []goexe.Field{serverPeer})
				}
				return nil
			}},
		{Name: groupClient, What: "gRPC calls",
			Check: func(p *probe.Placed) error {
				if err := need(p, clientFields()); err != nil {
					return err
				}
				if either(p, clientCt, streamCt) == probe.OffNone {
					return need(p, []goexe.Field{clientCt})
				}
				return nil
			}},
		{Name: groupWrite, What: "traceparent written into gRPC calls", Check: checkWrite},
	}
}

// points lists starts before ends: the manager attaches from the last to the first.
func points() []probe.Point {
	const (
		g = module + "."
		t = transport + "(*"
		l = t + "loopyWriter)."
	)
	originate := []string{l + "originateStream", l + "clientHeaderHandler"}
	entry := func(args int, funcs ...string) probe.Site {
		return probe.Site{Kind: probe.Entry, Funcs: funcs, Args: args}
	}
	failed := func(results int, callee string, funcs ...string) probe.Site {
		return probe.Site{Kind: probe.OnError, Funcs: funcs, Callees: []string{callee}, Results: results}
	}
	return []probe.Point{
		{Name: "grpc_server_start", Program: "gr_handle", Group: groupServer, Site: entry(4, g+"(*Server).handleStream")},
		{Name: "grpc_server_end", Program: "gr_status", Group: groupServer,
			Site: entry(3, t+"http2Server).writeStatus", t+"http2Server).WriteStatus")},
		{Name: "grpc_server_end_http", Program: "gr_status", Group: groupServer, Optional: true,
			Site: entry(3, t+"serverHandlerTransport).writeStatus", t+"serverHandlerTransport).WriteStatus"),
			Lost: "RPCs served over net/http's server"},
		{Name: "grpc_unsent", Program: "gr_unsent", Group: groupServer, Optional: true,
			Site: failed(2, g+"(*Server).sendResponse", g+"(*Server).processUnaryRPC"),
			Lost: "RPCs whose connection breaks while the response is sent"},
		{Name: "grpc_panic", Program: "gr_panic", Group: groupServer, Optional: true,
			Site: entry(0, "runtime.gopanic"), Lost: "type and message of panics"},
		{Name: "grpc_fatal", Program: "gr_fatal", Group: groupServer, Optional: true,
			Site: entry(0, "runtime.fatalpanic"), Lost: "RPCs whose handler's panic ends the program"},
		{Name: "grpc_goexit", Program: "gr_goexit", Group: groupServer, Optional: true,
			Site: entry(0, "runtime.Goexit"), Lost: "RPCs whose handler calls runtime.Goexit"},

		{Name: "grpc_client_start", Program: "gr_call", Group: groupClient, Site: entry(6, g+"newClientStream")},
		{Name: "grpc_client_stream", Program: "gr_stream", Group: groupClient, Optional: true,
			Site: probe.Site{Kind: probe.Entry, Funcs: []string{t + "http2Client).NewStream"}, Callees: []string{"runtime.selectnbsend"}},
			Lost: "streaming calls, the peer's address, joining of calls with their server"},
		{Name: "grpc_client_end", Program: "gr_finish", Group: groupClient,
			Site: probe.Site{Kind: probe.CallSite, Funcs: []string{g + "(*clientStream).finish"}, Callees: []string{g + "(*csAttempt).finish"}}},
		{Name: "grpc_no_call", Program: "gr_no_call", Group: groupClient, Optional: true,
			Site: failed(4, g+"newClientStream", g+"invoke"), Lost: "calls that fail before anything is sent"},
		{Name: "grpc_no_stream", Program: "gr_no_stream", Group: groupClient, Optional: true,
			Site: failed(2, g+"(*clientStream).withRetry", g+"newClientStreamWithParams"), Lost: "streams that could not be opened"},
		// Up to 1.45; later withRetry makes the first attempt, too.
		{Name: "grpc_no_attempt", Program: "gr_no_attempt", Group: groupClient, Optional: true,
			Site: failed(2, g+"(*clientStream).newAttemptLocked", g+"newClientStreamWithParams"), Lost: "calls without a connection"},
		{Name: "grpc_no_addrs", Program: "gr_no_addrs", Group: groupClient, Optional: true,
			Site: failed(3, g+"(*ClientConn).waitForResolvedAddrs", g+"newClientStream"),
			Lost: "streams that wait for name resolution in vain"},

		// Of the two functions a version has one. The second point is where the results of
		// the first one's call are looked at.
		{Name: "grpc_write_header", Program: "gr_encode", Group: groupWrite, Writes: true,
			Site: probe.Site{Kind: probe.CallSite, Funcs: originate, Callees: []string{l + "writeHeader"}}},
		{Name: "grpc_written_header", Program: "gr_write", Group: groupWrite, Writes: true,
			Site: probe.Site{Kind: probe.AfterCall, Funcs: originate, Callees: []string{l + "writeHeader"}, Results: 2}},
	}
}

// hdrRule mirrors struct hdr_rule in bpf/lib/headers.h.
type hdrRule struct {
	Word         [3]uint64
	Slot, Wanted uint32
}

// metadataRules builds cfg_hdrs and cfg_hdr_lens: which metadata is looked for, by length
// of its key.
func metadataRules() (table [64][4]hdrRule, lens uint64) {
	for _, m := range []struct {
		key  string
		slot bpfGrStr
	}{
		// headers.h looks for a traceparent of any letter case under this name
		{":authority", bpfGrStrS_TARGET}, {"Traceparent", bpfGrStrS_TRACEPARENT}, {"tracestate", bpfGrStrS_TRACESTATE},
	} {
		row := &table[len(m.key)]
		i := 0
		for row[i].Wanted != 0 {
			i++
		}
		var b [24]byte
		copy(b[:], m.key)
		for j := range row[i].Word {
			row[i].Word[j] = binary.NativeEndian.Uint64(b[8*j:])
		}
		row[i].Slot, row[i].Wanted = uint32(m.slot), 1
		lens |= 1 << len(m.key)
	}
	return table, lens
}

// The types that the programs know by name, as they are stored.
const (
	typeMDKey   = "*metadata.mdIncomingKey"
	typeError   = "*status.Error"
	typeServer  = "*transport.http2Server"
	typeAddr    = "*net.TCPAddr"
	typeValue   = "*context.valueCtx"
	typeTCPConn = "*net.TCPConn"
	typeTLSConn = "*tls.Conn"
	typeWrapped = "*credentials.syscallConn" // what grpc's TLS credentials make of a connection
)

// attachExe writes struct gr_exe.
func attachExe(c *ebpf.Collection, p *probe.Placed, join bool) error {
	o := p.Offset
	v := &bpfGrExe{
		ServerPtr: flag(o(serverSt) == 8), ClientPtr: flag(o(clientCt) == 8),
		Join: flag(join && canJoin(p)),
		StId: o(streamID), StMethod: o(streamMethod), StCtx: o(streamCtx),
		ClientCt: either(p, clientCt, streamCt),
		SrvConn:  o(serverConn), SrvAddr: either(p, serverPeer, serverRemote),
		CliConn: o(clientConn), CliNext: o(clientNext),
		CsHdr: o(callHdr), CsCtx: o(callCtx), AttemptCs: o(attemptCs), HdrMethod: o(hdrMethod), CcTarget: o(connTarget),
		StatusS: o(statusProto),
		Inject:  flag(p.Groups[groupWrite]),
		Hf:      either(p, clientFrame, frameFields), CliMax: o(clientMax),
		LoopyFramer: o(loopyFramer), FramerWriter: o(framerWriter),
		BwBuf: either(p, writerHandle, writerBuf), BwHandle: flag(o(writerHandle) != probe.OffNone),
		BwOffset: o(writerN), BwBatch: o(writerBatch), BwErr: o(writerErr),
	}
	v.Streams = flag(hasPoint(p, "grpc_client_stream"))
	v.Net.TlsConn, v.Net.ConnFd = o(probe.Std("crypto/tls.Conn", "conn")), o(probe.Std("net.conn", "fd"))
	if canJoin(p) {
		v.Net.FdSysfd = o(probe.Std("net.netFD", "pfd")) + o(probe.Std("internal/poll.FD", "Sysfd"))
	}
	names, err := p.Exe.TypeNameOffsets([]string{typeMDKey, typeError, typeServer, typeAddr, typeValue, typeTCPConn, typeTLSConn, typeWrapped})
	if err != nil {
		names = nil // no metadata, no status of clients, no joining then
	}
	v.MdName = probe.OnlyName(names[typeMDKey])
	if o(errorStatus) == 0 {
		v.ErrName = probe.OnlyName(names[typeError])
	}
	v.H2Name, v.AddrName = probe.OnlyName(names[typeServer]), probe.OnlyName(names[typeAddr])
	v.ValueName = probe.OnlyName(names[typeValue])
	v.Net.WrapName = probe.OnlyName(names[typeWrapped])
	if canJoin(p) {
		v.Net.TcpName, v.Net.TlsName = probe.OnlyName(names[typeTCPConn]), probe.OnlyName(names[typeTLSConn])
	}
	setLocs(v.Unsent[:], p.Points["grpc_unsent"])
	setLocs(v.NoCall[:], p.Points["grpc_no_call"])
	setLocs(v.NoStream[:], p.Points["grpc_no_stream"])
	setLocs(v.NoAttempt[:], p.Points["grpc_no_attempt"])
	addrs := p.Points["grpc_no_addrs"]
	if o(callDelay) == probe.OffNone && len(addrs.Results) > 0 {
		addrs.Results = addrs.Results[:2] // of an older version, which returns the error alone
	}
	setLocs(v.NoAddrs[:], addrs)
	return probe.PutExe(c.Maps["gr_exes"], p.ExeID, v)
}

func hasPoint(p *probe.Placed, name string) bool {
	_, ok := p.Points[name]
	return ok
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// loc mirrors struct go_loc.
type loc = struct {
	_     structs.HostLayout
	Off   int32
	Stack uint8
	Reg   uint8
	Pad   uint16
}

// setLocs takes the last words of the results, which are the error.
func setLocs(dst []loc, at goexe.Point) {
	if len(at.Results) < len(dst) {
		return
	}
	for i, r := range at.Results[len(at.Results)-len(dst):] {
		dst[i].Off, dst[i].Reg, dst[i].Stack = r.Off, r.Reg, flag(r.Stack)
	}
}
