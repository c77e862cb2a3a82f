package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
)

// ownTrace begins the trace ids that this program sets itself.
const ownTrace = "feedfeedfeedfeed"

var methods = []string{"GET", "GET", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}

// request makes number i: everything in it follows from kind, seed and i.
func request(kind string, seed int64, i int) (*http.Request, error) {
	r := rand.New(rand.NewPCG(uint64(seed), uint64(i)))
	method := methods[r.IntN(len(methods))]
	scheme := "http"
	if kind == "https" || kind == "connect" || kind == "http2" {
		scheme = "https"
	}
	url := fmt.Sprintf("%s://server.test/n/%d%s", scheme, i, path(r))

	var body io.Reader
	size := 0
	if method == "POST" || method == "PUT" || method == "PATCH" {
		size = bodySize(r)
		body = strings.NewReader(text(r, size))
	}
	req, err := http.NewRequestWithContext(context.Background(), method, url, body)
	if err != nil {
		return nil, err
	}
	if size > 0 && r.IntN(3) == 0 { // chunked: of unknown length
		req.ContentLength = -1
		data, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(onlyReader{bytes.NewReader(data)})
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(onlyReader{bytes.NewReader(data)}), nil }
		if r.IntN(2) == 0 {
			req.Trailer = http.Header{"X-Sum": {text(r, 1+r.IntN(40))}, "X-Empty": {""}}
		}
	}
	addHeaders(r, req)
	if size > 0 && r.IntN(6) == 0 {
		req.Header.Set("Expect", "100-continue")
	}
	switch r.IntN(20) {
	case 0:
		req.Close = kind != "http2" && kind != "x-http2"
	case 1:
		if method == "GET" { // the server hangs up on it once, so that it is sent again
			req.Header.Set("X-Hang-Up", "1")
		}
	case 2:
		req.Host = strings.Repeat("h", 1+r.IntN(60)) + ".test"
	case 3:
		req.Header["User-Agent"] = nil
	}
	return addOwn(r, req), nil
}

type onlyReader struct{ io.Reader }

// path is short as a rule; else the line it is in ends near a buffer's end.
func path(r *rand.Rand) string {
	switch r.IntN(8) {
	case 0:
		return "/" + text(r, near(r, 4096)-100)
	case 1:
		return "/" + text(r, r.IntN(300)) + "?q=" + text(r, r.IntN(300))
	case 2:
		return "/" + text(r, near(r, 8192)-100)
	default:
		return ""
	}
}

// near is a number within 150 of n, or of a small fraction of it.
func near(r *rand.Rand, n int) int {
	if r.IntN(3) == 0 {
		n /= 4
	}
	return n - 150 + r.IntN(300)
}

func bodySize(r *rand.Rand) int {
	switch r.IntN(5) {
	case 0:
		return near(r, 4096)
	case 1:
		return near(r, 16384)
	case 2:
		return near(r, 65536)
	default:
		return r.IntN(2000)
	}
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// letterBlock is what texts are cut from: a letter at a time is dear where a processor is emulated.
var letterBlock = func() string {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 1<<18)
	for i := range b {
		b[i] = letters[r.IntN(len(letters))]
	}
	return string(b)
}()

func text(r *rand.Rand, n int) string {
	n = max(n, 0)
	at := r.IntN(len(letterBlock) - n)
	return letterBlock[at : at+n]
}

// alike are names that differ from the one that is looked for, in the map as well as
// on the wire; lower case is a key that was never made canonical.
var alike = []string{"Tracestate", "Baggage", "X-Traceparent", "Traceparen", "Traceparent2", "Traceparens",
	"traceparenx", "Tracepareot", "Uraceparent", "X-Request-Id", "x-correlation-id", "B3"}

// addHeaders adds 0 to 200 headers, mostly few.
func addHeaders(r *rand.Rand, req *http.Request) {
	n := 0
	switch r.IntN(10) {
	case 0:
	case 1:
		n = r.IntN(201)
	case 2:
		n = 100 + r.IntN(30)
	default:
		n = r.IntN(20)
	}
	for k := 0; k < n; k++ {
		name := fmt.Sprintf("X-%s-%d", strings.ToUpper(text(r, 1))+"h"+strings.Repeat("n", r.IntN(20)), k)
		name = strings.NewReplacer("_", "a", ".", "b").Replace(name)
		if r.IntN(10) == 0 {
			name = strings.ToLower(name)
		}
		for v := r.IntN(8) / 7; v >= 0; v-- {
			size := r.IntN(60)
			if r.IntN(40) == 0 {
				size = near(r, 4096)
			}
			req.Header[name] = append(req.Header[name], text(r, size))
		}
	}
	for _, name := range alike {
		if r.IntN(12) == 0 {
			req.Header[name] = []string{"k1=" + text(r, 1+r.IntN(30)) + ",k2=v;p"}
		}
	}
	if r.IntN(6) == 0 { // as much as brings the header's end near the buffer's
		have := len(req.URL.RequestURI()) + 60
		for name, values := range req.Header {
			for _, v := range values {
				have += len(name) + len(v) + 4
			}
		}
		if want := near(r, 4096) - have; want > 0 {
			req.Header["A-Pad"] = []string{text(r, want)}
		}
	}
}

// addOwn gives some requests a traceparent of the program's own: through a tracing
// library, by name in any letter case, more than one, or one that is none.
func addOwn(r *rand.Rand, req *http.Request) *http.Request {
	own := fmt.Sprintf("00-%s%016x-%016x-01", ownTrace, r.Uint64()|1, r.Uint64()|1)
	switch r.IntN(40) {
	case 0:
		req.Header.Set("traceparent", own)
	case 1:
		name := []byte("traceparent")
		for i := range name {
			if r.IntN(2) == 0 {
				name[i] -= 'a' - 'A'
			}
		}
		req.Header[string(name)] = []string{own}
	case 2:
		return req.WithContext(context.WithValue(req.Context(), ownKey{}, own))
	case 3:
		req.Header["Traceparent"] = []string{own, own}
	case 4:
		req.Header["traceparent"] = []string{"none of " + own}
	}
	return req
}
