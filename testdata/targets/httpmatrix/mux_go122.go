//go:build go1.22

//go:debug httpmuxgo121=0

package main

import (
	"net/http"
)

// addPatterns registers method-qualified and wildcard patterns.
func addPatterns(mux *http.ServeMux) {
	mux.HandleFunc("GET /orders/{id}", plain)
	mux.HandleFunc("POST /orders/{id}/cancel", plain)
	mux.HandleFunc("GET /mw/orders/{id}", plain)
	mux.HandleFunc("GET /timeout/orders/{id}", plain)
	mux.HandleFunc("/files/{path...}", plain)
	mux.HandleFunc("GET 127.0.0.1/host/{x}", plain)

	inner := http.NewServeMux()
	inner.HandleFunc("GET /items/{id}", plain)
	mux.Handle("/api/", http.StripPrefix("/api", inner))
}
