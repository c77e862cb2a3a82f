// Command bench measures what the agent costs a program and what it costs
// itself, against the same program untouched and the same program with the
// OpenTelemetry SDK in it (sdktwin).
//
// Every comparison is a ratio inside one run: rounds of the three variants
// alternate, and medians are taken. The server under test has one processor, the
// load generator, the agent and the receiver of spans share the other. The
// figure that counts is CPU time per request in the server, from the
// scheduler's own accounts, not wall time.
package main
