// Package telemetry holds the values that travel from a probe's decoder to the
// exporters: operations (spans) and what they belong to. It knows no protocol,
// no exporter and no kernel; its invariant is that an Operation handed to the
// pipeline is never changed by two owners at once.
package telemetry
