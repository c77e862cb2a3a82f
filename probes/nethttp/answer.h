/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * answer.h - values of response headers that somebody asks for. Off unless; no point of
 * its own: the header map is read when the operation ends. Of a request served it is the
 * handler's, of HTTP/1 only and with what was set after WriteHeader, too; of a call the
 * response's.
 */
#ifndef NH_ANSWER_H
#define NH_ANSWER_H

#include "op.h"

const volatile __u64 cfg_answer_lens = 0;        /* as cfg_hdr_lens, of these alone */
const volatile __u8 cfg_answers[S_ANSWERS] = {}; /* slots of their rules, 0: none */

/* Look for wanted headers in a response's map, once for all who want them. */
static __noinline int scan_answer(struct nh_op *op, struct nh_scratch *x, __u64 map)
{
	struct tr_goexe *ge = bpf_map_lookup_elem(&tr_goexes, &op->ev.hdr.exe_id);

	if (!ge || !x)
		return 0;
	if (map)
		op->ev.flags |= F_ANSWERED;
	scan_reset(&x->scan, cfg_hdr_lens | cfg_answer_lens);
	scan_headers(ge, &x->scan, map);
	return 0;
}

/* Append what scan_answer has found. */
static __noinline int put_answers(struct nh_op *op, struct nh_scratch *x)
{
	if (!op || !x)
		return 0;
	for (__u32 i = 0; i < S_ANSWERS; i++) {
		__u32 slot = cfg_answers[i] & (MAX_HDR_SLOTS - 1);

		if (slot && hdr_values(&x->scan, slot))
			put_gostr(op, S_ANSWER0 + i, x->scan.at[slot].ptr);
	}
	return 0;
}

#endif
