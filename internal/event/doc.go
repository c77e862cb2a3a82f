// Package event reads the one ring buffer that all probes write to and splits it
// into records. It knows the header and nothing of what follows it. Records are
// handed out one at a time and are only valid during the call.
package event
