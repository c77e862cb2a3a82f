// Package probe is the contract between the agent and its probes, and the
// machinery that loads a probe's BPF programs and attaches them to executables.
// A probe is data (Spec); this package owns every link until it is detached.
package probe
