// Package resource says what a watched process is: service, process, host and
// container attributes, read once from /proc when the process is taken on and
// kept for the pipeline's lookups.
//
// Everything a process can write itself (its environment, its arguments, its
// cgroup's name) is hostile: reads and results are bounded, a file that
// vanishes costs the attributes from it and nothing else. Command-line
// arguments are never reported, because they may hold secrets.
package resource
