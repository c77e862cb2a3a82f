/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * exes.h - executables whose processes are watched from their first instruction
 * on, because the exec program itself puts them into tr_procs.
 */
#ifndef TR_EXES_H
#define TR_EXES_H

#include "procs.h"

/* An executable as the kernel sees it: inode number and device of the file that
 * is really mapped (below overlayfs, if there is one). */
struct tr_exe_key {
	__u64 ino;
	__u32 dev; /* major << 20 | minor */
	__u32 pad;
};

struct tr_exe_auto {
	__u32 exe_id;
	__u32 hand; /* tr_proc.hand of its processes */
	/* Link-time address of the lowest executable PT_LOAD (p_vaddr): what
	 * mm->start_code would be without a load bias. */
	__u64 load_vaddr;
};

/* Inserted and deleted by user space only. A deleted entry does not unwatch the
 * processes that run already. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_EXES);
	__type(key, struct tr_exe_key);
	__type(value, struct tr_exe_auto);
} tr_exe_auto SEC(".maps");

#endif
