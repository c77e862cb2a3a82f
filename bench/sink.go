package main

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// sink is a process that receives OTLP over HTTP and counts spans. It walks the
// wire form only as far as that needs: the receiver must not become what is
// measured.
type sink struct {
	proc *proc
	addr string
}

func startSink() (*sink, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := start(procSpec{path: self, args: []string{"sink"}, cpu: loadCPU})
	if err != nil {
		return nil, err
	}
	return &sink{proc: p, addr: p.ready.HTTP}, nil
}

// count asks for the number of spans received so far.
func (s *sink) count() (int, error) {
	resp, err := http.Get("http://" + s.addr + "/count")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(b))
}

// settled waits until the count has not changed for three seconds, at most twenty.
func (s *sink) settled() (int, error) {
	last, since := -1, time.Now()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		n, err := s.count()
		if err != nil {
			return 0, err
		}
		if n != last {
			last, since = n, time.Now()
		}
		if time.Since(since) > 3*time.Second { // longer than the agent collects a batch
			break
		}
	}
	return last, nil
}

// sinkMain is the receiver's own process.
func sinkMain() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var spans atomic.Int64
	http.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, spans.Load()) })
	http.HandleFunc("/v1/traces", func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = bufio.NewReader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			body = z
		}
		b, err := io.ReadAll(io.LimitReader(body, 64<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		n, err := countSpans(b)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		spans.Add(int64(n))
		w.Header().Set("Content-Type", "application/x-protobuf")
	})
	http.HandleFunc("/v1/metrics", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-protobuf")
	})
	fmt.Printf("ready {\"pid\":%d,\"http\":%q}\n", os.Getpid(), l.Addr())
	return http.Serve(l, nil)
}

// countSpans counts in an ExportTraceServiceRequest: resource_spans = 1 holds
// scope_spans = 2, which holds spans = 2.
func countSpans(request []byte) (int, error) {
	n := 0
	err := fields(request, 1, func(resource []byte) error {
		return fields(resource, 2, func(scope []byte) error {
			return fields(scope, 2, func([]byte) error { n++; return nil })
		})
	})
	return n, err
}

// fields calls f for every length-delimited field of that number.
func fields(b []byte, num protowire.Number, f func([]byte) error) error {
	for len(b) > 0 {
		got, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if got == num && typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return protowire.ParseError(n)
			}
			if err := f(v); err != nil {
				return err
			}
			b = b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(got, typ, b); n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
	}
	return nil
}
