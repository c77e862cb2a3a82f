//go:build !go1.26

package main

import "net/http"

// addClientConn: http.ClientConn came with Go 1.26.
func addClientConn(*http.ServeMux) {}
