// Package httpattr turns what a probe has read of an HTTP request into attributes of
// the semantic conventions, for every library that speaks HTTP. It keeps no state.
package httpattr

import (
	"net/netip"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// knownMethods are those of RFC 9110 and PATCH, and QUERY.
var knownMethods = map[string]bool{
	"GET": true, "HEAD": true, "POST": true, "PUT": true, "DELETE": true, "CONNECT": true,
	"OPTIONS": true, "TRACE": true, "PATCH": true, "QUERY": true,
}

// Known says whether a method is one of the conventions' low-cardinality set.
func Known(m string) bool { return knownMethods[m] }

// Method appends the method attributes and returns the method of low cardinality.
func Method(a []attribute.KeyValue, m string) (string, []attribute.KeyValue) {
	if knownMethods[m] {
		return m, append(a, semconv.HTTPRequestMethodKey.String(m))
	}
	return "HTTP", append(a, semconv.HTTPRequestMethodOther, semconv.HTTPRequestMethodOriginal(m))
}

// ServerAddress appends server.address and server.port from a host[:port].
func ServerAddress(a []attribute.KeyValue, hostport, scheme string) []attribute.KeyValue {
	if hostport == "" {
		return a
	}
	host, port := hostport, 80
	if scheme == "https" {
		port = 443
	}
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 && strings.IndexByte(hostport[i:], ']') < 0 {
		if n, err := strconv.ParseUint(hostport[i+1:], 10, 16); err == nil {
			host, port = hostport[:i], int(n)
		}
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return append(a, semconv.ServerAddress(host), semconv.ServerPort(port))
}

// ForwardedFor returns the first address of a Forwarded (RFC 7239) or
// X-Forwarded-For header; only what is an IP address counts.
func ForwardedFor(forwarded, xff string) string {
	if forwarded != "" {
		first, _, _ := strings.Cut(forwarded, ",")
		for part := range strings.SplitSeq(first, ";") {
			k, v, ok := strings.Cut(strings.TrimSpace(part), "=")
			if ok && strings.EqualFold(k, "for") {
				return address(strings.Trim(v, `"`))
			}
		}
	}
	first, _, _ := strings.Cut(xff, ",")
	return address(strings.TrimSpace(first))
}

func address(s string) string {
	if s == "" {
		return "" // what is usual; to parse it would make an error
	}
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return ip.String()
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().String()
	}
	return ""
}
