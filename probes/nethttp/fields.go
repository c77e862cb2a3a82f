package nethttp

import (
	"fmt"
	"slices"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/offsets"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

func req(name string) goexe.Field   { return probe.Std("net/http.Request", name) }
func res(name string) goexe.Field   { return probe.Std("net/http.Response", name) }
func w(name string) goexe.Field     { return probe.Std("net/http.response", name) }
func pconn(name string) goexe.Field { return probe.Std("net/http.persistConn", name) }
func uri(name string) goexe.Field   { return probe.Std("net/url.URL", name) }

// h2Types are the names of the HTTP/2 implementation's types: they differ between
// the bundle in net/http (to Go 1.26), its own package (from 1.27), and
// golang.org/x/net.
type h2Types struct {
	module                  string
	rw, rws, creq, cres, cc string
	st, sc, cs              string // stream, serverConn, clientStream
	rb, pipe, db            string // requestBody, pipe, dataBuffer
	creqCtx                 string // the request's context field
}

const xnet = "golang.org/x/net"

var (
	h2Bundle = h2Types{
		module: "std", rw: "net/http.http2responseWriter", rws: "net/http.http2responseWriterState",
		creq: "net/http.Request", cres: "net/http.Response", cc: "net/http.http2ClientConn", creqCtx: "ctx",
		st: "net/http.http2stream", sc: "net/http.http2serverConn", cs: "net/http.http2clientStream",
		rb: "net/http.http2requestBody", pipe: "net/http.http2pipe", db: "net/http.http2dataBuffer",
	}
	h2Internal = h2Types{
		module: "std", rw: "net/http/internal/http2.responseWriter", rws: "net/http/internal/http2.responseWriterState",
		creq: "net/http/internal/http2.ClientRequest", cres: "net/http/internal/http2.ClientResponse",
		cc: "net/http/internal/http2.ClientConn", creqCtx: "Context",
		st: "net/http/internal/http2.stream", sc: "net/http/internal/http2.serverConn",
		cs: "net/http/internal/http2.clientStream",
		rb: "net/http/internal/http2.requestBody", pipe: "net/http/internal/http2.pipe", db: "net/http/internal/http2.dataBuffer",
	}
	h2XNet = h2Types{
		module: xnet, rw: "golang.org/x/net/http2.responseWriter", rws: "golang.org/x/net/http2.responseWriterState",
		creq: "net/http.Request", cres: "net/http.Response", cc: "golang.org/x/net/http2.ClientConn", creqCtx: "ctx",
		st: "golang.org/x/net/http2.stream", sc: "golang.org/x/net/http2.serverConn",
		cs: "golang.org/x/net/http2.clientStream",
		rb: "golang.org/x/net/http2.requestBody", pipe: "golang.org/x/net/http2.pipe", db: "golang.org/x/net/http2.dataBuffer",
	}
)

func (t *h2Types) field(typ, name string) goexe.Field {
	mod := t.module
	if typ == "net/http.Request" || typ == "net/http.Response" {
		mod = "std"
	}
	return goexe.Field{Module: mod, Type: typ, Name: name}
}

func (t *h2Types) fields() []goexe.Field {
	return []goexe.Field{
		t.field(t.rw, "rws"), t.field(t.rws, "status"), t.field(t.rws, "wroteHeader"), t.field(t.rws, "wroteBytes"),
		t.field(t.creq, "Method"), t.field(t.creq, "URL"), t.field(t.creq, t.creqCtx), t.field(t.creq, "ContentLength"),
		t.field(t.cres, "StatusCode"), t.field(t.cres, "ContentLength"),
	}
}

// joinFields lead from a stream to its connection and number, at both ends.
func (t *h2Types) joinFields() []goexe.Field {
	return []goexe.Field{
		t.field(t.rws, "stream"), t.field(t.rws, "conn"), t.field(t.st, "id"), t.field(t.sc, "conn"),
		t.field(t.cs, "ID"), t.field(t.cs, "cc"), t.field(t.cc, "tconn"),
	}
}

// readFields lead to what a handler reads of a request's body.
func (t *h2Types) readFields() []goexe.Field {
	return []goexe.Field{
		req("Body"), t.field(t.rb, "pipe"), t.field(t.pipe, "b"), t.field(t.db, "chunks"), t.field(t.db, "r"), t.field(t.db, "w"),
		t.field(t.db, "size"), t.field(t.rws, "stream"), t.field(t.st, "bodyBytes"),
	}
}

// answerFields lead to the response while it is not sent.
func (t *h2Types) answerFields() []goexe.Field {
	return []goexe.Field{
		t.field(t.rws, "bw"), t.field(t.rws, "handlerHeader"), t.field(t.rws, "snapHeader"),
		probe.Std("bufio.Writer", "buf"), probe.Std("bufio.Writer", "n"),
	}
}

func (t *h2Types) allFields() []goexe.Field {
	return slices.Concat(t.fields(), t.joinFields(), t.writeFields(), t.readFields(), t.answerFields(),
		[]goexe.Field{t.field(t.creq, "Body"), t.field(t.cres, "Header")})
}

// stdH2 returns the names for the HTTP/2 that comes with the Go release.
func stdH2(goMinor int) *h2Types {
	if goMinor >= 27 {
		return &h2Internal
	}
	return &h2Bundle
}

// serverFields and clientFields are what the HTTP/1 groups cannot do without.
func serverFields() []goexe.Field {
	return []goexe.Field{
		req("Method"), req("URL"), req("ProtoMajor"), req("ProtoMinor"), req("Header"), req("Host"),
		req("RemoteAddr"), req("RequestURI"), req("TLS"), req("ContentLength"), req("ctx"),
		w("status"), w("written"), w("wroteHeader"),
	}
}

func clientFields() []goexe.Field {
	return []goexe.Field{
		req("Method"), req("URL"), req("ctx"), req("ContentLength"),
		res("StatusCode"), res("ContentLength"), res("ProtoMajor"), res("ProtoMinor"),
		probe.Std("net/http.transportRequest", "Request"), pconn("conn"), pconn("alt"),
		uri("Scheme"), uri("User"), uri("Host"), uri("Path"), uri("RawPath"), uri("RawQuery"),
	}
}

// connFields lead from a request to the file descriptor of its connection.
func connFields() []goexe.Field {
	return []goexe.Field{
		w("conn"), probe.Std("net/http.conn", "rwc"), probe.Std("crypto/tls.Conn", "conn"), probe.Std("net.conn", "fd"),
		probe.Std("net.netFD", "pfd"), probe.Std("internal/poll.FD", "Sysfd"),
	}
}

// bodyFields lead to the buffers that bodies are in.
func bodyFields() []goexe.Field {
	return []goexe.Field{
		req("Body"), w("conn"), w("handlerHeader"), probe.Std("net/http.conn", "bufr"), probe.Std("net/http.conn", "bufw"),
		pconn("br"), probe.Std("bufio.Reader", "buf"), probe.Std("bufio.Reader", "r"), probe.Std("bufio.Reader", "w"),
		probe.Std("bufio.Writer", "buf"),
	}
}

// writeFields lead to the buffer that an HTTP/1 request is written to.
func writeFields() []goexe.Field {
	return []goexe.Field{req("Header"), pconn("bw"), probe.Std("bufio.Writer", "buf"), probe.Std("bufio.Writer", "n")}
}

// writeFields lead to the frame that is about to be sent.
func (t *h2Types) writeFields() []goexe.Field {
	return []goexe.Field{
		t.field(t.creq, "Header"), t.field(t.cc, "peerMaxHeaderListSize"),
		probe.Std("bufio.Writer", "buf"), probe.Std("bufio.Writer", "n"),
	}
}

// allFields is every field of the standard library that the probe can make use of.
// Those of golang.org/x/net are looked up by its groups: a release of it that is not
// known costs them and nothing else.
func allFields() []goexe.Field {
	fs := append(serverFields(), clientFields()...)
	fs = append(fs, req("pat"), req("Pattern"), req("Response"), res("Request"), probe.Std("net/http.pattern", "str"))
	fs = append(fs, connFields()...)
	fs = append(fs, writeFields()...)
	fs = append(fs, bodyFields()...)
	for _, t := range []*h2Types{&h2Bundle, &h2Internal} {
		fs = append(fs, t.allFields()...)
	}
	seen := map[goexe.Field]bool{}
	uniq := fs[:0]
	for _, f := range fs {
		if !seen[f] {
			seen[f] = true
			uniq = append(uniq, f)
		}
	}
	return uniq
}

// lookUp finds offsets that are not among the probe's own, and returns an error when
// table and debug information do not have them.
func lookUp(p *probe.Placed, table []byte, fields []goexe.Field) error {
	t, err := offsets.Parse(table)
	if err != nil {
		return err
	}
	found, _, err := p.Exe.Offsets(fields, t)
	if err != nil {
		return fmt.Errorf("%w: %w", probe.ErrRefused, err)
	}
	for f, off := range found {
		p.Offsets[f] = off
	}
	return nil
}

// need is the error of a group that cannot do without fields.
func need(p *probe.Placed, fields []goexe.Field) error {
	return p.Need(fields, p.Exe.GoVersion().Raw)
}
