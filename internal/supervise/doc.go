// Package supervise is the slow path between process discovery and the probes: it
// decides which processes are instrumented, has each executable analysed and
// attached once, lets processes in and out, and says of each selected process in
// exactly one log line that it is instrumented, or why it is not.
//
// Probes sit on an inode while nobody may write to it: as long as a process runs
// the file (the kernel refuses to open it for writing), or as long as we hold a
// read lease on it (the kernel makes the writer wait until we have let go). A file
// that changed under a probe would run with an instruction of its former self.
//
// Invariants: one bad process or executable never stops the others; what is kept
// is bounded by the running processes and by maxExes; all state belongs to the one
// goroutine in Run.
package supervise
