//go:build go1.26

package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
)

// addClientConn adds /clientconn: n calls of url at once, each on an http.ClientConn of
// its own. It answers how many succeeded with which protocol.
func addClientConn(mux *http.ServeMux) {
	mux.HandleFunc("/clientconn", func(w http.ResponseWriter, r *http.Request) {
		u, err := url.Parse(r.URL.Query().Get("url"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		t := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
		got := map[string]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range num(r, "n", 1) {
			wg.Go(func() {
				proto, err := onOwnConn(t, r, u)
				if err != nil {
					proto = err.Error()
				}
				mu.Lock()
				defer mu.Unlock()
				got[proto]++
			})
		}
		wg.Wait()
		fmt.Fprint(w, got)
	})
}

func onOwnConn(t *http.Transport, r *http.Request, u *url.URL) (string, error) {
	cc, err := t.NewClientConn(r.Context(), u.Scheme, u.Host)
	if err != nil {
		return "", err
	}
	defer cc.Close()
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	resp, err := cc.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.Proto, err
}
