/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * inject.h - a traceparent header as memory mode writes it. Where, and that there is
 * none yet, is the probe's to know.
 */
#ifndef TR_INJECT_H
#define TR_INJECT_H

#include "conn.h"
#include "tracectx.h"

#define HPACK_LEN      69 /* 0x00, length, "traceparent", length, value */
#define MAX_BUF        (1 << 24)
#define H2_HEADERS     1
#define H2_END_HEADERS 0x04
#define H2_PADDED      0x08
#define H2_HEADER_LEN  9

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

#endif
