// Package metrics holds the metrics of every watched process and of the agent
// itself, and hands them to exporters.
//
// There are two ways in. Measurements come with operations and are added up for each
// process, which is a resource of its own, and each destination. Observations are asked
// for at collection time (a Source) and become data points without a state in between but
// what delta temporality needs.
//
// Everything is bounded: processes, series of one metric of one process (what is
// beyond becomes the series otel.metric.overflow=true, and is counted), and how long
// a process that ended is still reported.
package metrics
