package otlp

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/selfmetrics"
)

// trouble is what is wrong with a destination.
type trouble string

const (
	down         trouble = "down"
	slow         trouble = "slow" // it takes what is sent and does not answer
	busy         trouble = "busy"
	unauthorized trouble = "unauthorized"
	expired      trouble = "certificate expired"
	nameGone     trouble = "name gone"
	invalid      trouble = "invalid" // it will never take that
)

// patient is a destination that has a trouble until it is healed.
type patient struct {
	sink
	mu       sync.Mutex
	trouble  trouble
	asked    int // how often, with a trouble
	addr, ca string
	certs    map[bool]*tls.Certificate // by expired
}

func (p *patient) now() trouble {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trouble != "" {
		p.asked++
	}
	return p.trouble
}

func (p *patient) got() (spans, asked int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spans, p.asked
}

// Export implements the gRPC service.
func (p *patient) Export(ctx context.Context, r *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	switch p.now() {
	case slow:
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	case busy:
		return nil, status.Error(codes.Unavailable, "busy")
	case unauthorized:
		return nil, status.Error(codes.Unauthenticated, "no such key")
	case invalid:
		return nil, status.Error(codes.InvalidArgument, "not like this")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sink.Export(ctx, r)
}

// ServeHTTP implements OTLP over HTTP.
func (p *patient) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch p.now() {
	case slow:
		<-r.Context().Done()
		return
	case busy:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case unauthorized:
		w.WriteHeader(http.StatusUnauthorized)
		return
	case invalid:
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sink.ServeHTTP(w, r)
}

// certificate makes one for the address that signs itself and has ended or not.
func certificate(t *testing.T, ended bool) (*tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	if ended {
		tmpl.NotAfter = time.Now().Add(-24 * time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func newPatient(t *testing.T, with trouble) *patient {
	t.Helper()
	p := &patient{trouble: with, addr: freeAddr(t)}
	if with != expired {
		return p
	}
	p.ca, p.certs = filepath.Join(t.TempDir(), "ca.pem"), map[bool]*tls.Certificate{}
	var all []byte
	for _, ended := range []bool{false, true} {
		cert, text := certificate(t, ended)
		p.certs[ended] = cert
		all = append(all, text...)
	}
	if err := os.WriteFile(p.ca, all, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// listen serves until the test ends.
func (p *patient) listen(t *testing.T, protocol string) {
	t.Helper()
	lis, err := net.Listen("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	var conf *tls.Config
	if p.certs != nil {
		conf = &tls.Config{NextProtos: []string{"h2", "http/1.1"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return p.certs[p.now() == expired], nil
		}}
	}
	if protocol == config.ProtocolGRPC {
		var opts []grpc.ServerOption
		if conf != nil {
			opts = append(opts, grpc.Creds(credentials.NewTLS(conf)))
		}
		g := grpc.NewServer(opts...)
		coltracepb.RegisterTraceServiceServer(g, p)
		go g.Serve(lis)
		t.Cleanup(g.Stop)
		return
	}
	h := &http.Server{Handler: p, TLSConfig: conf, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	if conf != nil {
		go h.ServeTLS(lis, "", "")
	} else {
		go h.Serve(lis)
	}
	t.Cleanup(func() { h.Close() })
}

func (p *patient) config(protocol string) config.OTLP {
	cfg := config.Default().OTLP
	cfg.Protocol, cfg.Timeout, cfg.Certificate = protocol, time.Second, p.ca
	cfg.Endpoint = "http://" + p.addr
	if p.certs != nil {
		cfg.Endpoint = "https://" + p.addr
	}
	return cfg
}

// TestTrouble: with a queue on disk nothing is lost whatever is wrong with the destination,
// and all of it is delivered once that is put right, or once the endpoint is.
func TestTrouble(t *testing.T) {
	const spans = 10
	for _, what := range []trouble{down, slow, busy, unauthorized, expired, nameGone} {
		for _, protocol := range protocols {
			t.Run(string(what)+", "+protocol, func(t *testing.T) {
				t.Parallel()
				p := newPatient(t, what)
				cfg := p.config(protocol)
				if what == nameGone {
					_, port, _ := net.SplitHostPort(p.addr)
					cfg.Endpoint = "http://collector.invalid:" + port
				}
				if what != down {
					p.listen(t, protocol)
				}
				disk, m := config.DiskQueue{Directory: t.TempDir(), MaxBytes: 1 << 20}, selfmetrics.New()
				open := func() *Durable {
					d, err := NewDurable(context.Background(), cfg, disk, "v", slog.New(slog.DiscardHandler), m)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { _ = d.Shutdown(context.Background()) })
					return d
				}
				d := open()
				begin := time.Now()
				if err := d.ExportSpans(context.Background(), operations(spans)); err != nil {
					t.Fatalf("not put on disk: %v", err)
				}
				if took := time.Since(begin); took > 2*directTimeout {
					t.Errorf("the pipeline is held up for %v", took)
				}
				if n, _ := d.queue.Len(); n == 0 {
					t.Fatal("nothing is on disk")
				}
				if note := d.Note(); !strings.Contains(note, "1 batches, ") || !strings.Contains(note, "wait on disk: ") {
					t.Errorf("it says of itself: %q", note)
				}
				if what != down && what != nameGone {
					// It is tried again, and stays.
					eventually(t, 20*time.Second, "tried again", func() bool { _, asked := p.got(); return asked > 1 })
				}
				if n, _ := d.queue.Len(); n == 0 {
					t.Fatal("what was not delivered is no longer on disk")
				}
				p.mu.Lock()
				p.trouble = ""
				p.mu.Unlock()
				switch what {
				case down:
					p.listen(t, protocol)
				case nameGone:
					_ = d.Shutdown(context.Background())
					cfg = p.config(protocol)
					d = open()
				}
				eventually(t, 20*time.Second, "delivered", func() bool {
					got, _ := p.got()
					left, _ := d.queue.Len()
					return got == spans && left == 0
				})
				if lost := total(m, selfmetrics.NameRecordsLost); lost != 0 {
					t.Errorf("%d spans counted as lost", lost)
				}
			})
		}
	}
}

// TestRefusedForGood: what a destination will never take is not kept, and said.
func TestRefusedForGood(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			p := newPatient(t, invalid)
			p.listen(t, protocol)
			d, err := NewDurable(context.Background(), p.config(protocol), config.DiskQueue{Directory: t.TempDir(), MaxBytes: 1 << 20}, "v",
				slog.New(slog.DiscardHandler), selfmetrics.New())
			if err != nil {
				t.Fatal(err)
			}
			defer d.Shutdown(context.Background())
			if err := d.ExportSpans(context.Background(), operations(1)); err == nil {
				t.Error("no error")
			}
			if n, _ := d.queue.Len(); n != 0 {
				t.Errorf("%d batches are kept", n)
			}
		})
	}
}

// TestPartlyRefused: what a destination refuses of a batch is counted and not sent again,
// whether the batch comes from disk or at once.
func TestPartlyRefused(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			p := newPatient(t, busy)
			p.reply = &coltracepb.ExportTracePartialSuccess{RejectedSpans: 3, ErrorMessage: "quota"}
			p.listen(t, protocol)
			m := selfmetrics.New()
			d, err := NewDurable(context.Background(), p.config(protocol), config.DiskQueue{Directory: t.TempDir(), MaxBytes: 1 << 20}, "v",
				slog.New(slog.DiscardHandler), m)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Shutdown(context.Background())
			if err := d.ExportSpans(context.Background(), operations(10)); err != nil {
				t.Fatalf("not put on disk: %v", err)
			}
			p.mu.Lock()
			p.trouble = ""
			p.mu.Unlock()
			eventually(t, 20*time.Second, "taken from disk", func() bool { left, _ := d.queue.Len(); return left == 0 })
			if lost := total(m, selfmetrics.NameRecordsLost); lost != 3 {
				t.Errorf("%d spans from disk counted as lost, want 3", lost)
			}
			var got *exporter.RejectedError
			if err := d.ExportSpans(context.Background(), operations(10)); !errors.As(err, &got) || got.Spans != 3 || got.Message != "quota" {
				t.Errorf("got %v, want a RejectedError of 3 spans", err)
			}
			if left, _ := d.queue.Len(); left != 0 {
				t.Errorf("%d batches are kept to be sent again", left)
			}
			if spans, _ := p.got(); spans != 20 {
				t.Errorf("%d spans were sent, want 20", spans)
			}
		})
	}
}

// TestTroubleIsNamed: without a queue on disk the error says what is wrong.
func TestTroubleIsNamed(t *testing.T) {
	for _, c := range []struct {
		what trouble
		says []string // one of them
	}{
		{down, []string{"connection refused"}},
		{expired, []string{"certificate has expired"}},
		{nameGone, []string{"no such host", "zero addresses", "server misbehaving", "name resolver error", "lookup collector.invalid"}},
		{unauthorized, []string{"401", "Unauthenticated"}},
	} {
		for _, protocol := range protocols {
			t.Run(string(c.what)+", "+protocol, func(t *testing.T) {
				t.Parallel()
				p := newPatient(t, c.what)
				cfg := p.config(protocol)
				if c.what == nameGone {
					cfg.Endpoint = "http://collector.invalid:4317"
				}
				if c.what != down {
					p.listen(t, protocol)
				}
				e, err := New(context.Background(), cfg, "v")
				if err != nil {
					t.Fatal(err)
				}
				defer e.Shutdown(context.Background())
				ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
				defer cancel()
				err = e.ExportSpans(ctx, operations(1))
				for _, text := range c.says {
					if err != nil && strings.Contains(err.Error(), text) {
						return
					}
				}
				t.Errorf("%v, want one of %q", err, c.says)
			})
		}
	}
}
