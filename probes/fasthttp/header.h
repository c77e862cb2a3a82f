/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * header.h - headers, of which fasthttp keeps a slice: those that are always looked at, and
 * the configured ones.
 */
#ifndef FH_HEADER_H
#define FH_HEADER_H

#include "op.h"

#define BATCHES 4

/* Words of lower-case header names; a name's letter case is the client's to choose. */
#define W(a, b, c, d, e, f, g, h)                                                                  \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 |   \
	 (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)
#define LOWER    0x2020202020202020ULL

#define TRACEPAR W('t', 'r', 'a', 'c', 'e', 'p', 'a', 'r')
#define TRACESTA W('t', 'r', 'a', 'c', 'e', 's', 't', 'a')
#define X_FORWAR W('x', '-', 'f', 'o', 'r', 'w', 'a', 'r')
#define FORWARDE W('f', 'o', 'r', 'w', 'a', 'r', 'd', 'e')

/* The slot of the configured header whose name has len bytes at ptr, HDR_NONE if there is none.
 * Not static (goctx.h). */
__noinline int fh_hdr_slot(__u64 ptr, __u64 len)
{
	const volatile struct hdr_rule *r;
	__u64 w[3] = {};

	if (len >= MAX_HDR_LEN)
		return HDR_NONE;
	r = cfg_hdrs[len];
	asm volatile("" : "+r"(r)); /* not computed again from len */
	hdr_words(w, ptr, len);
	return hdr_match(r, w, LOWER, SLOTS);
}

/* Look for the header in op->key, op->val among the configured ones; the first of a name
 * counts. */
static __always_inline void configured(struct fh_op *op)
{
	__u64 len = op->key.len;
	__u32 slot;

	if (len >= MAX_HDR_LEN || !(op->lens >> len & 1))
		return;
	slot = fh_hdr_slot(op->key.ptr, len);
	if (slot < SLOTS && !op->found[slot].ptr)
		op->found[slot] = op->val;
}

/* Look at the header in op->key, op->val. */
static __noinline int header(struct fh_op *op)
{
	__u64 n, len;

	if (!op)
		return 0;
	if (cfg_hdr_lens | cfg_answer_lens)
		configured(op);
	if (op->answered)
		return 0;
	len = op->key.len;
	if (len != 11 && len != 10 && len != 15 && len != 9)
		return 0;
	op->word[0] = op->word[1] = 0;
	n = len;
	asm volatile("%0 &= 15" : "+r"(n));
	if (bpf_probe_read_user(op->word, n, (void *)op->key.ptr))
		return 0;
	switch (op->word[0] | LOWER) {
	case TRACEPAR:
		if (len != 11)
			return 0;
		/* several are none */
		op->trace_len = op->trace_len || op->val.len > 1024 ? 1 : op->val.len;
		if (op->trace_len >= TRACEPARENT_LEN)
			bpf_probe_read_user(op->tp, 56, (void *)op->val.ptr);
		return 0;
	case TRACESTA:
		if (len == 10)
			put(op, FS_TRACESTATE, op->val.ptr, op->val.len);
		return 0;
	case X_FORWAR:
		if (len == 15)
			put(op, FS_FORWARDED_FOR, op->val.ptr, op->val.len);
		return 0;
	case FORWARDE:
		if (len == 9)
			put(op, FS_FORWARDED, op->val.ptr, op->val.len);
	}
	return 0;
}

/* The have headers at at, BATCH at most; 0 when they could not be read. */
static __noinline int batch(struct fh_op *op, struct fh_exe *e, __u64 at, __u64 have)
{
	__u64 bytes;

	if (!op || !e)
		return 0;
	bytes = have * e->kv_size;
	asm volatile("if %0 <= %1 goto +1; %0 = 0" : "+r"(bytes) : "i"(BATCH * KV_MAX));
	if (bpf_probe_read_user(op->kv, bytes, (void *)at))
		return 0;
	for (__u32 i = 0; i < BATCH; i++) {
		__u32 off = i * e->kv_size;

		if (i >= have)
			break;
		op->key = *(struct go_str *)&op->kv[(off + e->kv_key) / 8 & 63];
		op->val = *(struct go_str *)&op->kv[(off + e->kv_value) / 8 & 63];
		header(op);
	}
	return 1;
}

/* The headers at hdrs: a slice of argsKV { key []byte; value []byte; ... }. */
static __noinline int headers(struct fh_op *op, struct fh_exe *e, __u64 hdrs)
{
	__u64 at, n;

	if (!op || !e || e->kv_size > KV_MAX)
		return 0;
	at = read_u64(hdrs);
	n = read_u64(hdrs + 8);
	for (__u32 b = 0; b < BATCHES; b++) {
		__u64 have = n > BATCH ? BATCH : n;

		if (!have || !batch(op, e, at, have))
			break;
		at += BATCH * e->kv_size;
		n -= have;
	}
	return 0;
}

#endif
