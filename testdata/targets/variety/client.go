package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"

	"golang.org/x/net/http2"
)

// bufferSizes are those of the transports' write buffers; 0 is net/http's own.
var bufferSizes = []int{0, 0, 0, 1024, 4097, 8192, 300, 64}

// newClient returns a client whose every connection goes to the address to.
func newClient(kind, to string, nth int) (*http.Client, func()) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", to)
	}
	if kind == "x-http2" {
		t := &http2.Transport{
			AllowHTTP: true,
			DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
				return dial(ctx, network, addr)
			},
		}
		return &http.Client{Transport: tracing{t}, Timeout: patience}, t.CloseIdleConnections
	}
	t := &http.Transport{
		DialContext: dial, WriteBufferSize: bufferSizes[nth%len(bufferSizes)],
		// one curve: the shares of others are dear where a processor is emulated
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}},
		ExpectContinueTimeout: patience, ForceAttemptHTTP2: kind == "http2",
	}
	switch kind {
	case "proxy":
		t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.test:3128", User: url.UserPassword("u", "p")})
	case "connect":
		t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.test:3128"})
		t.ProxyConnectHeader = http.Header{"X-For-The-Proxy": {"1"}}
	}
	return &http.Client{Transport: tracing{t}, Timeout: patience}, t.CloseIdleConnections
}

// tracing is a RoundTripper as a tracing library has one: what the caller left for it
// in the context it puts into a copy of the request.
type tracing struct{ next http.RoundTripper }

type ownKey struct{}

func (t tracing) RoundTrip(req *http.Request) (*http.Response, error) {
	own, ok := req.Context().Value(ownKey{}).(string)
	if !ok {
		return t.next.RoundTrip(req)
	}
	req = req.Clone(req.Context())
	req.Header.Set("traceparent", own)
	return t.next.RoundTrip(req)
}
