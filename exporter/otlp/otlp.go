// Package otlp sends spans by OTLP over gRPC or HTTP. Transport, retries and
// compression are the OpenTelemetry Go SDK's own exporter clients; this package
// only builds the protobuf messages, in memory that is used again for every
// batch.
package otlp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Retries of one batch: the queue behind it is bounded, so holding on to a
// batch for long only moves the loss. Timeouts bound the sum.
const (
	retryInitial = 500 * time.Millisecond
	retryMax     = 5 * time.Second
	retryElapsed = 30 * time.Second
	// reconnectMax replaces gRPC's two minutes: a collector that is back should
	// not wait that long for spans.
	reconnectMax = 5 * time.Second
	idleTimeout  = 90 * time.Second
)

// maxRequestBytes is where a batch is cut into several requests: receivers
// refuse a gRPC message above 4 MiB unless told otherwise, and refuse it whole.
const maxRequestBytes = 3 << 20

// Exporter implements exporter.Exporter. Use New.
type Exporter struct {
	client otlptrace.Client
	enc    *encoder
	close  func()
	// answer is the last HTTP status, 0 for none.
	answer *atomic.Int32
}

var (
	_ exporter.Exporter  = (*Exporter)(nil)
	_ exporter.Transient = (*Exporter)(nil)
)

// New connects lazily: an endpoint that does not answer is no error here.
// version is the agent's own.
func New(ctx context.Context, cfg config.OTLP, version string) (*Exporter, error) {
	return newExporter(ctx, cfg, version, true)
}

// newExporter makes an exporter that tries a batch again, or does not.
func newExporter(ctx context.Context, cfg config.OTLP, version string, again bool) (*Exporter, error) {
	u, err := cfg.TracesURL()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	e := &Exporter{enc: newEncoder(version), close: func() {}, answer: &atomic.Int32{}}
	if cfg.Protocol == config.ProtocolGRPC {
		e.client = grpcClient(cfg, u, tlsConfig, again)
	} else {
		h := httpClient(cfg, tlsConfig)
		h.Transport = &noting{h.Transport, e.answer}
		e.close = h.CloseIdleConnections
		e.client = traceHTTPClient(cfg, u, h, again)
	}
	if err := e.client.Start(ctx); err != nil {
		return nil, fmt.Errorf("start OTLP exporter: %w", err)
	}
	return e, nil
}

// grpcClient and traceHTTPClient pass every option, so that the environment,
// which the SDK reads by itself, never overrules a file or a flag.
// Only the compressor is left out when there is none: the SDK complains of any other.
func grpcClient(cfg config.OTLP, u *url.URL, tlsConfig *tls.Config, again bool) otlptrace.Client {
	target, compressor, creds := grpcTarget(cfg, u, tlsConfig)
	var zip []otlptracegrpc.Option
	if compressor != "" {
		zip = append(zip, otlptracegrpc.WithCompressor(compressor))
	}
	return otlptracegrpc.NewClient(append(zip,
		otlptracegrpc.WithEndpoint(target),
		otlptracegrpc.WithHeaders(cfg.Headers),
		otlptracegrpc.WithTimeout(cfg.Timeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: again, InitialInterval: retryInitial, MaxInterval: retryMax, MaxElapsedTime: retryElapsed,
		}),
		otlptracegrpc.WithDialOption(
			grpc.WithTransportCredentials(creds),
			connectParams(),
		),
	)...)
}

// grpcTarget is what both signals need of the configuration.
func grpcTarget(cfg config.OTLP, u *url.URL, tlsConfig *tls.Config) (target, compressor string, creds credentials.TransportCredentials) {
	creds = insecure.NewCredentials()
	if u.Scheme == "https" {
		creds = credentials.NewTLS(tlsConfig)
	}
	target = u.Host
	if u.Scheme == "unix" {
		target = u.String()
	}
	if cfg.Compression == config.CompressionGzip {
		compressor = "gzip"
	}
	return target, compressor, creds
}

func connectParams() grpc.DialOption {
	return grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: retryInitial, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMax},
		MinConnectTimeout: reconnectMax,
	})
}

func traceHTTPClient(cfg config.OTLP, u *url.URL, h *http.Client, again bool) otlptrace.Client {
	return otlptracehttp.NewClient(
		otlptracehttp.WithEndpointURL(u.String()),
		otlptracehttp.WithHeaders(cfg.Headers),
		otlptracehttp.WithCompression(otlptracehttp.NoCompression), // httpClient does it
		otlptracehttp.WithHTTPClient(h),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: again, InitialInterval: retryInitial, MaxInterval: retryMax, MaxElapsedTime: retryElapsed,
		}),
	)
}

// tlsConfig reads the certificates.
func tlsConfig(cfg config.OTLP) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.Certificate != "" {
		pem, err := os.ReadFile(cfg.Certificate)
		if err != nil {
			return nil, fmt.Errorf("read OTLP certificate: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("OTLP certificate %s: holds no PEM certificate", cfg.Certificate)
		}
	}
	if cfg.ClientCertificate != "" {
		pair, err := tls.LoadX509KeyPair(cfg.ClientCertificate, cfg.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("read OTLP client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Name implements exporter.Exporter.
func (*Exporter) Name() string { return "otlp" }

// Transient implements exporter.Transient: what is sent is encoded.
func (*Exporter) Transient() {}

// ExportSpans sends ops in one request, or in several when they are large. When
// one fails the rest is not tried: the destination that refused it is the same.
func (e *Exporter) ExportSpans(ctx context.Context, ops []*telemetry.Operation) error {
	var rejected *exporter.RejectedError
	for len(ops) > 0 {
		spans, n := e.enc.encode(ops, maxRequestBytes)
		err := e.client.UploadTraces(ctx, spans)
		if r := partialSuccess(err); r != nil {
			if rejected != nil {
				r.Spans += rejected.Spans
			}
			rejected = r
		} else if err != nil {
			return fmt.Errorf("send to %s: %w", e.Name(), err)
		}
		ops = ops[n:]
	}
	if rejected != nil {
		return rejected
	}
	return nil
}

// partialText is the text of the SDK's error, whose type is internal to it.
var partialText = regexp.MustCompile(`^OTLP partial success: (?s:(.*)) \((\d+) spans rejected\)`)

func partialSuccess(err error) *exporter.RejectedError {
	if err == nil {
		return nil
	}
	m := partialText.FindStringSubmatch(err.Error())
	if m == nil {
		return nil
	}
	n, err := strconv.ParseInt(m[2], 10, 64)
	if err != nil {
		return nil
	}
	return &exporter.RejectedError{Spans: n, Message: m[1]}
}

// Shutdown closes the connection.
func (e *Exporter) Shutdown(ctx context.Context) error {
	err := e.client.Stop(ctx)
	e.close()
	if err != nil {
		return fmt.Errorf("stop OTLP exporter: %w", err)
	}
	return nil
}
