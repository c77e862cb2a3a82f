// Package discover says which processes run, begin, end and listen, and which of
// them are wanted. It hears of them from the kernel (exec and exit tracepoints, a
// task iterator), not by polling /proc, and names an executable by the device and
// inode that the kernel maps, a process by pid and start time.
//
// It does not look into executables and attaches nothing to them; that is for
// whoever reads the events. The one decision it makes in the kernel is to put a
// process of a known executable into the watched set at exec.
//
// Invariant: for one process, events come in the order Started, (Started with
// Replaced set)*, Exited, each once, whatever was lost on the way.
package discover

//go:generate go tool bpf2go -cc clang-19 -cflags "-O2 -g -Wall -Wextra -Wno-unused-parameter -Werror -I../../bpf/lib -idirafter /usr/include/x86_64-linux-gnu" -target amd64,arm64 -type discover_type -type discover_flag bpf discover.bpf.c
