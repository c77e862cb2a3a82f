package event

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/tracer-agent/tracer-agent/internal/ring"
)

// HeaderLen is the size of struct event_hdr (bpf/lib/event.h) in bytes.
const HeaderLen = 24

// The ring is looked at every minPoll while records come, and every maxPoll while none do:
// programs do not wake the reader, because a wake-up costs 10-20 µs of the watched
// program's time, until a wakeShare of the ring is full. A look has a price as well, so the
// reader rests when nothing has come for pauseAfter: the first record of a probe that was
// silent for SILENT_NS (bpf/lib/event.h), which is less, does wake it.
const (
	minPoll    = 80 * time.Millisecond
	maxPoll    = 160 * time.Millisecond
	pauseAfter = 3 * time.Second
	restPoll   = 5 * time.Second
	wakeShare  = 8
)

// WakeBytes is how full a ring of a size is when programs wake its reader.
func WakeBytes(ring int) int { return ring / wakeShare }

// Header begins every record. It mirrors struct event_hdr.
type Header struct {
	ProbeID     uint16
	Type        uint8
	Len         uint32 // of the whole record, bytes
	PID         int32  // in the initial pid namespace
	ExeID       uint32
	ProcStartNs uint64 // CLOCK_BOOTTIME
}

// Record is one record; Raw includes the header and is only valid until the next read.
type Record struct {
	Header
	Raw []byte
}

// ErrTruncated says that a record is shorter than its header or than the header claims.
var ErrTruncated = errors.New("truncated record")

// Parse splits raw into a Record that aliases it.
func Parse(raw []byte) (Record, error) {
	if len(raw) < HeaderLen {
		return Record{}, fmt.Errorf("%w: %d bytes, header has %d", ErrTruncated, len(raw), HeaderLen)
	}
	le := binary.NativeEndian
	r := Record{Header: Header{
		ProbeID:     le.Uint16(raw),
		Type:        raw[2],
		Len:         le.Uint32(raw[4:]),
		PID:         int32(le.Uint32(raw[8:])),
		ExeID:       le.Uint32(raw[12:]),
		ProcStartNs: le.Uint64(raw[16:]),
	}}
	if r.Len < HeaderLen || uint64(r.Len) > uint64(len(raw)) {
		return Record{}, fmt.Errorf("%w: %d bytes, header says %d", ErrTruncated, len(raw), r.Len)
	}
	r.Raw = raw[:r.Len]
	return r, nil
}

// Reader reads records from the ring buffer. It is used by one goroutine, but for Drained.
type Reader struct {
	ring *ring.Reader
	rec  ringbuf.Record
	poll time.Duration
	last time.Time // of a record

	mu      sync.Mutex
	waiting []chan struct{} // for a pass that begins from now on
	ended   bool            // Run has returned
}

// NewReader opens a reader on the ring buffer map.
func NewReader(m *ebpf.Map) (*Reader, error) {
	r, err := ring.NewReader(m)
	if err != nil {
		return nil, err
	}
	return &Reader{ring: r, poll: minPoll, last: time.Now()}, nil
}

// Run calls handle for every record, and bad for every one that cannot be
// split, until ctx is done; then it empties the ring once more and returns.
func (r *Reader) Run(ctx context.Context, handle func(Record), bad func(error)) error {
	defer r.end()
	defer context.AfterFunc(ctx, r.ring.Wake)()
	for {
		if err := r.drain(handle, bad); err != nil {
			return err
		}
		if ctx.Err() != nil {
			r.ring.Wake() // no more waiting
			return r.drain(handle, bad)
		}
	}
}

// Drained returns when every record that is in the ring now has been handled, or Run has
// returned. handle must not wait for it.
func (r *Reader) Drained() {
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return
	}
	done := make(chan struct{})
	r.waiting = append(r.waiting, done)
	r.mu.Unlock()
	r.ring.Wake()
	<-done
}

func (r *Reader) takeWaiting() []chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.waiting
	r.waiting = nil
	return w
}

func (r *Reader) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	release(r.takeWaiting())
}

func release(waiting []chan struct{}) {
	for _, w := range waiting {
		close(w)
	}
}

// drain is one pass: it waits for the poll interval or a wake-up, then reads all there is.
// When records come as fast as they are read it ends with a ring's worth of bytes, which
// is more than there was when it began.
func (r *Reader) drain(handle func(Record), bad func(error)) error {
	waiting := r.takeWaiting()
	defer release(waiting)
	now, wait, enough := time.Now(), r.poll, WakeBytes(r.ring.Size())
	switch {
	case len(waiting) > 0:
		wait = 0
	case now.Sub(r.last) > pauseAfter:
		wait, enough = restPoll, 1
	}
	r.poll = min(2*r.poll, maxPoll)
	if err := r.ring.Wait(now.Add(wait), enough); err != nil {
		return err
	}
	for left := r.ring.Size(); left > 0; left -= len(r.rec.RawSample) {
		ok, err := r.ring.Read(&r.rec)
		if err != nil || !ok {
			return err
		}
		if now.After(r.last) { // once a pass
			r.poll, r.last = minPoll, time.Now()
		}
		rec, err := Parse(r.rec.RawSample)
		if err != nil {
			bad(err)
			continue
		}
		handle(rec)
	}
	return nil
}

// Close frees the reader. Run must have returned.
func (r *Reader) Close() error { return r.ring.Close() }
