// Command std is a subject of binary analysis: net/http server and client with
// TLS and HTTP/2, and nothing else. It also runs: one request to itself.
package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("/orders/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s\n", r.Method, r.URL.Path, r.Proto)
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	if err := call(srv.Client(), srv.URL+"/orders/1"); err != nil {
		fmt.Fprintln(os.Stderr, describe(err))
		os.Exit(1)
	}
}

func call(c *http.Client, target string) error {
	resp, err := c.Get(target)
	if err != nil {
		return fmt.Errorf("call %s: %w", target, err)
	}
	defer resp.Body.Close()
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

func describe(err error) string {
	var u *url.Error
	var dns *net.DNSError
	var alert tls.RecordHeaderError
	return fmt.Sprint(err, errors.As(err, &u), errors.As(err, &dns), errors.As(err, &alert))
}
