//go:build go1.24

package main

import "net/http"

// h2cServer serves unencrypted HTTP/2 with the standard library.
func h2cServer(h http.Handler) *http.Server {
	s := &http.Server{Handler: h, ErrorLog: quiet(), Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
}

// h2cTransport calls with unencrypted HTTP/2.
func h2cTransport() http.RoundTripper {
	t := &http.Transport{Protocols: new(http.Protocols)}
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}
