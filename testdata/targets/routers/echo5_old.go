//go:build !go1.25

package main

import "net/http"

// withEcho5 is for Go releases that echo v5 is not for.
var withEcho5 func() http.Handler
