//go:build !go1.22

package main

import "net/http"

// addPatterns registers the subtree patterns that stand for the newer ones.
func addPatterns(mux *http.ServeMux) {
	mux.HandleFunc("/orders/", plain)
	mux.HandleFunc("/mw/orders/", plain)
	mux.HandleFunc("/timeout/orders/", plain)
	mux.HandleFunc("/files/", plain)

	inner := http.NewServeMux()
	inner.HandleFunc("/items/", plain)
	mux.Handle("/api/", http.StripPrefix("/api", inner))
}
