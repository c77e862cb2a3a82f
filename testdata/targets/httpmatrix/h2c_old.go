//go:build !go1.24

package main

import "net/http"

// h2cServer: the standard library has none before Go 1.24.
func h2cServer(http.Handler) *http.Server { return nil }

func h2cTransport() http.RoundTripper { return http.DefaultTransport }
