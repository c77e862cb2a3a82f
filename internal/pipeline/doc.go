// Package pipeline takes finished operations from the decoders to the
// exporters: it puts wall-clock times and the resource on each one and hands it
// to one bounded queue per exporter.
//
// Its invariants: Submit never blocks and never waits for I/O; a slow or dead
// exporter costs counted losses of its own and nothing to the others; memory is
// bounded by the queues. When a queue is full the newest span is dropped, so
// that what is already queued, often the first half of the same traces, stays
// whole and no accepted span is ever thrown out again.
package pipeline
