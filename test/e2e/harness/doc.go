// Package harness builds target programs with any Go toolchain, starts them and
// the agent, and hands the agent's spans to end-to-end tests.
//
// It uses the agent as a user does: the real binary, its command line, its
// JSON-lines output and its signals. Nothing here sleeps for luck: every wait
// polls with a deadline, and [Agent.Settle] uses a request of its own as a fence
// behind which no earlier span can still be on its way.
package harness
