// Package hostmetrics shows what processes, their containers and the host use: CPU,
// memory, disk, network, scheduling. It reads /proc and cgroup files at collection
// time and keeps nothing between collections but what differences need.
//
// Names are those of the semantic conventions; where they have none, a name continues
// the nearest namespace of the conventions.
// What cannot be read is left out, never guessed. Reads that cost the process
// something (smaps_rollup holds its memory map's lock) are made rarely.
package hostmetrics
