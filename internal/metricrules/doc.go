// Package metricrules derives metrics from finished operations by rules that a user
// writes: which operations count (a condition), what is measured (a value) and by
// which attributes it is told apart.
//
// Conditions and values are expressions of expr-lang/expr, compiled when the
// configuration is loaded. They see the operation and nothing else, cannot call
// anything but a few functions on texts and numbers, and are bounded in length, in
// nodes and in the memory that one evaluation may use. The series they make are
// bounded by the store that adds them up, as those of every metric.
package metricrules
