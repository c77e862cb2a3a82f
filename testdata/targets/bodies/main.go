// Command bodies takes and answers JSON in every way that matters to who reads it from the
// program's buffers.
package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
)

type order struct {
	Symbol   string  `json:"symbol"`
	Quantity float64 `json:"quantity"`
	Password string  `json:"password,omitempty"`
}

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to serve on")
	flag.Parse()
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	// read by a decoder, in whole, past the buffer, not at all
	mux.HandleFunc("/trades", func(w http.ResponseWriter, r *http.Request) {
		var o order
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, o, -1)
	})
	mux.HandleFunc("/all", func(w http.ResponseWriter, r *http.Request) {
		io.ReadAll(r.Body)
		answer(w, order{Symbol: "ALL", Quantity: 1}, -1)
	})
	mux.HandleFunc("/copy", func(w http.ResponseWriter, r *http.Request) {
		io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r.Body}, make([]byte, 1<<15))
	})
	// read by another goroutine, in whole or its beginning
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) {
		read := make(chan int64)
		go func() {
			var first io.Reader = r.Body
			if n, err := strconv.ParseInt(r.FormValue("n"), 10, 64); err == nil {
				first = io.LimitReader(r.Body, n)
			}
			n, _ := io.Copy(io.Discard, first)
			read <- n
		}()
		<-read
		io.Copy(io.Discard, r.Body)
	})
	mux.HandleFunc("/ignore", func(http.ResponseWriter, *http.Request) {})
	// answers of a size, in one piece, declared, flushed in between
	mux.HandleFunc("/answer", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("n"))
		q, _ := strconv.ParseFloat(r.FormValue("quantity"), 64)
		o := order{Symbol: strings.Repeat("x", n), Quantity: q}
		switch r.FormValue("as") {
		case "declared":
			b, _ := json.Marshal(o)
			answer(w, o, len(b)+1)
		case "flushed":
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			json.NewEncoder(w).Encode(o)
		case "text":
			w.Header().Set("Content-Type", "text/plain")
			json.NewEncoder(w).Encode(o)
		case "panic": // before anything was sent
			w.Header().Set("X-Amount", r.FormValue("quantity"))
			panic(http.ErrAbortHandler)
		default:
			answer(w, o, -1)
		}
	})
	http2 := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	// calls url n times with an order, given as reader
	mux.HandleFunc("/call", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("n"))
		body := `{"symbol":"OUT","quantity":2}`
		for i := 0; i < n; i++ {
			var given io.Reader = strings.NewReader(body)
			switch r.FormValue("as") {
			case "bytes":
				given = bytes.NewReader([]byte(body))
			case "buffer":
				given = bytes.NewBufferString(body)
			case "pipe":
				given = struct{ io.Reader }{given}
			}
			req, err := http.NewRequest(http.MethodPost, r.FormValue("url"), given)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			req.Header.Set("Content-Type", "application/json")
			client := http.DefaultClient
			if r.FormValue("as") == "h2" {
				client = http2
			}
			resp, err := client.Do(req)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
	h2 := httptest.NewUnstartedServer(mux)
	h2.EnableHTTP2 = true
	h2.Config.ErrorLog = log.New(io.Discard, "", 0)
	h2.StartTLS()
	fmt.Printf("ready {\"pid\":%d,\"http\":%q,\"https\":%q}\n", os.Getpid(), l.Addr(), h2.Listener.Addr())
	log.Fatal(http.Serve(l, mux))
}

// answer writes o; size is declared unless it is negative.
func answer(w http.ResponseWriter, o order, size int) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("X-Amount", strconv.FormatFloat(o.Quantity, 'f', -1, 64))
	if size >= 0 {
		w.Header().Set("Content-Length", strconv.Itoa(size))
	}
	json.NewEncoder(w).Encode(o)
}
