package otlp

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/tracer-agent/tracer-agent/exporter"
	"github.com/tracer-agent/tracer-agent/internal/config"
)

// sink is a real receiver: it counts spans, and may answer that it refused some.
type sink struct {
	coltracepb.UnimplementedTraceServiceServer
	spans, requests, largest int
	reply                    *coltracepb.ExportTracePartialSuccess
}

func (s *sink) Export(_ context.Context, r *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	s.requests++
	s.largest = max(s.largest, proto.Size(r))
	for _, rs := range r.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			s.spans += len(ss.Spans)
		}
	}
	return &coltracepb.ExportTraceServiceResponse{PartialSuccess: s.reply}, nil
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		gz, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = gz
	}
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var req coltracepb.ExportTraceServiceRequest
	if err := proto.Unmarshal(buf.Bytes(), &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	resp, _ := s.Export(r.Context(), &req)
	out, err := proto.Marshal(resp)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Write(out)
}

// receivers starts the sink behind both protocols and returns their URLs.
func receivers(t testing.TB, s *sink) map[string]string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(g, s)
	go g.Serve(lis)
	t.Cleanup(g.Stop)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return map[string]string{config.ProtocolGRPC: "http://" + lis.Addr().String(), config.ProtocolHTTP: h.URL}
}

func open(t testing.TB, protocol, url string) *Exporter {
	t.Helper()
	cfg := config.Default().OTLP
	cfg.Protocol, cfg.Endpoint = protocol, url
	e, err := New(context.Background(), cfg, "v")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Shutdown(context.Background()) })
	return e
}

// protocols are the two ways to send.
var protocols = []string{config.ProtocolGRPC, config.ProtocolHTTP}

func TestPartialSuccess(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			s := &sink{reply: &coltracepb.ExportTracePartialSuccess{RejectedSpans: 3, ErrorMessage: "quota (of 7) exceeded"}}
			err := open(t, protocol, receivers(t, s)[protocol]).ExportSpans(context.Background(), operations(10))
			var got *exporter.RejectedError
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want a RejectedError", err)
			}
			if diff := cmp.Diff(&exporter.RejectedError{Spans: 3, Message: "quota (of 7) exceeded"}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestLargeBatch: 512 spans of 20 KB each are 10 MB, more than a receiver takes
// in one gRPC message.
func TestLargeBatch(t *testing.T) {
	ops := operations(512)
	for _, op := range ops {
		op.Attributes = append(op.Attributes, attribute.String("url.path", strings.Repeat("/long", 4000)))
	}
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			s := &sink{}
			if err := open(t, protocol, receivers(t, s)[protocol]).ExportSpans(context.Background(), ops); err != nil {
				t.Fatal(err)
			}
			if s.spans != len(ops) || s.requests < 3 || s.largest > 4<<20 {
				t.Errorf("%d spans in %d requests of at most %d bytes, want %d in several below 4 MiB", s.spans, s.requests, s.largest, len(ops))
			}
		})
	}
}

// TestRestart: a receiver that comes while a batch is being tried gets it.
func TestRestart(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			addr := freeAddr(t)
			e := open(t, protocol, "http://"+addr)
			done := make(chan error, 1)
			go func() { done <- e.ExportSpans(context.Background(), operations(3)) }()
			select {
			case err := <-done:
				t.Fatalf("gave up at once: %v", err)
			case <-time.After(300 * time.Millisecond): // at least one try has failed
			}
			s := &sink{}
			lis, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			if protocol == config.ProtocolGRPC {
				g := grpc.NewServer()
				coltracepb.RegisterTraceServiceServer(g, s)
				go g.Serve(lis)
				defer g.Stop()
			} else {
				h := &http.Server{Handler: s}
				go h.Serve(lis)
				defer h.Close()
			}
			if err := <-done; err != nil || s.spans != 3 {
				t.Errorf("%v, %d spans arrived of 3", err, s.spans)
			}
		})
	}
}

// TestCancel: shutdown does not wait for tries that cannot succeed.
func TestCancel(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			e := open(t, protocol, "http://"+freeAddr(t))
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- e.ExportSpans(ctx, operations(1)) }()
			time.AfterFunc(100*time.Millisecond, cancel)
			start := time.Now()
			if err := <-done; err == nil {
				t.Error("no error from an endpoint that does not exist")
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %v to notice", took)
			}
		})
	}
}

// receiverEnv makes the test binary a receiver in a process of its own, so that
// a benchmark's CPU time is the exporter's alone.
const receiverEnv = "TRACER_TEST_RECEIVER"

func TestMain(m *testing.M) {
	if os.Getenv(receiverEnv) == "" {
		os.Exit(m.Run())
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s := &sink{}
	g := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(g, s)
	go g.Serve(lis)
	h := httptest.NewServer(s)
	fmt.Printf("http://%s %s\n", lis.Addr(), h.URL)
	io.Copy(io.Discard, os.Stdin) // until the parent ends
}

// receiverProcess starts it.
func receiverProcess(b *testing.B) map[string]string {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), receiverEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	urls := strings.Fields(line)
	return map[string]string{config.ProtocolGRPC: urls[0], config.ProtocolHTTP: urls[1]}
}

// BenchmarkExport is the agent's cost of a span from the queue to the socket:
// protobuf, gzip and the transport.
func BenchmarkExport(b *testing.B) {
	ops := operations(512)
	urls := receiverProcess(b)
	for _, protocol := range protocols {
		b.Run(protocol, func(b *testing.B) {
			e := open(b, protocol, urls[protocol])
			ctx := context.Background()
			b.ReportAllocs()
			from := cpuTime()
			for b.Loop() {
				if err := e.ExportSpans(ctx, ops); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime()-from)/float64(b.N*len(ops)), "cpu-ns/span")
		})
	}
}

// BenchmarkEncode is the part of it without the transport.
func BenchmarkEncode(b *testing.B) {
	ops := operations(512)
	for _, op := range ops { // as hard to compress as real ones
		rand.Read(op.TraceID[:])
		rand.Read(op.SpanID[:])
	}
	e := newEncoder("v")
	var buf []byte
	var z bytes.Buffer
	gz, err := gzip.NewWriterLevel(&z, gzipLevel)
	if err != nil {
		b.Fatal(err)
	}
	for _, compress := range []bool{false, true} {
		b.Run(map[bool]string{false: "protobuf", true: "gzip"}[compress], func(b *testing.B) {
			b.ReportAllocs()
			from := cpuTime()
			for b.Loop() {
				spans, _ := e.encode(ops, maxRequestBytes)
				if buf, err = (proto.MarshalOptions{}).MarshalAppend(buf[:0], &coltracepb.ExportTraceServiceRequest{ResourceSpans: spans}); err != nil {
					b.Fatal(err)
				}
				if compress {
					z.Reset()
					gz.Reset(&z)
					gz.Write(buf)
					gz.Close()
				}
			}
			b.ReportMetric(float64(cpuTime()-from)/float64(b.N*len(ops)), "cpu-ns/span")
			b.ReportMetric(float64(len(buf))/float64(len(ops)), "bytes/span")
		})
	}
}

// cpuTime is the CPU time of this process in nanoseconds.
func cpuTime() int64 {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return ru.Utime.Nano() + ru.Stime.Nano()
}
