/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * read.h - bounded reads of the target's memory. A read that faults yields 0:
 * callers check for 0 where 0 cannot be right.
 */
#ifndef TR_READ_H
#define TR_READ_H

static __always_inline __u64 read_u64(__u64 addr)
{
	__u64 v = 0;

	bpf_probe_read_user(&v, sizeof(v), (void *)addr);
	return v;
}

static __always_inline __u32 read_u32(__u64 addr)
{
	__u32 v = 0;

	bpf_probe_read_user(&v, sizeof(v), (void *)addr);
	return v;
}

static __always_inline __u8 read_u8(__u64 addr)
{
	__u8 v = 0;

	bpf_probe_read_user(&v, sizeof(v), (void *)addr);
	return v;
}

/* A Go string header, also the first two words of a slice. */
struct go_str {
	__u64 ptr;
	__u64 len;
};

#endif
