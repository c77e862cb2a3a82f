// Package dbpool shows the connection pools that watched programs keep to their
// databases as metrics. Probes say where in a program's memory a pool is, which they see
// anyway when a call is made; its numbers are read there when metrics are collected, so
// that they cost the program nothing.
//
// It is not a probe, and knows no library: how a pool is read is a Layout, which probes
// make of offsets. Memory is hostile: what a Layout finds must be sane or the pool is
// forgotten. The number of pools is bounded.
package dbpool
