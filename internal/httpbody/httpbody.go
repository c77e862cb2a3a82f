// Package httpbody makes single fields of JSON bodies, which somebody asks for, part of the
// operations whose bodies they are. The records are those of bpf/lib/body.h. It knows no
// library: what it is given is a body as it was on the wire, or as a handler has it.
package httpbody

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/jsonfields"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Fields are the fields of JSON bodies that somebody asks for, by path; nothing is read of a
// body when there are none.
type Fields struct {
	Request, Response []string
	// Missed counts a JSON body of which not everything could be looked at; may be nil.
	Missed func(body, reason string)
}

// Want is cfg_body of the BPF side: enum tr_body_want.
func (f Fields) Want() (want uint32) {
	if len(f.Request) > 0 {
		want |= 1 << 0
	}
	if len(f.Response) > 0 {
		want |= 1 << 1
	}
	return want
}

// Reasons that Fields.Missed is given.
const (
	missIncomplete = "incomplete" // not all of it was in the program's buffers
	missNotJSON    = "not_json"
	missEncoded    = "encoded" // compressed, and of a request or not by gzip
)

// RecordType is the type of these records, in every probe that has them.
const RecordType = 254

// Kind is enum tr_body_kind.
type Kind uint32

// What a record holds.
const (
	Request  Kind = iota + 1 // HTTP/1: its beginning, as it is on the wire
	Rest                     // HTTP/1: of a request, what follows that
	Response                 // HTTP/1: as it is on the wire, with its head
	Piece                    // of a request, in order, what the handler gets
	Answer                   // of a response, in order, what the handler gives

	offsetShift = 16 // of a piece's offset, above its kind
)

const (
	headLen   = event.HeaderLen + 32 // of struct tr_body, before what it holds
	bodyMax   = 4096                 // BODY_MAX
	maxBodies = 4096                 // operations in flight of which something is known
	maxUnread = 4 << 20              // bytes that are kept of bodies that wait for more
	maxText   = 256                  // bytes of a field that is a text; longer ones are cut
	// maxWait is how long an operation's bodies are kept for it, in ns: its record may be
	// lost, or its program gone.
	maxWait  = uint64(5 * time.Minute)
	maxPlain = 1 << 16 // bytes that a compressed body may become
)

const (
	inRequest  = "request"
	inResponse = "response"
)

// Key is one operation of one goroutine.
type Key struct {
	PID         int32
	Goid, Start uint64
}

// pieces are what has come of a body so far.
type pieces struct {
	raw  []byte
	size int64 // of the whole, -1: not known
}

// whole says that nothing is missing.
func (p *pieces) whole() bool { return p.size >= 0 && int64(len(p.raw)) >= p.size }

// body is what is known of an operation's bodies before its own record comes.
type body struct {
	request, response map[string]any
	begun             []byte // of a request whose rest may come
	given, answered   *pieces
	missed            [][2]string
}

// unread is how much memory is held by what waits for more.
func (at *body) unread() (n int) {
	for _, p := range []*pieces{at.given, at.answered} {
		if p != nil {
			n += cap(p.raw)
		}
	}
	return n + cap(at.begun)
}

// lost are the bodies that are forgotten with it: those that wait for more and, when known
// too, those whose fields are there.
func (at *body) lost(known bool) [][2]string {
	missed := at.missed
	add := func(which string, open, read bool) {
		noted := slices.ContainsFunc(missed, func(m [2]string) bool { return m[0] == which })
		if !noted && (open || read && known) {
			missed = append(missed, [2]string{which, missIncomplete})
		}
	}
	add(inRequest, at.begun != nil || at.given != nil && !at.given.whole(), at.request != nil || at.given != nil)
	add(inResponse, at.answered != nil && !at.answered.whole(), at.response != nil || at.answered != nil)
	return missed
}

// Redactor hides secrets.
type Redactor interface {
	// Value redacts a value that is secret by its look.
	Value(v string) string
}

// Open collects the fields of bodies until their operation comes. Its records are the
// content of strangers: only the wanted fields are kept, and only until then.
type Open struct {
	cfg               Fields
	redact            Redactor
	request, response *jsonfields.Paths
	open              map[Key]*body
	unread            int // bytes of all that wait
	swept             uint64
	raw               bytes.Reader
	buf               *bufio.Reader
}

// New returns a collector of fields.
func New(cfg Fields, r Redactor) (*Open, error) {
	b := &Open{cfg: cfg, redact: r, open: map[Key]*body{}, buf: bufio.NewReaderSize(nil, bodyMax)}
	var err error
	if b.request, err = jsonfields.New(cfg.Request); err != nil {
		return nil, fmt.Errorf("fields of request bodies: %w", err)
	}
	if b.response, err = jsonfields.New(cfg.Response); err != nil {
		return nil, fmt.Errorf("fields of response bodies: %w", err)
	}
	return b, nil
}

// Take reads a record of part of a body.
func (b *Open) Take(rec event.Record) error {
	if len(rec.Raw) < headLen || len(rec.Raw) > headLen+bodyMax {
		return fmt.Errorf("%w: body in %d bytes", probe.ErrRecord, len(rec.Raw))
	}
	ne := binary.NativeEndian
	head, raw := rec.Raw[event.HeaderLen:headLen], rec.Raw[headLen:]
	key := Key{rec.PID, ne.Uint64(head), ne.Uint64(head[8:])}
	size, what, n := int64(ne.Uint64(head[16:])), ne.Uint32(head[24:]), ne.Uint32(head[28:])
	kind, offset := Kind(what&(1<<offsetShift-1)), int(what>>offsetShift)
	if uint64(n) > uint64(len(raw)) {
		return fmt.Errorf("%w: body of %d bytes in a record of %d", probe.ErrRecord, n, len(rec.Raw))
	}
	if kind < Request || kind > Answer {
		return fmt.Errorf("%w: body of kind %d", probe.ErrRecord, kind)
	}
	raw = raw[:n]
	if key.Start > b.swept+maxWait/4 {
		b.sweep(key.Start)
	}
	at := b.open[key]
	if at == nil {
		if len(b.open) >= maxBodies {
			b.clear()
		}
		at = &body{}
		b.open[key] = at
	}
	before := at.unread()
	switch kind {
	case Request:
		b.begin(at, raw, size)
	case Rest:
		if at.begun == nil || len(at.begun)+len(raw) != cap(at.begun) {
			break // it has been given up, or is of another body
		}
		at.request = b.fields(b.request, at, inRequest, append(at.begun, raw...), true)
		at.begun = nil
	case Response:
		at.response = b.wire(at, raw)
	case Piece:
		b.piece(&at.given, raw, size, offset)
	case Answer:
		b.piece(&at.answered, raw, size, offset)
	}
	b.unread += at.unread() - before
	return nil
}

// clear forgets all: mostly operations that never came to an end. Those in flight lose theirs.
func (b *Open) clear() {
	for _, at := range b.open {
		b.count(at.lost(true))
	}
	clear(b.open)
	b.unread = 0
}

// sweep forgets bodies whose operation began long before now, ns of the kernel's clock.
func (b *Open) sweep(now uint64) {
	b.swept = now
	for key, at := range b.open {
		if key.Start+maxWait < now {
			b.unread -= at.unread()
			b.count(at.lost(false)) // what is known of it would have been its own, which is lost
			delete(b.open, key)
		}
	}
}

func (b *Open) count(missed [][2]string) {
	if b.cfg.Missed == nil {
		return
	}
	for _, m := range missed {
		b.cfg.Missed(m[0], m[1])
	}
}

// begin takes the beginning of a request's body.
func (b *Open) begin(at *body, raw []byte, size int64) {
	at.begun = nil
	switch {
	case size < 0:
		b.raw.Reset(raw)
		plain, err := io.ReadAll(httputil.NewChunkedReader(&b.raw))
		at.request = b.fields(b.request, at, inRequest, plain, err == nil)
	case int64(len(raw)) < size && size <= int64(2*bodyMax) && b.unread+int(size) <= maxUnread:
		at.begun = append(make([]byte, 0, size), raw...) // its capacity says how much there will be
	default:
		at.request = b.fields(b.request, at, inRequest, raw, int64(len(raw)) >= size)
	}
}

// piece adds what has come of a body: nothing behind a gap, and no more than programs send.
func (b *Open) piece(to **pieces, raw []byte, size int64, offset int) {
	if *to == nil {
		*to = &pieces{}
	}
	p := *to
	p.size = size
	have := len(p.raw)
	if offset == have && have+len(raw) <= bodyMax && b.unread+2*bodyMax <= maxUnread { // append may double it
		p.raw = append(p.raw, raw...)
	}
}

// joined are the fields of a body that came in pieces.
func (b *Open) joined(paths *jsonfields.Paths, at *body, which string, p *pieces) map[string]any {
	if which == inResponse && bytes.HasPrefix(p.raw, gzipMagic) {
		return b.unzipped(paths, at, which, p.raw)
	}
	return b.fields(paths, at, which, p.raw, p.whole())
}

// fields are the wanted ones of a body; whole says that nothing is missing of it.
func (b *Open) fields(paths *jsonfields.Paths, at *body, which string, plain []byte, whole bool) map[string]any {
	values, err := paths.Values(plain)
	switch {
	case errors.Is(err, jsonfields.ErrLarge), errors.Is(err, jsonfields.ErrCut) && !whole:
		at.missed = append(at.missed, [2]string{which, missIncomplete})
	case bytes.HasPrefix(plain, gzipMagic):
		at.missed = append(at.missed, [2]string{which, missEncoded})
	case err != nil:
		at.missed = append(at.missed, [2]string{which, missNotJSON})
	}
	for path, v := range values {
		if text, ok := v.(string); ok {
			text = b.redact.Value(text) // before it is cut: half a secret does not look like one
			values[path] = strings.Clone(strings.ToValidUTF8(text[:min(len(text), maxText)], ""))
		}
	}
	return values
}

// wire takes a response of HTTP/1: its head and what follows that.
func (b *Open) wire(at *body, raw []byte) map[string]any {
	b.raw.Reset(raw)
	b.buf.Reset(&b.raw)
	resp, err := http.ReadResponse(b.buf, nil)
	if err != nil {
		return nil // the buffer does not begin with a head
	}
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media != "application/json" {
		return nil
	}
	miss := func(reason string) map[string]any {
		at.missed = append(at.missed, [2]string{inResponse, reason})
		return nil
	}
	if resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 {
		return miss(missIncomplete) // it ends with the connection
	}
	plain, err := io.ReadAll(resp.Body)
	whole := err == nil
	switch resp.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip":
		return b.unzipped(b.response, at, inResponse, plain)
	default:
		return miss(missEncoded)
	}
	return b.fields(b.response, at, inResponse, plain, whole)
}

// gzipMagic is what gzip's data begin with, and JSON never.
var gzipMagic = []byte{0x1f, 0x8b}

// unzipped are the fields of a response that is compressed. A request is not unpacked: what a
// stranger sends is not to become sixteen times as much work.
func (b *Open) unzipped(paths *jsonfields.Paths, at *body, which string, raw []byte) map[string]any {
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		at.missed = append(at.missed, [2]string{which, missEncoded})
		return nil
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxPlain))
	return b.fields(paths, at, which, plain, err == nil && len(plain) < maxPlain)
}

// Give hands the fields to their operation, and counts what is missing.
func (b *Open) Give(op *telemetry.Operation, key Key, method []byte) {
	at := b.open[key]
	if at == nil {
		return
	}
	delete(b.open, key)
	b.unread -= at.unread()
	if at.begun != nil {
		at.request = b.fields(b.request, at, inRequest, at.begun, false)
	}
	if at.given != nil {
		at.request = b.joined(b.request, at, inRequest, at.given)
	}
	if string(method) == http.MethodHead {
		at.response, at.answered = nil, nil // behind its head is the response before
	}
	if at.answered != nil {
		at.response = b.joined(b.response, at, inResponse, at.answered)
	}
	op.RequestFields, op.ResponseFields = at.request, at.response
	b.count(at.missed)
}
