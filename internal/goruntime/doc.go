// Package goruntime reads what the Go runtime of a watched process counts of itself:
// goroutines, memory, garbage collection. It does so from outside, when metrics are
// collected, by reading the process's memory: the program runs no instruction for it.
//
// Where a variable lies comes from the executable's symbols or, when it has none, from
// the code of the runtime's functions that use it; where a field lies from a table of
// measured releases. What is read is checked for plausibility each time.
// What is not known is not read; the reason is said once for each executable.
//
// The values are those of the package runtime/metrics, which computes them from the
// same variables. They are read without a lock: a counter that is in the middle of an
// update can be late, never wrong for long.
package goruntime
