package nethttp

import (
	"strings"
	"structs"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

func attachExe(c *ebpf.Collection, p *probe.Placed, join bool) error {
	v := encodeExe(p)
	if !join {
		v.Join = 0
	}
	names, err := p.Exe.TypeNameOffsets([]string{tcpConnType, tlsConnType})
	if err != nil {
		names = nil // nothing is joined then
	}
	v.Net.TcpName, v.Net.TlsName = probe.OnlyName(names[tcpConnType]), probe.OnlyName(names[tlsConnType])
	return probe.PutExe(c.Maps["nh_exes"], p.ExeID, v)
}

// The types of connections that are looked into.
const (
	tcpConnType = "*net.TCPConn"
	tlsConnType = "*tls.Conn"
)

// encodeExe builds struct nh_exe.
func encodeExe(p *probe.Placed) *bpfNhExe {
	o := p.Offset
	v := &bpfNhExe{
		ReqMethod: o(req("Method")), ReqUrl: o(req("URL")), ReqMajor: o(req("ProtoMajor")),
		ReqMinor: o(req("ProtoMinor")), ReqHeader: o(req("Header")), ReqHost: o(req("Host")),
		ReqRemote: o(req("RemoteAddr")), ReqUri: o(req("RequestURI")), ReqTls: o(req("TLS")),
		ReqClen: o(req("ContentLength")), ReqCtx: o(req("ctx")), ReqPat: o(req("pat")),
		ReqPattern: o(req("Pattern")), ResRequest: o(res("Request")), PatStr: o(probe.Std("net/http.pattern", "str")),
		W_status: o(w("status")), W_written: o(w("written")), W_wroteHeader: o(w("wroteHeader")),
		ResStatus: o(res("StatusCode")), ResClen: o(res("ContentLength")),
		ResMajor: o(res("ProtoMajor")), ResMinor: o(res("ProtoMinor")),
		TreqReq: o(probe.Std("net/http.transportRequest", "Request")),
		PcConn:  o(pconn("conn")), PcAlt: o(pconn("alt")),
		UrlScheme: o(uri("Scheme")), UrlUser: o(uri("User")), UrlHost: o(uri("Host")),
		UrlPath: o(uri("Path")), UrlRawPath: o(uri("RawPath")), UrlQuery: o(uri("RawQuery")),
		W_conn: o(w("conn")), HcRwc: o(probe.Std("net/http.conn", "rwc")),
	}
	v.Net.TlsConn, v.Net.ConnFd = o(probe.Std("crypto/tls.Conn", "conn")), o(probe.Std("net.conn", "fd"))
	if need(p, connFields()) == nil {
		v.Net.FdSysfd = o(probe.Std("net.netFD", "pfd")) + o(probe.Std("internal/poll.FD", "Sysfd"))
		v.Join = 1
	}
	v.Creq.Method, v.Creq.Url, v.Creq.Ctx = v.ReqMethod, v.ReqUrl, v.ReqCtx
	v.Creq.Clen, v.Creq.Header, v.Creq.Response = v.ReqClen, v.ReqHeader, o(req("Response"))
	v.Creq.Len = extent(0, v.Creq.Method, v.Creq.Url, v.Creq.Ctx, v.Creq.Clen, v.Creq.Header)
	setBodies(v, p)
	v.PcBw, v.BwBuf, v.BwN = o(pconn("bw")), o(probe.Std("bufio.Writer", "buf")), o(probe.Std("bufio.Writer", "n"))
	v.Inject = flag(p.Groups[groupWrite])
	// Without its end, an HTTP/2 request must not begin. Whose HTTP/2 a request is that
	// golang.org/x/net was refused for cannot be told.
	v.H2End = flag(p.Groups[groupH2Server] && p.Refused[groupXServer] == nil)
	v.Xh2End = flag(p.Groups[groupXServer])
	setLocs(v.ConnEnd[:], p.Points["client_conn"])
	setLocs(v.Dialled[:], p.Points["dial_end"])
	if _, ok := p.Points["dial_start"]; ok && len(p.Points["dial_end"].Results) > 1 {
		v.Dials = 1
	}
	setLocs(v.CallEnd[:], p.Points["client_end"])
	setLocs(v.MatchEnd[:], p.Points["mux_match"])

	v.ReqLen = extent(0, v.ReqMethod, v.ReqUrl, v.ReqHeader, v.ReqHost, v.ReqRemote, v.ReqUri, v.ReqTls, v.ReqClen, v.ReqCtx)
	v.UrlLen = extent(0, v.UrlScheme, v.UrlUser, v.UrlHost, v.UrlPath, v.UrlRawPath, v.UrlQuery)
	v.W_first = min(v.W_status, v.W_written, v.W_wroteHeader)
	v.W_len = extent(v.W_first, v.W_status, v.W_written, v.W_wroteHeader)
	t := stdH2(p.Exe.GoVersion().Minor)
	h := &v.H2
	for range 2 {
		h.RwRws, h.RwsStatus = o(t.field(t.rw, "rws")), o(t.field(t.rws, "status"))
		h.RwsWroteHeader, h.RwsWroteBytes = o(t.field(t.rws, "wroteHeader")), o(t.field(t.rws, "wroteBytes"))
		h.Creq.Method, h.Creq.Url = o(t.field(t.creq, "Method")), o(t.field(t.creq, "URL"))
		h.Creq.Ctx, h.Creq.Clen = o(t.field(t.creq, t.creqCtx)), o(t.field(t.creq, "ContentLength"))
		h.Creq.Response = uint16(probe.OffNone)
		if t.creq == "net/http.Request" {
			h.Creq.Response = v.Creq.Response
		}
		h.Creq.Body = o(t.field(t.creq, "Body"))
		h.Creq.Header, h.CcMaxList = o(t.field(t.creq, "Header")), o(t.field(t.cc, "peerMaxHeaderListSize"))
		h.Creq.Len = extent(0, h.Creq.Method, h.Creq.Url, h.Creq.Ctx, h.Creq.Clen, h.Creq.Header)
		h.CresHeader = o(t.field(t.cres, "Header"))
		if t.cres == "net/http.Response" {
			h.CresHeader = v.ResMinor + 8 // Header is what follows ProtoMinor
		}
		h.CresStatus, h.CresClen = o(t.field(t.cres, "StatusCode")), o(t.field(t.cres, "ContentLength"))
		h.RwsStream, h.StreamId = o(t.field(t.rws, "stream")), o(t.field(t.st, "id"))
		h.RwsConn, h.ScConn = o(t.field(t.rws, "conn")), o(t.field(t.sc, "conn"))
		h.CsId, h.CsCc, h.CcTconn = o(t.field(t.cs, "ID")), o(t.field(t.cs, "cc")), o(t.field(t.cc, "tconn"))
		setH2Bodies(h, t, p)
		t, h = &h2XNet, &v.Xh2
	}
	v.H2.Inject = uint16(flag(p.Groups[groupH2Write]))
	v.Xh2.Inject = uint16(flag(p.Groups[groupXWrite]))
	setLocs(v.H2.End[:], p.Points["h2_client_end"])
	setLocs(v.Xh2.End[:], p.Points["x_client_end"])
	setCallers(&v.H2.Callers, p, "h2_client_start", "h2_client_end")
	setCallers(&v.Xh2.Callers, p, "x_client_start", "x_client_end")
	r := &v.Routers
	r.GinPath, r.Echo4Path, r.Echo5Path = o(ginPath), o(echo4Path), o(echo5Path)
	r.Chi.Pattern, r.Chi.Patterns = o(chiPattern), o(chiPatterns)
	r.Chi5.Pattern, r.Chi5.Patterns = o(chi5Pattern), o(chi5Patterns)
	if p.Groups[groupGorilla] {
		r.MuxRegexp, r.MuxPath, r.MuxTemplate = o(muxConf)+o(muxRegexp), o(muxPath), o(muxTemplate)
	}
	return v
}

// setH2Bodies notes where an HTTP/2 server's bodies are.
func setH2Bodies(h *bpfNhH2, t *h2Types, p *probe.Placed) {
	o := p.Offset
	h.RbPipe, h.PipeB, h.StreamBytes = o(t.field(t.rb, "pipe")), o(t.field(t.pipe, "b")), o(t.field(t.st, "bodyBytes"))
	h.DbChunks, h.DbR, h.DbW = o(t.field(t.db, "chunks")), o(t.field(t.db, "r")), o(t.field(t.db, "w"))
	h.DbSize = o(t.field(t.db, "size"))
	h.RwsBw, h.RwsHeader, h.RwsSnap = o(t.field(t.rws, "bw")), o(t.field(t.rws, "handlerHeader")), o(t.field(t.rws, "snapHeader"))
	group := groupH2Reads
	if t == &h2XNet {
		group = groupXReads
	}
	h.Reads, h.Answers = flag(p.Groups[group]), flag(need(p, t.answerFields()) == nil)
}

// setBodies notes where bodies of HTTP/1 are.
func setBodies(v *bpfNhExe, p *probe.Placed) {
	o := p.Offset
	v.Creq.Body = o(req("Body"))
	v.HcBufr, v.HcBufw, v.PcBr = o(probe.Std("net/http.conn", "bufr")), o(probe.Std("net/http.conn", "bufw")), o(pconn("br"))
	v.BrBuf, v.BrR, v.BrW = o(probe.Std("bufio.Reader", "buf")), o(probe.Std("bufio.Reader", "r")), o(probe.Std("bufio.Reader", "w"))
	v.W_header = o(w("handlerHeader"))
	v.Body = flag(need(p, bodyFields()) == nil)
}

// setCallers notes below which functions an HTTP/2 call is followed: the one in which
// its end is seen and, where it is not inlined there, the method between the two. Only
// at PUSHQ BP is the return address at SP.
func setCallers(dst *[2][2]uint64, p *probe.Placed, start, end string) {
	from, to := p.Points[start], p.Points[end]
	if !strings.HasPrefix(from.Instr, "PUSH") {
		return
	}
	between := strings.TrimSuffix(from.Func, "roundTrip") + "RoundTrip"
	for i, name := range []string{to.Func, between} {
		if f, ok := p.Exe.Func(name); ok && name != from.Func {
			dst[i] = [2]uint64{f.Addr, f.Size}
		}
	}
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// extent is how many bytes from first on hold two words at each of offs that is known.
func extent(first uint16, offs ...uint16) uint16 {
	last := first
	for _, at := range offs {
		if at != uint16(probe.OffNone) {
			last = max(last, at)
		}
	}
	return last + 16 - first
}

// loc mirrors struct go_loc.
type loc = struct {
	_     structs.HostLayout
	Off   int32
	Stack uint8
	Reg   uint8
	Pad   uint16
}

func setLocs(dst []loc, at goexe.Point) {
	for i := range min(len(dst), len(at.Results)) {
		r := at.Results[i]
		dst[i].Off, dst[i].Reg = r.Off, r.Reg
		if r.Stack {
			dst[i].Stack = 1
		}
	}
}
