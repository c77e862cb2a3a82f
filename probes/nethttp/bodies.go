package nethttp

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"
	"unsafe"

	"github.com/tracer-agent/tracer-agent/internal/event"
	"github.com/tracer-agent/tracer-agent/internal/jsonfields"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Bodies are the fields of JSON bodies that somebody asks for, by path; nothing is read of a
// body when there are none.
type Bodies struct {
	Request, Response []string
	// Missed counts a JSON body of which not everything could be looked at; may be nil.
	Missed func(body, reason string)
}

func (b Bodies) want() (want uint32) {
	if len(b.Request) > 0 {
		want |= uint32(bpfNhBodyWantWANT_REQUEST)
	}
	if len(b.Response) > 0 {
		want |= uint32(bpfNhBodyWantWANT_RESPONSE)
	}
	return want
}

// Reasons that Bodies.Missed is given.
const (
	missIncomplete = "incomplete" // not all of it was in the program's buffers
	missNotJSON    = "not_json"
	missEncoded    = "encoded"
)

const (
	bodyHead  = int(unsafe.Offsetof(bpfNhBody{}.Raw))
	bodyMax   = int(unsafe.Sizeof(bpfNhBody{}.Raw))
	maxBodies = 4096    // operations in flight of which something is known
	maxUnread = 4 << 20 // bytes of bodies that wait for their rest
	maxText   = 256     // bytes of a field that is a text; longer ones are cut
	// maxWait is how long an operation's bodies are kept for it, in ns: its record may be
	// lost, or its program gone.
	maxWait  = uint64(5 * time.Minute)
	maxPlain = 1 << 16 // bytes that a compressed body may become
)

const (
	inRequest  = "request"
	inResponse = "response"
)

// opKey is one operation of one goroutine.
type opKey struct {
	pid         int32
	goid, start uint64
}

// body is what is known of an operation's bodies before its own record comes.
type body struct {
	request, response map[string]any
	begun             []byte // of a request whose rest may come
	missed            [][2]string
}

// bodies collects the fields of bodies until their operation comes. Its records are the
// content of strangers: only the wanted fields are kept, and only until then.
type bodies struct {
	cfg               Bodies
	redact            Redactor
	request, response *jsonfields.Paths
	open              map[opKey]*body
	unread            int // bytes of all begun
	swept             uint64
	rec               bpfNhBody
	raw               bytes.Reader
	buf               *bufio.Reader
}

func newBodies(cfg Bodies, r Redactor) (*bodies, error) {
	b := &bodies{cfg: cfg, redact: r, open: map[opKey]*body{}, buf: bufio.NewReaderSize(nil, bodyMax)}
	var err error
	if b.request, err = jsonfields.New(cfg.Request); err != nil {
		return nil, fmt.Errorf("fields of request bodies: %w", err)
	}
	if b.response, err = jsonfields.New(cfg.Response); err != nil {
		return nil, fmt.Errorf("fields of response bodies: %w", err)
	}
	return b, nil
}

// take reads a record of part of a body.
func (b *bodies) take(rec event.Record) error {
	if len(rec.Raw) < bodyHead || len(rec.Raw) > bodyHead+bodyMax {
		return fmt.Errorf("%w: body in %d bytes", ErrRecord, len(rec.Raw))
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&b.rec)), bodyHead+bodyMax), rec.Raw)
	r := &b.rec
	if int(r.Len) > len(rec.Raw)-bodyHead {
		return fmt.Errorf("%w: body of %d bytes in a record of %d", ErrRecord, r.Len, len(rec.Raw))
	}
	key := opKey{rec.PID, r.Goid, r.StartNs}
	if r.StartNs > b.swept+maxWait/4 {
		b.sweep(r.StartNs)
	}
	at := b.open[key]
	if at == nil {
		if len(b.open) >= maxBodies {
			clear(b.open) // operations that never came to an end; those in flight lose theirs
			b.unread = 0
		}
		at = &body{}
		b.open[key] = at
	}
	raw := r.Raw[:r.Len]
	switch bpfNhBodyKind(r.Kind) {
	case bpfNhBodyKindBODY_REQUEST:
		b.begin(at, raw, r.Size)
	case bpfNhBodyKindBODY_REST:
		if at.begun == nil || len(at.begun)+len(raw) != cap(at.begun) {
			break // it has been given up, or is of another body
		}
		b.unread -= len(at.begun)
		at.request = b.fields(b.request, at, inRequest, append(at.begun, raw...), true)
		at.begun = nil
	case bpfNhBodyKindBODY_RESPONSE:
		at.response = b.answer(at, raw)
	default:
		return fmt.Errorf("%w: body of kind %d", ErrRecord, r.Kind)
	}
	return nil
}

// sweep forgets bodies whose operation began long before now, ns of the kernel's clock.
func (b *bodies) sweep(now uint64) {
	b.swept = now
	for key, at := range b.open {
		if key.start+maxWait < now {
			b.unread -= len(at.begun)
			b.count(append(at.missed, [2]string{inRequest, missIncomplete}))
			delete(b.open, key)
		}
	}
}

func (b *bodies) count(missed [][2]string) {
	if b.cfg.Missed == nil {
		return
	}
	for _, m := range missed {
		b.cfg.Missed(m[0], m[1])
	}
}

// begin takes the beginning of a request's body.
func (b *bodies) begin(at *body, raw []byte, size int64) {
	b.unread -= len(at.begun)
	at.begun = nil
	switch {
	case size < 0:
		b.raw.Reset(raw)
		plain, err := io.ReadAll(httputil.NewChunkedReader(&b.raw))
		at.request = b.fields(b.request, at, inRequest, plain, err == nil)
	case int64(len(raw)) < size && size <= int64(2*bodyMax) && b.unread+len(raw) <= maxUnread:
		at.begun = append(make([]byte, 0, size), raw...) // its capacity says how much there will be
		b.unread += len(raw)
	default:
		at.request = b.fields(b.request, at, inRequest, raw, int64(len(raw)) >= size)
	}
}

// fields are the wanted ones of a body; whole says that nothing is missing of it.
func (b *bodies) fields(paths *jsonfields.Paths, at *body, which string, plain []byte, whole bool) map[string]any {
	values, err := paths.Values(plain)
	switch {
	case errors.Is(err, jsonfields.ErrCut) && !whole:
		at.missed = append(at.missed, [2]string{which, missIncomplete})
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

// answer takes a response: its head and what follows that.
func (b *bodies) answer(at *body, raw []byte) map[string]any {
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
		z, err := gzip.NewReader(bytes.NewReader(plain))
		if err != nil {
			return miss(missEncoded)
		}
		plain, err = io.ReadAll(io.LimitReader(z, maxPlain))
		whole = err == nil && len(plain) < maxPlain
	default:
		return miss(missEncoded)
	}
	return b.fields(b.response, at, inResponse, plain, whole)
}

// give hands the fields to their operation, and counts what is missing.
func (b *bodies) give(op *telemetry.Operation, key opKey, method []byte) {
	at := b.open[key]
	if at == nil {
		return
	}
	delete(b.open, key)
	if at.begun != nil {
		b.unread -= len(at.begun)
		at.request = b.fields(b.request, at, inRequest, at.begun, false)
	}
	if string(method) == http.MethodHead {
		at.response = nil // behind its head is the response before
	}
	op.RequestFields, op.ResponseFields = at.request, at.response
	b.count(at.missed)
}
