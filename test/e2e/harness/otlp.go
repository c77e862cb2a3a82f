package harness

import (
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlpcommon "go.opentelemetry.io/proto/otlp/common/v1"
	otlptrace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // what an agent may send
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Receiver is an OTLP endpoint, gRPC or HTTP, built from the official packages.
type Receiver struct {
	coltrace.UnimplementedTraceServiceServer
	// Addr is host:port.
	Addr string
	// CA is a file with the certificate to trust, "" without TLS.
	CA string

	mu      sync.Mutex
	spans   []Span
	scopes  map[string]bool
	headers map[string]string
	gzipped bool
	refuse  int // how many requests more are answered "unavailable"
}

// StartReceiver listens until the test ends. useTLS gives it a certificate of
// its own, which only holders of CA trust.
func StartReceiver(t testing.TB, useGRPC, useTLS bool) *Receiver {
	t.Helper()
	r := &Receiver{scopes: map[string]bool{}, headers: map[string]string{}}
	var conf *tls.Config
	if useTLS {
		cert, path := Certificate(t)
		r.CA = path
		conf = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.Addr = l.Addr().String()
	if useGRPC {
		var opts []grpc.ServerOption
		if conf != nil {
			opts = append(opts, grpc.Creds(credentials.NewTLS(conf)))
		}
		s := grpc.NewServer(opts...)
		coltrace.RegisterTraceServiceServer(s, r)
		go func() { _ = s.Serve(l) }()
		t.Cleanup(s.Stop)
		return r
	}
	s := &http.Server{Handler: r, TLSConfig: conf, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if conf != nil {
			_ = s.ServeTLS(l, "", "")
		} else {
			_ = s.Serve(l)
		}
	}()
	t.Cleanup(func() { _ = s.Close() })
	return r
}

// URL is the endpoint as OTEL_EXPORTER_OTLP_ENDPOINT wants it.
func (r *Receiver) URL() string {
	if r.CA != "" {
		return "https://" + r.Addr
	}
	return "http://" + r.Addr
}

// Refuse lets the next n requests fail in a way that says: try again.
func (r *Receiver) Refuse(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = n
}

// Export implements the gRPC service.
func (r *Receiver) Export(ctx context.Context, req *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	headers := map[string]string{}
	for k, v := range md {
		headers[k] = v[0]
	}
	if err := r.take(req, headers, headers["grpc-encoding"] == "gzip"); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &coltrace.ExportTraceServiceResponse{}, nil
}

// ServeHTTP implements OTLP over HTTP.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path != "/v1/traces" || req.Method != http.MethodPost || req.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "want POST /v1/traces with protobuf", http.StatusNotFound)
		return
	}
	var body io.Reader = req.Body
	zipped := req.Header.Get("Content-Encoding") == "gzip"
	if zipped {
		z, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = z
	}
	data, err := io.ReadAll(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var msg coltrace.ExportTraceServiceRequest
	if err := proto.Unmarshal(data, &msg); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	headers := map[string]string{}
	for k := range req.Header {
		headers[http.CanonicalHeaderKey(k)] = req.Header.Get(k)
	}
	if err := r.take(&msg, headers, zipped); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (r *Receiver) take(req *coltrace.ExportTraceServiceRequest, headers map[string]string, zipped bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse > 0 {
		r.refuse--
		return errors.New("not now")
	}
	r.headers, r.gzipped = headers, zipped
	for _, rs := range req.ResourceSpans {
		res := attributes(rs.GetResource().GetAttributes())
		for _, ss := range rs.ScopeSpans {
			r.scopes[ss.GetScope().GetName()] = true
			for _, s := range ss.Spans {
				r.spans = append(r.spans, fromOTLP(s, res))
			}
		}
	}
	return nil
}

var kinds = map[otlptrace.Span_SpanKind]string{
	otlptrace.Span_SPAN_KIND_SERVER: "server", otlptrace.Span_SPAN_KIND_CLIENT: "client",
	otlptrace.Span_SPAN_KIND_INTERNAL: "internal",
}

var statuses = map[otlptrace.Status_StatusCode]string{
	otlptrace.Status_STATUS_CODE_UNSET: "unset", otlptrace.Status_STATUS_CODE_OK: "ok", otlptrace.Status_STATUS_CODE_ERROR: "error",
}

func fromOTLP(s *otlptrace.Span, res map[string]any) Span {
	out := Span{
		TraceID: hex.EncodeToString(s.TraceId), SpanID: hex.EncodeToString(s.SpanId), ParentSpanID: hex.EncodeToString(s.ParentSpanId),
		TraceState: s.TraceState, Flags: int(s.Flags), Name: s.Name, Kind: kinds[s.Kind],
		Start: time.Unix(0, int64(s.StartTimeUnixNano)), End: time.Unix(0, int64(s.EndTimeUnixNano)),
		DurationNs: int64(s.EndTimeUnixNano - s.StartTimeUnixNano), Status: statuses[s.GetStatus().GetCode()],
		StatusText: s.GetStatus().GetMessage(), Attributes: attributes(s.Attributes), Resource: res,
	}
	// Bits 8 and 9 say whether the parent is remote, and whether that is known.
	out.ParentRemote = s.Flags&(3<<8) == 3<<8
	for _, e := range s.Events {
		out.Events = append(out.Events, SpanEvent{Name: e.Name, Time: time.Unix(0, int64(e.TimeUnixNano)), Attributes: attributes(e.Attributes)})
	}
	return out
}

func attributes(kvs []*otlpcommon.KeyValue) map[string]any {
	m := make(map[string]any, len(kvs))
	for _, kv := range kvs {
		switch v := kv.GetValue().GetValue().(type) {
		case *otlpcommon.AnyValue_StringValue:
			m[kv.Key] = v.StringValue
		case *otlpcommon.AnyValue_IntValue:
			m[kv.Key] = float64(v.IntValue) // as JSON has it
		case *otlpcommon.AnyValue_BoolValue:
			m[kv.Key] = v.BoolValue
		case *otlpcommon.AnyValue_DoubleValue:
			m[kv.Key] = v.DoubleValue
		default:
			m[kv.Key] = kv.GetValue().String()
		}
	}
	return m
}

// Spans is everything received so far.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Span(nil), r.spans...)
}

// WaitSpans waits until n spans are there and returns all.
func (r *Receiver) WaitSpans(t testing.TB, n int) []Span {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		got := r.Spans()
		if len(got) >= n {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d spans received after 30 s, want %d", len(got), n)
		}
	}
}

// Header is a header of the last request; names as the protocol has them.
func (r *Receiver) Header(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.headers[name]
}

// Gzipped says whether the last request was compressed.
func (r *Receiver) Gzipped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gzipped
}

// Scopes are the names of instrumentation scopes seen.
func (r *Receiver) Scopes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for s := range r.scopes {
		out = append(out, s)
	}
	return out
}

// Certificate makes a self-signed certificate for 127.0.0.1, and more addresses, and writes
// it to a file.
func Certificate(t testing.TB, more ...net.IP) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "receiver"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: append(more, net.IPv4(127, 0, 0, 1)), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, path
}
