// Package redact takes secrets out of URLs before they leave the host: user
// names and passwords, and the values of query parameters that are secret by
// their name or by their look.
//
// Its invariants: what is not secret stays byte for byte as it was; a value is
// replaced whole, never in part; in doubt it is replaced; and nothing is
// allocated when there is nothing to replace. It is no parser of valid URLs:
// its input is whatever a client sent.
package redact
