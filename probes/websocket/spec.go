package websocket

import (
	_ "embed"
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// ID marks this probe's records.
const ID probe.ID = 21

//go:embed offsets.json
var offsetsJSON []byte

//go:embed net.json
var netJSON []byte

const (
	gorilla = "github.com/gorilla/websocket"
	coder   = "github.com/coder/websocket"
	nhooyr  = "nhooyr.io/websocket"

	groupTaken    = "upgraded"
	pointTakenEnd = "upgraded_end"
)

// New returns the probe.
func New() *probe.Spec {
	return &probe.Spec{
		ID:         ID,
		Name:       "websocket",
		Doc:        "WebSocket connections of gorilla/websocket and coder/websocket, server and client, and others that a server takes over",
		Points:     points(),
		Groups:     groups(),
		Fields:     append(netFields(), takenFields()...),
		Table:      func() (*offsets.Table, error) { return offsets.Parse(netJSON) },
		Load:       loadBpf,
		InFlight:   []probe.InFlight{{Map: "ws_conns", Ended: forgotten}, {Map: "ws_fds"}},
		Counters:   counters(),
		AttachExe:  attachExe,
		NewDecoder: func(env probe.DecoderEnv) probe.Decoder { return &decoder{env: env, asked: probe.Asking{}} },
		Prepare: func(cs *ebpf.CollectionSpec) error {
			if err := cs.Variables["cfg_hdrs"].Set(upgradeRule()); err != nil {
				return fmt.Errorf("set cfg_hdrs: %w", err)
			}
			return nil
		},
	}
}

// library is one WebSocket library: what it is called, and what is read of it.
type library struct {
	module string
	fields []goexe.Field
}

func libraries() []library {
	field := func(module, typ, name string) goexe.Field {
		return goexe.Field{Module: module, Type: module + "." + typ, Name: name}
	}
	libs := []library{{gorilla, []goexe.Field{
		field(gorilla, "Conn", "conn"), field(gorilla, "Conn", "readLength"), field(gorilla, "Conn", "reader")}}}
	for _, m := range []string{coder, nhooyr} {
		libs = append(libs, library{m, []goexe.Field{
			field(m, "Conn", "rwc"), field(m, "msgReader", "c"), field(m, "header", "payloadLength")}})
	}
	return libs
}

// groups has one group per library: an unknown release of one costs that one's.
func groups() []probe.Group {
	var gs []probe.Group
	for _, l := range libraries() {
		gs = append(gs, probe.Group{Name: l.module, What: "connections of " + l.module,
			Check: func(p *probe.Placed) error { return check(p, l) }})
	}
	return append(gs, probe.Group{Name: groupTaken, What: "WebSocket connections of other libraries",
		Check: func(p *probe.Placed) error { return p.Need(append(netFields(), takenFields()...), "") }})
}

func check(p *probe.Placed, l library) error {
	t, err := offsets.Parse(offsetsJSON)
	if err != nil {
		return err
	}
	found, _, err := p.Exe.Offsets(l.fields, t)
	if err != nil {
		return fmt.Errorf("%w: %w", probe.ErrRefused, err)
	}
	for f, off := range found {
		p.Offsets[f] = off
	}
	return p.Need(append(netFields(), l.fields...), "")
}

func points() []probe.Point {
	entry := func(fn string) probe.Site { return probe.Site{Kind: probe.Entry, Funcs: []string{fn}} }
	begins := func(module, fn string) probe.Site {
		return probe.Site{Kind: probe.AfterCall, Funcs: []string{module + "." + fn}, Callees: []string{module + ".newConn"}, Results: 1}
	}
	pts := []probe.Point{
		{Name: "gorilla_server", Program: "ws_g_server", Group: gorilla, Optional: true,
			Site: begins(gorilla, "(*Upgrader).Upgrade"), Lost: "connections that are accepted"},
		{Name: "gorilla_client", Program: "ws_g_client", Group: gorilla, Optional: true,
			Site: begins(gorilla, "(*Dialer).DialContext"), Lost: "connections that are dialled"},
		{Name: "gorilla_read", Program: "ws_g_read", Group: gorilla, Site: entry(gorilla + ".(*Conn).NextReader")},
		{Name: "gorilla_write", Program: "ws_g_write", Group: gorilla, Optional: true,
			Site: entry(gorilla + ".(*Conn).write"), Lost: "messages sent"},
		{Name: "gorilla_control", Program: "ws_g_control", Group: gorilla, Optional: true,
			Site: entry(gorilla + ".(*Conn).WriteControl"), Lost: "close codes"},
		{Name: "gorilla_end", Program: "ws_fd_close", Group: gorilla, Site: entry("net.(*netFD).Close")},
		{Name: "upgraded", Program: "ws_taken", Group: groupTaken, Site: entry("net/http.(*response).Hijack")},
		{Name: pointTakenEnd, Program: "ws_fd_close", Group: groupTaken, Lazy: true, Site: entry("net.(*netFD).Close")},
	}
	for module, prog := range map[string]string{coder: "c", nhooyr: "n"} {
		name := map[string]string{coder: "coder", nhooyr: "nhooyr"}[module]
		pts = append(pts,
			probe.Point{Name: name + "_server", Program: "ws_" + prog + "_server", Group: module, Optional: true,
				Site: begins(module, "accept"), Lost: "connections that are accepted"},
			probe.Point{Name: name + "_client", Program: "ws_" + prog + "_client", Group: module, Optional: true,
				Site: begins(module, "dial"), Lost: "connections that are dialled"},
			// The frame is on the stack, where a later instruction than the entry's would not find it.
			probe.Point{Name: name + "_read", Program: "ws_" + prog + "_read", Group: module, Optional: true, MinGo: 21,
				Site: entry(module + ".(*msgReader).reset"), Lost: "messages received"},
			probe.Point{Name: name + "_write", Program: "ws_c_write", Group: module, Optional: true,
				Site: entry(module + ".(*Conn).writeFrame"), Lost: "messages sent"},
			probe.Point{Name: name + "_end", Program: "ws_c_close", Group: module, Site: entry(module + ".(*Conn).close")},
		)
	}
	return pts
}

// counters describes ws_counts, by enum ws_count.
func counters() *probe.Counters {
	c := &probe.Counters{
		Map: "ws_counts", Metric: "tracer_agent_websocket_total",
		Help: "WebSocket connections opened and closed, and messages and bytes of those that are closed, by side.",
	}
	for _, what := range []string{"connected", "closed", "messages_received", "messages_sent", "bytes_received", "bytes_sent"} {
		c.Labels = append(c.Labels, [2]string{"server", what}, [2]string{"client", what})
	}
	return c
}

// netFields lead from a net.Conn to its socket.
func netFields() []goexe.Field {
	return []goexe.Field{probe.Std("crypto/tls.Conn", "conn"), probe.Std("net.conn", "fd"), probe.Std("net.netFD", "pfd"), probe.Std("internal/poll.FD", "Sysfd")}
}

// takenFields lead from a net/http response to its request and its connection.
func takenFields() []goexe.Field {
	return []goexe.Field{probe.Std("net/http.response", "conn"), probe.Std("net/http.response", "req"),
		probe.Std("net/http.Request", "Header"), probe.Std("net/http.conn", "rwc")}
}

// hdrRule mirrors struct hdr_rule in bpf/lib/headers.h.
type hdrRule struct {
	Word         [3]uint64
	Slot, Wanted uint32
}

// upgradeRule builds cfg_hdrs: the one header that is looked at, in slot 0.
func upgradeRule() (table [64][4]hdrRule) {
	const name = "Upgrade\x00"
	table[len(name)-1][0] = hdrRule{Word: [3]uint64{binary.NativeEndian.Uint64([]byte(name))}, Wanted: 1}
	return table
}

func attachExe(c *ebpf.Collection, p *probe.Placed) error {
	o := p.Offset
	v := &bpfWsExe{}
	for _, l := range libraries() {
		f := l.fields
		switch l.module {
		case gorilla:
			v.G_conn, v.G_readLength, v.G_reader = o(f[0]), o(f[1]), o(f[2])
		case coder:
			v.C_rwc, v.C_readerConn, v.C_payload = o(f[0]), o(f[1]), o(f[2])
		case nhooyr:
			v.N_rwc, v.N_readerConn, v.N_payload = o(f[0]), o(f[1]), o(f[2])
		}
	}
	for i, name := range []string{"gorilla_server", "gorilla_client", "coder_server", "coder_client", "nhooyr_server", "nhooyr_client"} {
		if at := p.Points[name]; len(at.Results) > 0 {
			r := at.Results[0]
			v.Begin[i].Off, v.Begin[i].Reg = r.Off, r.Reg
			if r.Stack {
				v.Begin[i].Stack = 1
			}
		}
	}
	if p.Groups[groupTaken] && !p.Groups[gorilla] && !p.Groups[coder] && !p.Groups[nhooyr] {
		v.Take = 1 // else a library's connections would be there twice
	}
	h := takenFields()
	v.ResConn, v.ResReq, v.ReqHeader, v.ConnRwc = o(h[0]), o(h[1]), o(h[2]), o(h[3])
	n := netFields()
	v.Conn.TlsConn, v.Conn.ConnFd, v.Conn.FdSysfd = o(n[0]), o(n[1]), o(n[2])+o(n[3])
	names, err := p.Exe.TypeNameOffsets([]string{"*net.TCPConn", "*tls.Conn"})
	if err != nil {
		return err
	}
	v.Conn.TcpName, v.Conn.TlsName = probe.OnlyName(names["*net.TCPConn"]), probe.OnlyName(names["*tls.Conn"])
	v.Rwc = v.Conn
	return probe.PutExe(c.Maps["ws_exes"], p.ExeID, v)
}
