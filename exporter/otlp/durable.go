package otlp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/exporter/spool"
	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const (
	// directTimeout bounds the try before a batch goes to disk; agents are given little
	// time to end, and what is on disk by then is safe.
	directTimeout = time.Second
	againFirst    = 500 * time.Millisecond
	againMax      = 30 * time.Second
)

// Durable is an Exporter that writes to disk what it cannot deliver, and delivers it
// when the destination is back, also after a restart. A batch is tried once before; while
// anything is on disk, all that comes goes there too, so that a slow destination does
// not hold up the queue in memory.
type Durable struct {
	*Exporter
	queue   *spool.Queue
	log     *slog.Logger
	timeout time.Duration

	lost, refused, delivered *selfmetrics.Counter

	mu      sync.Mutex
	trouble error // why the last batch was not delivered, nil when it was

	kick   chan struct{}
	cancel context.CancelFunc
	done   sync.WaitGroup
	once   sync.Once
}

var (
	_ exporter.Exporter = (*Durable)(nil)
	_ exporter.Noter    = (*Durable)(nil)
)

// NewDurable is New with a queue on disk.
func NewDurable(ctx context.Context, cfg config.OTLP, disk config.DiskQueue, version string, log *slog.Logger, metrics *selfmetrics.Registry) (*Durable, error) {
	queue, damaged, err := spool.Open(disk.Directory, disk.MaxBytes)
	if err != nil {
		return nil, err
	}
	if damaged != nil {
		log.Error("the queue on disk was damaged and is put aside; its spans are lost", "error", damaged)
	}
	e, err := newExporter(ctx, cfg, version, false)
	if err != nil {
		return nil, errors.Join(err, queue.Close())
	}
	label := selfmetrics.L("exporter", e.Name())
	d := &Durable{
		Exporter: e, queue: queue, log: log, timeout: cfg.Timeout, kick: make(chan struct{}, 1),
		lost:      metrics.Lost(selfmetrics.DiskFull, "any", label),
		refused:   metrics.Lost(selfmetrics.ExportFailure, "any", label),
		delivered: metrics.Counter(selfmetrics.NameDiskDelivered, label),
	}
	metrics.Func(selfmetrics.NameDiskQueue, "", selfmetrics.KindGauge, func(emit selfmetrics.Emit) {
		_, size := queue.Len()
		emit(float64(size), label)
	})
	if n, size := queue.Len(); n > 0 {
		log.Info("spans of an earlier run are on disk", "batches", n, "bytes", size)
	}
	run, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	d.done.Go(func() { d.deliver(run) })
	return d, nil
}

// ExportSpans sends ops, or puts them on disk; an error says that neither was possible.
func (d *Durable) ExportSpans(ctx context.Context, ops []*telemetry.Operation) error {
	var rejected *exporter.RejectedError
	for len(ops) > 0 {
		spans, n := d.enc.encode(ops, maxRequestBytes)
		err := errQueued
		if waiting, _ := d.queue.Len(); waiting == 0 {
			try, cancel := context.WithTimeout(ctx, directTimeout)
			err = d.upload(try, spans)
			cancel()
		}
		r := partialSuccess(err)
		switch {
		case err == nil:
		case r != nil:
			if rejected != nil {
				r.Spans += rejected.Spans
			}
			rejected = r
		case d.permanent(err):
			return fmt.Errorf("send to %s: %w", d.Name(), err)
		default:
			dropped, err := d.queue.Put(d.enc.request(), n)
			if err != nil {
				return err
			}
			d.lost.Add(uint64(dropped))
			select {
			case d.kick <- struct{}{}:
			default:
			}
		}
		ops = ops[n:]
	}
	if rejected != nil {
		return rejected
	}
	return nil
}

var errQueued = errors.New("others wait on disk")

func (d *Durable) upload(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	d.answer.Store(0)
	err := d.client.UploadTraces(ctx, spans)
	d.mu.Lock()
	d.trouble = err
	d.mu.Unlock()
	return err
}

// Note implements exporter.Noter.
func (d *Durable) Note() string {
	n, size := d.queue.Len()
	if n == 0 {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.trouble == nil {
		return fmt.Sprintf("%d batches, %d bytes, are being sent from disk", n, size)
	}
	return fmt.Sprintf("%d batches, %d bytes, wait on disk: %v", n, size, d.trouble)
}

// permanent says that the destination will never take the batch, which would hold up
// all others. Refused credentials are not that: they can be put right.
func (d *Durable) permanent(err error) bool {
	switch d.answer.Load() {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	}
	var s interface{ GRPCStatus() *status.Status }
	return errors.As(err, &s) && s.GRPCStatus().Code() == codes.InvalidArgument
}

// deliver sends what is on disk, the oldest first, until ctx ends.
func (d *Durable) deliver(ctx context.Context) {
	wait := againFirst
	for ctx.Err() == nil {
		b, err := d.queue.First()
		if err != nil {
			d.log.Error("reading the queue on disk", "error", err)
		}
		if b == nil {
			wait = againFirst
			select {
			case <-ctx.Done():
				return
			case <-d.kick:
			case <-time.After(againMax):
			}
			// What has just failed is not tried at once.
			pause(ctx, wait)
			continue
		}
		if d.send(ctx, b) {
			wait = againFirst
			continue
		}
		pause(ctx, wait/2+rand.N(wait/2))
		wait = min(2*wait, againMax)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// send tries one batch and removes it when it is dealt with.
func (d *Durable) send(ctx context.Context, b *spool.Batch) bool {
	spans, err := parseRequest(b.Data)
	if err != nil {
		d.log.Error("a batch on disk is damaged", "spans", b.Spans, "error", err)
		d.refused.Add(uint64(b.Spans))
		return d.finish(b)
	}
	try, cancel := context.WithTimeout(ctx, d.timeout)
	err = d.upload(try, spans)
	cancel()
	r := partialSuccess(err)
	switch {
	case err == nil:
		d.delivered.Add(uint64(b.Spans))
	case r != nil:
		d.refused.Add(uint64(max(0, r.Spans)))
	case d.permanent(err):
		d.log.Warn("a batch of the disk is refused by its destination", "spans", b.Spans, "error", err)
		d.refused.Add(uint64(b.Spans))
	default:
		return false
	}
	return d.finish(b)
}

func (d *Durable) finish(b *spool.Batch) bool {
	if err := d.queue.Done(b); err != nil {
		d.log.Error("removing a batch from the queue on disk", "error", err)
		return false
	}
	return true
}

// Shutdown stops delivering; what is on disk stays for the next run.
func (d *Durable) Shutdown(ctx context.Context) (err error) {
	d.once.Do(func() {
		d.cancel()
		d.done.Wait()
		err = errors.Join(d.queue.Close(), d.Exporter.Shutdown(ctx))
	})
	return err
}

// requestResourceSpans is ExportTraceServiceRequest's only field.
const requestResourceSpans = 1

// request is the last result of encode as an ExportTraceServiceRequest.
func (e *encoder) request() []byte {
	out := make([]byte, 0, len(e.wire)+8*len(e.ends))
	from := 0
	for _, to := range e.ends {
		out = appendBytes(out, requestResourceSpans, e.wire[from:to])
		from = to
	}
	return out
}

// parseRequest takes a request apart without looking into the spans.
func parseRequest(data []byte) ([]*tracepb.ResourceSpans, error) {
	var out []*tracepb.ResourceSpans
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 || num != requestResourceSpans || typ != protowire.BytesType {
			return nil, errors.New("not an export request")
		}
		v, m := protowire.ConsumeBytes(data[n:])
		if m < 0 {
			return nil, protowire.ParseError(m)
		}
		rs := &tracepb.ResourceSpans{}
		rs.ProtoReflect().SetUnknown(v)
		out = append(out, rs)
		data = data[n+m:]
	}
	return out, nil
}
