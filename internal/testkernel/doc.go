// Package testkernel decides whether a test that needs something of the running
// kernel runs, is skipped, or fails.
//
// A test asks with [Require]. A feature that is there lets the test run. One
// that is not there skips the test, naming the feature and the reason. With
// TRACER_REQUIRE_KERNEL=1 in the environment (CI) a skip has to be justified: by
// a kernel older than the feature, or by a host policy that can be shown
// (lockdown, a refused capability). Any other skip fails, so that a broken probe
// never hides behind a green run.
//
// The package is for tests only; nothing in the agent imports it.
package testkernel
