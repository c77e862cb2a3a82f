package nethttp

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/httpattr"
	"github.com/tracer-agent/tracer-agent/internal/httpbody"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// ID marks this probe's records.
const ID probe.ID = 1

//go:embed offsets.json
var offsetsJSON []byte

// Point groups.
const (
	groupServer   = "server"
	groupClient   = "client"
	groupH2Server = "http2-server"
	groupH2Client = "http2-client"
	groupXServer  = "x-http2-server"
	groupXClient  = "x-http2-client"
	groupWrite    = "write"
	groupH2Write  = "http2-write"
	groupXWrite   = "x-http2-write"
	groupH2Reads  = "http2-bodies"
	groupXReads   = "x-http2-bodies"
)

// pointMux is attached only until it has shown that it is not needed: see decode.go.
const pointMux = "mux"

// Config is what a user may set.
type Config struct {
	// CaptureHeaders are further request headers to record, at most MaxCapture.
	CaptureHeaders []string
	// AnswerHeaders are response headers to record, at most MaxAnswers.
	AnswerHeaders []string
	// Join links client and server spans by connection.
	Join bool
	// Redact hides secret values in URLs.
	Redact Redactor
	// PeerName names the service at a host, "" if it has no name; may be nil.
	PeerName func(host string) string
	// CountFull: operations that are only counted are decoded like spans.
	CountFull bool
	// Bodies are the fields of JSON bodies that operations are to have.
	Bodies httpbody.Fields
	// Unseen counts an operation of which what is asked for, UnseenRequest and the like, is
	// never seen; may be nil.
	Unseen func(what string)
}

// Redactor hides secrets in URLs.
type Redactor interface {
	Query(raw string) string
	URL(raw string) string
	// Value redacts a value that is secret by its look.
	Value(v string) string
}

// New returns the probe.
func New(cfg Config) (*probe.Spec, error) {
	hdrs, err := wantedHeaders(cfg.CaptureHeaders)
	if err != nil {
		return nil, err
	}
	if _, err := httpbody.New(cfg.Bodies, nil); err != nil {
		return nil, err
	}
	if cfg.Bodies.Want() != 0 {
		hdrs = append(hdrs, httpattr.Wanted{Name: "Content-Type", Slot: uint32(bpfNhStrHDR_CONTENT_TYPE)},
			httpattr.Wanted{Name: "Content-Length", Slot: uint32(bpfNhStrHDR_CONTENT_LENGTH)})
	}
	answers, err := answerHeaders(cfg.AnswerHeaders, hdrs)
	if err != nil {
		return nil, err
	}
	all := slices.Clone(hdrs)
	var slots [MaxAnswers]uint8
	for i, h := range answers {
		slots[i] = uint8(h.Slot)
		if !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	rules, err := httpattr.HeaderRules(all)
	if err != nil {
		return nil, err
	}
	return &probe.Spec{
		ID:       ID,
		Name:     "nethttp",
		Doc:      "net/http servers and clients, HTTP/1 and HTTP/2",
		Points:   points(len(cfg.Bodies.Request) > 0),
		Groups:   groups(len(cfg.Bodies.Request) > 0),
		Fields:   allFields(),
		Optional: []string{xnet}, // gRPC programs have a part of it, of any version
		Table:    func() (*offsets.Table, error) { return offsets.Parse(offsetsJSON) },
		Load:     loadBpf,
		InFlight: []probe.InFlight{
			{Map: "nh_server", Active: httpattr.ServerActive, Forgotten: "nh_forgotten"},
			{Map: "nh_client", MaxAge: probe.CallMaxAge, Forgotten: "nh_calls_forgotten"},
			{Map: "nh_writers", MaxAge: probe.NoteMaxAge, Note: true},
		},
		Prepare: func(cs *ebpf.CollectionSpec) error {
			if err := cs.Variables["cfg_keep"].Set(uint64(cs.Maps["nh_server"].MaxEntries / 2)); err != nil {
				return fmt.Errorf("set cfg_keep: %w", err)
			}
			if err := cs.Variables["cfg_hdrs"].Set(rules); err != nil {
				return fmt.Errorf("set cfg_hdrs: %w", err)
			}
			if err := cs.Variables["cfg_body"].Set(cfg.Bodies.Want()); err != nil {
				return fmt.Errorf("set cfg_body: %w", err)
			}
			if err := cs.Variables["cfg_hdr_lens"].Set(httpattr.HeaderLens(hdrs)); err != nil {
				return fmt.Errorf("set cfg_hdr_lens: %w", err)
			}
			if err := cs.Variables["cfg_answer_lens"].Set(httpattr.HeaderLens(answers)); err != nil {
				return fmt.Errorf("set cfg_answer_lens: %w", err)
			}
			if err := cs.Variables["cfg_answers"].Set(slots); err != nil {
				return fmt.Errorf("set cfg_answers: %w", err)
			}
			return nil
		},
		Counters: propagation(),
		Propagation: func(p *probe.Placed) *probe.Propagation {
			return handsOn(p, cfg.Join && need(p, connFields()) == nil)
		},
		AttachExe:  func(c *ebpf.Collection, p *probe.Placed) error { return attachExe(c, p, cfg.Join) },
		NewDecoder: func(env probe.DecoderEnv) probe.Decoder { return newDecoder(env, cfg, hdrs) },
	}, nil
}

func groups(bodies bool) []probe.Group {
	var reads []probe.Group
	if bodies {
		reads = []probe.Group{
			{Name: groupH2Reads, What: "bodies of HTTP/2 server requests, for rules of metrics",
				Check: func(p *probe.Placed) error { return need(p, stdH2(p.Exe.GoVersion().Minor).readFields()) }},
			{Name: groupXReads, What: "bodies of golang.org/x/net/http2 server requests, for rules of metrics", Check: checkXReads},
		}
	}
	return slices.Concat([]probe.Group{
		{Name: groupServer, What: "HTTP/1 server requests",
			Check: func(p *probe.Placed) error { return need(p, serverFields()) }},
		{Name: groupClient, What: "HTTP/1 client calls",
			Check: func(p *probe.Placed) error { return need(p, clientFields()) }},
		{Name: groupH2Server, What: "HTTP/2 server requests", Check: checkH2},
		{Name: groupH2Client, What: "HTTP/2 client calls", Check: checkH2},
		{Name: groupXServer, What: "golang.org/x/net/http2 server requests", Check: checkXH2},
		{Name: groupXClient, What: "golang.org/x/net/http2 client calls", Check: checkXH2},
		{Name: groupWrite, What: "traceparent written into HTTP/1 requests", Check: checkWrite},
		{Name: groupH2Write, What: "traceparent written into HTTP/2 requests", Check: checkH2Write},
		{Name: groupXWrite, What: "traceparent written into golang.org/x/net/http2 requests", Check: checkXH2Write},
	}, reads, routerGroups())
}

// handsOn says which requests are written into.
func handsOn(p *probe.Placed, joined bool) *probe.Propagation {
	out := &probe.Propagation{Joined: joined}
	for _, g := range []struct{ group, what string }{
		{groupWrite, "HTTP/1"}, {groupH2Write, "HTTP/2"}, {groupXWrite, "golang.org/x/net/http2"},
	} {
		if p.Groups[g.group] {
			out.Written = append(out.Written, g.what)
		} else if err := p.Refused[g.group]; err != nil {
			out.Refused = append(out.Refused, fmt.Errorf("%s: %w", g.what, err))
		}
	}
	return out
}

func checkWrite(p *probe.Placed) error { return need(p, writeFields()) }
func checkH2Write(p *probe.Placed) error {
	return needStream(p, "h2_client_stream", stdH2(p.Exe.GoVersion().Minor).writeFields())
}
func checkXH2Write(p *probe.Placed) error {
	return needStream(p, "x_client_stream", h2XNet.writeFields())
}

func needStream(p *probe.Placed, point string, fields []goexe.Field) error {
	if _, ok := p.Points[point]; !ok {
		return errNoStream
	}
	return need(p, fields)
}

// errNoStream: before Go 1.21 a goroutine does not know who started it.
var errNoStream = errors.New("the stream's caller cannot be told before Go 1.21")

func checkH2(p *probe.Placed) error { return need(p, stdH2(p.Exe.GoVersion().Minor).fields()) }
func checkXH2(p *probe.Placed) error {
	if err := lookUp(p, offsetsJSON, h2XNet.allFields()); err != nil {
		return err
	}
	return need(p, h2XNet.fields())
}

func checkXReads(p *probe.Placed) error {
	if err := lookUp(p, offsetsJSON, h2XNet.readFields()); err != nil {
		return err
	}
	return need(p, h2XNet.readFields())
}

// points lists starts before ends: the manager attaches from the last to the first.
const lostDial = "whether a call's connection is new, and how long it took to make"

func points(bodies bool) []probe.Point {
	const (
		b = "net/http.(*http2"
		i = "net/http/internal/http2.(*"
		x = "golang.org/x/net/http2.(*"
	)
	entry := func(funcs ...string) probe.Site { return probe.Site{Kind: probe.Entry, Funcs: funcs} }
	after := func(results int, fn []string, callees ...string) probe.Site {
		return probe.Site{Kind: probe.AfterCall, Funcs: fn, Callees: callees, Results: results}
	}
	call := func(callee string, funcs ...string) probe.Site {
		return probe.Site{Kind: probe.CallSite, Funcs: funcs, Callees: []string{callee}}
	}
	roundTrip := []string{"net/http.(*Transport).roundTrip"}
	var reads []probe.Point
	if bodies {
		reads = []probe.Point{
			{Name: "h2_body", Program: "nh_h2_read", Group: groupH2Reads, Site: entry(b+"dataBuffer).Read", i+"dataBuffer).Read")},
			{Name: "x_body", Program: "nh_xh2_read", Group: groupXReads, Site: entry(x + "dataBuffer).Read")},
		}
	}
	return slices.Concat(reads, []probe.Point{
		{Name: "server_start", Program: "nh_serve", Group: groupServer,
			Site: entry("net/http.serverHandler.ServeHTTP")},
		{Name: "server_end", Program: "nh_finish", Group: groupServer,
			Site: entry("net/http.(*response).shouldReuseConnection")},
		{Name: "conn_end", Program: "nh_conn_end", Group: groupServer,
			Site: entry("net/http.(*conn).serve.func1")},
		{Name: "hijack", Program: "nh_hijack", Group: groupServer, Optional: true,
			Site: entry("net/http.(*response).Hijack"), Lost: "the upgrade's end: its span ends with its handler"},
		{Name: pointMux, Program: "nh_mux", Group: groupServer, MinGo: 22, Optional: true,
			Site: entry("net/http.(*ServeMux).findHandler"),
			Lost: "http.route where middleware copies the request before ServeMux"},
		{Name: "mux_match", Program: "nh_match", Group: groupServer, MaxGo: 21, Optional: true,
			Site: after(4, []string{"net/http.(*ServeMux).ServeHTTP"}, "net/http.(*ServeMux).Handler"),
			Lost: "http.route"},
		{Name: "panic", Program: "nh_panic", Group: groupServer, Optional: true,
			Site: entry("runtime.gopanic"), Lost: "type and message of panics"},

		{Name: "client_start", Program: "nh_get_conn", Group: groupClient,
			Site: probe.Site{Kind: probe.Entry, Funcs: []string{"net/http.(*Transport).getConn"}, Args: 2}},
		{Name: "client_conn", Program: "nh_got_conn", Group: groupClient,
			Site: after(3, roundTrip, "net/http.(*Transport).getConn")},
		{Name: "client_end", Program: "nh_call_end", Group: groupClient,
			Site: after(3, roundTrip, "net/http.(*persistConn).roundTrip")},

		{Name: "dial_start", Program: "nh_dial", Group: groupClient, Optional: true, Lost: lostDial,
			Site: entry("net/http.(*Transport).dialConn")},
		{Name: "dialled", Program: "nh_dialled", Group: groupClient, Optional: true, Lost: "how long dialling took",
			Site: after(4, []string{"net/http.(*Transport).dialConn"}, "net/http.(*Transport).dial")},
		{Name: "tls_start", Program: "nh_tls", Group: groupClient, Optional: true, Lost: "how long TLS handshakes took",
			Site: entry("net/http.(*persistConn).addTLS")},
		{Name: "dial_end", Program: "nh_dial_end", Group: groupClient, Optional: true, Lost: lostDial,
			Site: after(3, []string{"net/http.(*Transport).dialConnFor"}, "net/http.(*Transport).dialConn")},

		{Name: "h2_server_end", Program: "nh_h2_end", Group: groupH2Server,
			Site: probe.Site{Kind: probe.Entry,
				Funcs:   []string{b + "serverConn).runHandler", i + "serverConn).runHandler"},
				Callees: []string{b + "responseWriter).handlerDone", i + "responseWriter).handlerDone"}}},
		{Name: "h2_client_start", Program: "nh_h2_call", Group: groupH2Client,
			Site: entry(b+"ClientConn).roundTrip", i+"ClientConn).roundTrip", b+"ClientConn).RoundTrip")},
		{Name: "h2_client_stream", Program: "nh_h2_stream", Group: groupH2Client, Optional: true, MinGo: 21,
			Site: entry(b+"clientStream).encodeAndWriteHeaders", i+"clientStream).encodeAndWriteHeaders"),
			Lost: "joining of HTTP/2 calls with their server"},
		{Name: "h2_client_end", Program: "nh_h2_call_end", Group: groupH2Client,
			Site: after(3, []string{b + "Transport).RoundTripOpt", i + "Transport).RoundTripOpt"},
				b+"ClientConn).RoundTrip", b+"ClientConn).roundTrip",
				i+"ClientConn).RoundTrip", i+"ClientConn).roundTrip")},

		{Name: "x_server_start", Program: "nh_xrun", Group: groupXServer, Site: entry(x + "serverConn).runHandler")},
		{Name: "x_server_end", Program: "nh_xh2_end", Group: groupXServer,
			Site: probe.Site{Kind: probe.Entry, Funcs: []string{x + "serverConn).runHandler"},
				Callees: []string{x + "responseWriter).handlerDone"}}},
		{Name: "x_client_start", Program: "nh_xh2_call", Group: groupXClient,
			Site: entry(x+"ClientConn).roundTrip", x+"ClientConn).RoundTrip")},
		{Name: "x_client_stream", Program: "nh_xh2_stream", Group: groupXClient, Optional: true, MinGo: 21,
			Site: entry(x + "clientStream).encodeAndWriteHeaders"),
			Lost: "joining of HTTP/2 calls with their server"},
		{Name: "x_client_end", Program: "nh_xh2_call_end", Group: groupXClient,
			Site: after(3, []string{x + "Transport).roundTripViaPool", x + "Transport).RoundTripOpt"}, x+"ClientConn).RoundTrip", x+"ClientConn).roundTrip")},

		// The first of two calls, which is for the request's own headers; the other is for
		// net/http's extra ones.
		{Name: "write_header", Program: "nh_write_h1", Group: groupWrite, Writes: true,
			Site: call("net/http.Header.writeSubset", "net/http.(*Request).write")},
		{Name: "h2_write_header", Program: "nh_write_h2", Group: groupH2Write, Writes: true,
			Site: call("bufio.(*Writer).Flush", b+"ClientConn).writeHeaders", i+"ClientConn).writeHeaders")},
		{Name: "x_write_header", Program: "nh_write_xh2", Group: groupXWrite, Writes: true,
			Site: call("bufio.(*Writer).Flush", x+"ClientConn).writeHeaders")},
	}, routerPoints())
}

// propagation describes nh_props, by enum nh_prop.
func propagation() *probe.Counters {
	return &probe.Counters{
		Map: "nh_props", Metric: "tracer_agent_propagation_total",
		Help: "Attempts to hand a trace on to the next service, by mode and what became of them.",
		Labels: [][2]string{
			{"join", "announced"}, {"join", "unknown_connection"}, {"join", "joined"},
			{"memory", "written"}, {"memory", "own_header_kept"}, {"memory", "absence_not_proven"},
			{"memory", "no_room"}, {"memory", "unknown_buffer"}, {"memory", "write_failed"},
		},
	}
}
