/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * inject.h - a traceparent header as memory mode writes it. Where, and that there is
 * none yet, is the probe's to know.
 */
#ifndef TR_INJECT_H
#define TR_INJECT_H

#include "conn.h"
#include "procs.h"
#include "read.h"
#include "tracectx.h"

#define HPACK_LEN      69 /* 0x00, length, "traceparent", length, value */
#define MAX_BUF        (1 << 24)
#define H2_HEADERS     1
#define H2_END_HEADERS 0x04
#define H2_PADDED      0x08
#define H2_HEADER_LEN  9

/* What waits to be written for longer than this is not written any more: user space takes
 * its note away after twice that (probe.NoteMaxAge), never while somebody writes by it. */
#define WRITE_WITHIN_NS (30ULL * 1000000000)

/* Whether a note is of this run of the program, and not old. */
static __always_inline bool note_current(__u64 start_ns, __u32 epoch, const struct tr_proc *proc)
{
	return epoch == proc->epoch && bpf_ktime_get_ns() - start_ns < WRITE_WITHIN_NS;
}

static __always_inline __u8 hex_char(__u8 v)
{
	return v < 10 ? '0' + v : 'a' + v - 10;
}

static __always_inline void put_hex(__u8 *dst, const __u8 *src, int n)
{
	for (int i = 0; i < n; i++) {
		dst[2 * i] = hex_char(src[i] >> 4);
		dst[2 * i + 1] = hex_char(src[i] & 15);
	}
}

/* The 55 bytes of the header's value. */
static __noinline int put_value(__u8 *p, const struct tr_conn *ids)
{
	p[0] = p[1] = '0';
	p[2] = p[35] = p[52] = '-';
	put_hex(p + 3, (const __u8 *)ids->trace_id, 16);
	put_hex(p + 36, (const __u8 *)&ids->span_id, 8);
	put_hex(p + 53, (const __u8 *)&ids->trace_flags, 1); /* its low byte */
	return 0;
}

/* The HPACK_LEN bytes of a literal field without indexing, with a new name: one that
 * leaves the state of the compression alone. */
static __always_inline void put_hpack(__u8 *p, const struct tr_conn *ids)
{
	p[0] = 0;
	p[1] = 11;
	__builtin_memcpy(p + 2, "traceparent", 11);
	p[13] = TRACEPARENT_LEN;
	put_value(p + 14, ids);
}

/* Whether the len bytes at addr are one HEADERS frame of the stream, whole. */
static __noinline int is_headers_frame(__u64 addr, __u64 len, __u32 stream)
{
	__u64 head = read_u64(addr); /* length 3, type 1, flags 1, of the stream 3 */

	return len >= H2_HEADER_LEN && (bpf_ntohl((__u32)head) >> 8) == len - H2_HEADER_LEN &&
	       (head >> 24 & 0xff) == H2_HEADERS && (head >> 32 & H2_END_HEADERS) &&
	       !(head >> 32 & H2_PADDED) && bpf_ntohl(read_u32(addr + 5)) == stream;
}

/* The frame at addr is n bytes long with its head. The three bytes at word are the caller's. */
static __always_inline long put_frame_len(__u64 addr, __u8 *word, __u32 n)
{
	n -= H2_HEADER_LEN;
	word[0] = n >> 16;
	word[1] = n >> 8;
	word[2] = n;
	return bpf_probe_write_user((void *)addr, word, 3);
}

#endif
