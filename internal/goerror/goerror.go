// Package goerror names errors of a watched Go program by their types, for error.type
// and for a description without values that could be secret.
package goerror

import (
	"strings"
	"syscall"
)

// Info is what is known of an error value of the target.
type Info struct {
	// Types are the dynamic types' names from the outermost error inwards.
	Types []string
	// Raw are the first two words of the innermost error's value.
	Raw [2]uint64
	// Text is the innermost error's string, where it begins with one.
	Text string
}

// byType maps types whose meaning is plain to values of error.type.
var byType = map[string]string{
	"context.deadlineExceededError":     "timeout",
	"*net.timeoutError":                 "timeout",
	"*net.DNSError":                     "name_resolution",
	"*http.timeoutError":                "timeout", // awaiting response headers
	"*http.httpError":                   "timeout", // the same up to Go 1.21
	"http.tlsHandshakeTimeoutError":     "timeout",
	"*poll.DeadlineExceededError":       "timeout",
	"net.canceledError":                 "canceled",
	"x509.UnknownAuthorityError":        "tls",
	"x509.HostnameError":                "tls",
	"x509.CertificateInvalidError":      "tls",
	"x509.SystemRootsError":             "tls",
	"tls.RecordHeaderError":             "tls",
	"tls.AlertError":                    "tls",
	"tls.alert":                         "tls",
	"*tls.CertificateVerificationError": "tls",
	"*tls.permanentError":               "tls",
}

// byText maps the texts of errors that are plain strings.
var byText = map[string]string{
	"context canceled":           "canceled",
	"net/http: request canceled": "canceled",
	"net/http: request canceled while waiting for connection": "canceled",
	"operation was canceled":                                  "canceled",
	"context deadline exceeded":                               "timeout",
	"net/http: timeout awaiting response headers":             "timeout",
	"i/o timeout":                         "timeout",
	"EOF":                                 "connection_closed",
	"unexpected EOF":                      "connection_closed",
	"http: server closed idle connection": "connection_closed",
	"use of closed network connection":    "connection_closed",
}

// byErrno names the errnos that users tell apart.
var byErrno = map[syscall.Errno]string{
	syscall.ECONNREFUSED:  "connection_refused",
	syscall.ECONNRESET:    "connection_reset",
	syscall.EPIPE:         "connection_reset",
	syscall.ECONNABORTED:  "connection_reset",
	syscall.ETIMEDOUT:     "timeout",
	syscall.EHOSTUNREACH:  "host_unreachable",
	syscall.ENETUNREACH:   "network_unreachable",
	syscall.EADDRNOTAVAIL: "address_not_available",
}

// Kind returns error.type and a description without values that could be secret:
// refused, reset, timeout, cancelled, name resolution and TLS are told apart, and
// whatever else there is goes by its Go type.
func (e *Info) Kind() (errorType, description string) {
	if len(e.Types) == 0 {
		return "_OTHER", ""
	}
	last := e.Types[len(e.Types)-1]
	if last == "syscall.Errno" {
		no := syscall.Errno(e.Raw[0])
		if t, ok := byErrno[no]; ok {
			return t, no.Error()
		}
		return "errno_" + strings.ReplaceAll(no.Error(), " ", "_"), no.Error()
	}
	for i := len(e.Types) - 1; i >= 0; i-- {
		if t, ok := byType[e.Types[i]]; ok {
			return t, t
		}
	}
	if t, ok := byText[e.Text]; ok {
		return t, e.Text
	}
	if strings.HasPrefix(e.Text, "net/http: request canceled") {
		return "canceled", "net/http: request canceled"
	}
	if plainString(last) && e.Text != "" {
		// The text of somebody's own error may hold anything, a password too.
		typ := strings.TrimPrefix(last, "*")
		return typ, typ
	}
	return last, last
}

// plainString says that a value of the type begins with its text.
func plainString(typ string) bool {
	switch typ {
	case "string", "*errors.errorString", "runtime.errorString", "runtime.plainError",
		"runtime.errorAddressString", "*fmt.wrapError", "*fmt.wrapErrors", "*http.ProtocolError":
		return true
	}
	return false
}

// PanicMessage renders a recovered value's text where its type is known to hold one.
func PanicMessage(typ string, raw [2]uint64, text string) string {
	switch typ {
	case "runtime.errorString", "runtime.errorAddressString":
		return "runtime error: " + text
	case "runtime.boundsError":
		return "runtime error: index or slice bounds out of range"
	case "syscall.Errno":
		return syscall.Errno(raw[0]).Error()
	}
	if plainString(typ) {
		return text
	}
	return ""
}

// Wrappers are the error types that hold another error, by name, with the offset of the
// inner error interface. They are part of an API or the same in every release: of Go
// from 1.18 to 1.27. url.Error is unwrapped above the transport.
var Wrappers = map[string]uint32{
	"net.OpError":                       64, // Op, Net string; Source, Addr net.Addr; Err
	"os.SyscallError":                   16, // Syscall string; Err
	"fmt.wrapError":                     16, // msg string; err
	"tls.CertificateVerificationError":  24, // UnverifiedCertificates slice; Err
	"tls.permanentError":                0,
	"http.nothingWrittenError":          0,
	"http.transportReadFromServerError": 0,
	"http.http2StreamError":             16, // StreamID uint32, Code uint32; Cause

	// github.com/jackc/pgx/v5/pgconn 5.0 to 5.12
	"pgconn.PrepareError":            0,
	"pgconn.errTimeout":              0,
	"pgconn.contextAlreadyDoneError": 0,
	"pgconn.writeError":              0,
	"pgconn.pgconnError":             16, // msg string; err
}
