/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * procs.h - which processes are watched.
 *
 * Probes sit on the inode of an executable, so a program runs in every process
 * of that executable; tr_procs decides which of them count. A process gets in
 * either from user space, or in the kernel at exec when its executable is in
 * tr_exe_auto, so that the first request of a known executable is already seen.
 */
#ifndef TR_PROCS_H
#define TR_PROCS_H

#define MAX_PROCS 8192
#define MAX_EXES  1024

/* How traces of a process are handed on to the next service; bits of tr_proc.hand. */
enum tr_hand {
	HAND_JOIN = 1,   /* both ends of a connection on this node */
	HAND_MEMORY = 2, /* a header written into the process's memory */
	HAND_KERNEL = 4, /* a header line pushed by the kernel */
};

/* One watched process. Key: tgid in the initial pid namespace.
 * Inserted by: user space (pid selected) or discover's exec program (executable
 * selected). Deleted by: discover's exit program; user space on detach. */
struct tr_proc {
	__u64 start_ns; /* task->start_boottime of the group leader */
	__u64 bias;     /* load bias of the main executable (PIE), else 0 */
	__u32 exe_id;   /* index into every per-executable array */
	/* Tells this program from others that the process ran before: when it was let in,
	 * CLOCK_MONOTONIC in units of 2^20 ns. */
	__u32 epoch;
	__u32 hand; /* enum tr_hand: how its traces are handed on */
	__u32 pad;
	/* When its searches for ancestors (gokin.h) will have been paid for: CLOCK_MONOTONIC. */
	__u64 search_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PROCS);
	__type(key, __u32);
	__type(value, struct tr_proc);
} tr_procs SEC(".maps");

#endif
