package otlp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// together makes one request of an interval's many. The SDK's exporters send one
// resource at a time; a hundred processes would be a hundred requests, which cost more
// than all reading of /proc. It sits below the SDK's client: what the client sends is
// kept, until a last, empty request takes all of it along, with the client's own
// retries. It is used by one goroutine at a time.
type together struct {
	next http.RoundTripper // for HTTP

	last bool
	size int
	rms  []*metricspb.ResourceMetrics // gRPC
	body []byte                       // HTTP: encoded messages one after the other are one message
}

// full says that what is kept had better go.
func (t *together) full() bool { return t.size >= maxRequestBytes }

func (t *together) empty() bool { return t.size == 0 }

func (t *together) clear() {
	t.last, t.size, t.rms, t.body = false, 0, nil, t.body[:0]
}

// unary is a grpc.UnaryClientInterceptor.
func (t *together) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	r, ok := req.(*colmetrics.ExportMetricsServiceRequest)
	if !ok {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	if !t.last {
		t.rms = append(t.rms, r.ResourceMetrics...)
		t.size += proto.Size(r)
		return nil
	}
	return invoke(ctx, method, &colmetrics.ExportMetricsServiceRequest{ResourceMetrics: t.rms}, reply, cc, opts...)
}

// RoundTrip implements http.RoundTripper.
func (t *together) RoundTrip(r *http.Request) (*http.Response, error) {
	if !t.last {
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, fmt.Errorf("keep metrics: %w", err)
		}
		t.body = append(t.body, body...)
		t.size = len(t.body)
		return &http.Response{
			StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{}, Body: http.NoBody, Request: r,
		}, nil
	}
	r.Body.Close()
	out := r.Clone(r.Context())
	// A copy: the transport may read it after it has returned.
	body := bytes.Clone(t.body)
	out.Body = io.NopCloser(bytes.NewReader(body))
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.ContentLength = int64(len(body))
	return t.next.RoundTrip(out)
}

// CloseIdleConnections lets http.Client reach the transport's.
func (t *together) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
