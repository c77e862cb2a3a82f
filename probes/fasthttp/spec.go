package fasthttp

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
const ID probe.ID = 20

//go:embed offsets.json
var offsetsJSON []byte

//go:embed fiber.json
var fiberJSON []byte

const (
	fast   = "github.com/valyala/fasthttp"
	fiber2 = "github.com/gofiber/fiber/v2"
	fiber3 = "github.com/gofiber/fiber/v3"
)

// Point groups.
const (
	groupServer = "server"
	groupFiber2 = "route-fiber2"
	groupFiber3 = "route-fiber3"
)

// Config is what a user may set.
type Config struct {
	// Join links spans with those of clients on the same node by connection.
	Join bool
	// Redact hides secret values.
	Redact Redactor
	// CaptureHeaders are further request headers to record, at most 6, AnswerHeaders response
	// headers, at most 4.
	CaptureHeaders, AnswerHeaders []string
	// Bodies are the fields of JSON bodies that operations are to have.
	Bodies httpbody.Fields
}

// Redactor hides secrets.
type Redactor interface {
	Query(raw string) string
	// Value redacts a value that is secret by its look.
	Value(v string) string
}

// New returns the probe.
func New(cfg Config) (*probe.Spec, error) {
	if _, err := httpbody.New(cfg.Bodies, nil); err != nil {
		return nil, err
	}
	captured, answers, err := headers(cfg)
	if err != nil {
		return nil, err
	}
	rules, err := httpattr.HeaderRules(append(slices.Clone(captured), answers.own...))
	if err != nil {
		return nil, err
	}
	return &probe.Spec{
		ID:   ID,
		Name: "fasthttp",
		Doc:  "servers of valyala/fasthttp, with fiber's routes",
		Points: []probe.Point{
			{Name: "fiber2_route", Program: "fh_fiber2", Group: groupFiber2, Site: entry(fiber2 + ".(*App).ReleaseCtx")},
			{Name: "fiber2_deferred", Program: "fh_fiber2_defer", Group: groupFiber2, Optional: true,
				Site: probe.Site{Kind: probe.Entry, Funcs: []string{fiber2 + ".(*App).handler"}, Callees: []string{"sync.(*Pool).Put"}},
				Lost: "nothing, where the deferred call is not inlined"},
			{Name: "fiber3_route", Program: "fh_fiber3", Group: groupFiber3, Site: entry(fiber3 + ".(*App).ReleaseCtx")},
			{Name: "start", Program: "fh_start", Group: groupServer, Site: entry(fast + ".(*Request).readLimitBody")},
			{Name: "start_stream", Program: "fh_start", Group: groupServer, Optional: true,
				Site: entry(fast + ".(*Request).readBodyStream"), Lost: "requests whose body is streamed"},
			// Which of these there are is the compiler's choice: see checkServer.
			{Name: "end", Program: "fh_end", Group: groupServer, Optional: true,
				Site: entry(fast + ".writeResponse"), Lost: "nothing"},
			{Name: "end_inlined", Program: "fh_write", Group: groupServer, Optional: true,
				Site: call("(*Response).Write", "(*Server).serveConn"), Lost: "nothing"},
			{Name: "end_error", Program: "fh_write", Group: groupServer, Optional: true,
				Site: call("(*Response).Write", "(*Server).writeErrorResponse"), Lost: "requests whose body was refused"},
		},
		Groups: []probe.Group{
			{Name: groupServer, What: "fasthttp server requests", Check: checkServer},
			{Name: groupFiber2, What: "http.route of fiber v2", Check: func(p *probe.Placed) error { return checkFiber(p, fiber2Fields) }},
			{Name: groupFiber3, What: "http.route of fiber v3", Check: func(p *probe.Placed) error { return checkFiber(p, fiber3Fields) }},
		},
		Fields:    fields(),
		Table:     func() (*offsets.Table, error) { return offsets.Parse(offsetsJSON) },
		Load:      loadBpf,
		InFlight:  []probe.InFlight{{Map: "fh_ops", MaxAge: probe.CallMaxAge, Active: httpattr.ServerActive}},
		AttachExe: func(c *ebpf.Collection, p *probe.Placed) error { return attachExe(c, p, cfg.Join) },
		Prepare: func(cs *ebpf.CollectionSpec) error {
			for name, v := range map[string]any{
				"cfg_hdrs": rules, "cfg_hdr_lens": httpattr.HeaderLens(captured),
				"cfg_answer_lens": httpattr.HeaderLens(answers.all), "cfg_answers": answers.slots, "cfg_body": cfg.Bodies.Want(),
			} {
				if err := cs.Variables[name].Set(v); err != nil {
					return fmt.Errorf("set %s: %w", name, err)
				}
			}
			return nil
		},
		NewDecoder: func(env probe.DecoderEnv) probe.Decoder { return newDecoder(env, cfg) },
	}, nil
}

func entry(fn string) probe.Site { return probe.Site{Kind: probe.Entry, Funcs: []string{fn}} }

func call(callee, in string) probe.Site {
	return probe.Site{Kind: probe.CallSite, Funcs: []string{fast + "." + in}, Callees: []string{fast + "." + callee}}
}

func fh(typ, name string) goexe.Field {
	return goexe.Field{Module: fast, Type: fast + "." + typ, Name: name}
}

// Fields that lead to the socket.
var (
	tlsConn = probe.Std("crypto/tls.Conn", "conn")
	connFD  = probe.Std("net.conn", "fd")
	fdPoll  = probe.Std("net.netFD", "pfd")
	fdSys   = probe.Std("internal/poll.FD", "Sysfd")
)

// needed is what no release may lack; headerFields are in RequestHeader itself or in a
// structure that it embeds.
func needed() []goexe.Field {
	return []goexe.Field{
		fh("RequestCtx", "Request"), fh("RequestCtx", "Response"), fh("RequestCtx", "c"),
		fh("Request", "Header"), fh("Request", "isTLS"),
		fh("Request", "bodyStream"), fh("Request", "body"), fh("Request", "bodyRaw"),
		fh("RequestHeader", "method"), fh("RequestHeader", "requestURI"), fh("RequestHeader", "host"), fh("RequestHeader", "userAgent"),
		fh("argsKV", "key"), fh("argsKV", "value"),
		fh("Response", "bodyStream"), fh("Response", "body"), fh("Response", "bodyRaw"), fh("Response", "Header"),
		fh("ResponseHeader", "statusCode"),
	}
}

func fields() []goexe.Field {
	fs := append(needed(), fh("RequestHeader", "header"), tlsConn, connFD, fdPoll, fdSys)
	for _, n := range []string{"h", "contentLength", "contentType", "noHTTP11"} {
		fs = append(fs, fh("RequestHeader", n), fh("header", n))
	}
	for _, n := range []string{"h", "contentLength", "contentType"} {
		fs = append(fs, fh("ResponseHeader", n))
	}
	return fs
}

func fiber(module, typ, name string) goexe.Field {
	return goexe.Field{Module: module, Type: module + "." + typ, Name: name}
}

var (
	fiber2Fields = []goexe.Field{fiber(fiber2, "Ctx", "route"), fiber(fiber2, "Route", "use"), fiber(fiber2, "Route", "Path")}
	fiber3Fields = []goexe.Field{fiber(fiber3, "DefaultCtx", "route"), fiber(fiber3, "Route", "use"), fiber(fiber3, "Route", "Path")}
)

// errNoEnd: a request must not begin whose end is not seen.
var errNoEnd = errors.New("where the response is written cannot be told")

func checkServer(p *probe.Placed) error {
	_, own := p.Points["end"]
	_, inlined := p.Points["end_inlined"]
	if !own && !inlined {
		return errNoEnd
	}
	return p.Need(append(needed(), headerField(p, "h"), headerField(p, "contentLength"), headerField(p, "contentType"), headerField(p, "noHTTP11")), "")
}

// headerField is where the release keeps a field of the request's header.
func headerField(p *probe.Placed, name string) goexe.Field {
	if f := fh("RequestHeader", name); p.Offset(f) != probe.OffNone {
		return f
	}
	return fh("header", name)
}

// checkFiber looks up a fiber release's offsets: one that is not known costs the routes
// and nothing else.
func checkFiber(p *probe.Placed, fs []goexe.Field) error {
	t, err := offsets.Parse(fiberJSON)
	if err != nil {
		return err
	}
	found, _, err := p.Exe.Offsets(fs, t)
	if err != nil {
		return fmt.Errorf("%w: %w", probe.ErrRefused, err)
	}
	for f, off := range found {
		p.Offsets[f] = off
	}
	return p.Need(fs, "")
}

func attachExe(c *ebpf.Collection, p *probe.Placed, join bool) error {
	v := encodeExe(p)
	names, err := p.Exe.TypeNameOffsets([]string{"*net.TCPConn", "*tls.Conn"})
	if err != nil {
		names = nil // the peer is not known then, and nothing is joined
	}
	if join && p.Need([]goexe.Field{connFD, fdPoll, fdSys}, "") == nil {
		v.Join = 1
	}
	v.Conn.TcpName, v.Conn.TlsName = probe.OnlyName(names["*net.TCPConn"]), probe.OnlyName(names["*tls.Conn"])
	return probe.PutExe(c.Maps["fh_exes"], p.ExeID, v)
}

// argsKVSize is the size of argsKV { key, value []byte; noValue bool } in every release.
const argsKVSize = 56

func encodeExe(p *probe.Placed) *bpfFhExe {
	o := p.Offset
	reqHdr := o(fh("Request", "Header"))
	inHeader := func(name string) uint16 {
		f := headerField(p, name)
		if f.Type == fast+".header" {
			return reqHdr + o(fh("RequestHeader", "header")) + o(f)
		}
		return reqHdr + o(f)
	}
	respHdr := o(fh("Response", "Header"))
	v := &bpfFhExe{
		CtxReq: o(fh("RequestCtx", "Request")), CtxResp: o(fh("RequestCtx", "Response")), CtxConn: o(fh("RequestCtx", "c")),
		ReqTls: o(fh("Request", "isTLS")),
		Method: reqHdr + o(fh("RequestHeader", "method")), Uri: reqHdr + o(fh("RequestHeader", "requestURI")),
		Host: reqHdr + o(fh("RequestHeader", "host")), Agent: reqHdr + o(fh("RequestHeader", "userAgent")),
		Hdrs: inHeader("h"), Clen: inHeader("contentLength"), NoHttp11: inHeader("noHTTP11"),
		KvKey: o(fh("argsKV", "key")), KvValue: o(fh("argsKV", "value")), KvSize: argsKVSize,
		Stream: o(fh("Response", "bodyStream")), Body: o(fh("Response", "body")), Raw: o(fh("Response", "bodyRaw")),
		Status: respHdr + o(fh("ResponseHeader", "statusCode")),
	}
	inAnswer := func(name string) uint16 {
		if off := o(fh("ResponseHeader", name)); off != probe.OffNone {
			return respHdr + off
		}
		return respHdr + o(fh("header", name)) // embedded first, as in RequestHeader
	}
	v.RespClen, v.RespCtype, v.RespHdrs = inAnswer("contentLength"), inAnswer("contentType"), inAnswer("h")
	v.ReqCtype = inHeader("contentType")
	v.ReqStream, v.ReqBody, v.ReqRaw = o(fh("Request", "bodyStream")), o(fh("Request", "body")), o(fh("Request", "bodyRaw"))
	v.Fiber2Route, v.Fiber2Use, v.Fiber2Path = o(fiber2Fields[0]), o(fiber2Fields[1]), o(fiber2Fields[2])
	v.Fiber3Route, v.Fiber3Use, v.Fiber3Path = o(fiber3Fields[0]), o(fiber3Fields[1]), o(fiber3Fields[2])
	v.Conn.TlsConn, v.Conn.ConnFd = o(tlsConn), o(connFD)
	v.Conn.FdSysfd = o(fdPoll) + o(fdSys)
	return v
}
