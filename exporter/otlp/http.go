package otlp

import (
	"bytes"
	stdgzip "compress/gzip"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/encoding/gzip"

	"github.com/tracer-agent/tracer-agent/internal/config"
)

// gzipLevel instead of the default 6: spans become 3 % larger for a third of
// the CPU time (BenchmarkEncode).
const gzipLevel = 3

// gRPC's compressor is process-wide and may only be set up in init.
func init() {
	if err := gzip.SetLevel(gzipLevel); err != nil {
		panic(err) // the constant is not a level
	}
}

// httpClient is what the SDK would make itself, but with our TLS settings in
// every case, our compression, and connections of its own.
func httpClient(cfg config.OTLP, tlsConfig *tls.Config) *http.Client {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: cfg.Timeout,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        4,
		IdleConnTimeout:     idleTimeout,
	}
	c := &http.Client{Transport: &retriable{t}, Timeout: cfg.Timeout}
	if cfg.Compression == config.CompressionGzip {
		c.Transport = &compressing{next: c.Transport}
	}
	return c
}

// noting is a transport that remembers the last answer's status: the SDK's errors only
// have it in their text.
type noting struct {
	next   http.RoundTripper
	status *atomic.Int32
}

// RoundTrip implements http.RoundTripper.
func (n *noting) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := n.next.RoundTrip(r)
	if err == nil {
		n.status.Store(int32(resp.StatusCode))
	}
	return resp, err
}

// CloseIdleConnections lets http.Client reach the transport's.
func (n *noting) CloseIdleConnections() {
	if t, ok := n.next.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// retriable is a transport that marks lost connections as temporary: OTLP asks
// for another try then, but the SDK only knows what says so itself.
type retriable struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (t *retriable) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(r)
	var op *net.OpError
	switch {
	case err == nil || r.Context().Err() != nil:
		return resp, err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.As(err, &op) && (op.Op == "dial" || op.Op == "read" || op.Op == "write"):
		return nil, temporary{err}
	default: // a certificate that is not trusted, for one, stays so
		return nil, err
	}
}

type temporary struct{ error }

func (temporary) Temporary() bool { return true }
func (t temporary) Unwrap() error { return t.error }

// compressing is a transport that compresses request bodies: the SDK's own
// compression has a fixed level.
type compressing struct {
	next    http.RoundTripper
	writers sync.Pool
}

// RoundTrip implements http.RoundTripper.
func (c *compressing) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return c.next.RoundTrip(r)
	}
	w, ok := c.writers.Get().(*stdgzip.Writer)
	if !ok {
		var err error
		if w, err = stdgzip.NewWriterLevel(io.Discard, gzipLevel); err != nil {
			return nil, fmt.Errorf("compress spans: %w", err)
		}
	}
	defer c.writers.Put(w)
	// Not from a pool: the transport may read it after RoundTrip has returned.
	var buf bytes.Buffer
	w.Reset(&buf)
	_, err := io.Copy(w, r.Body)
	r.Body.Close()
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("compress spans: %w", err)
	}
	out := r.Clone(r.Context())
	out.Body = io.NopCloser(&buf)
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil }
	out.ContentLength = int64(buf.Len())
	out.Header.Set("Content-Encoding", "gzip")
	return c.next.RoundTrip(out)
}

// CloseIdleConnections lets http.Client reach the transport's.
func (c *compressing) CloseIdleConnections() {
	if t, ok := c.next.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}
