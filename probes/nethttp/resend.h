/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * resend.h - which attempt of a call an operation is: http.request.resend_count.
 */
#ifndef NH_RESEND_H
#define NH_RESEND_H

#include "op.h"

/* Attempts that failed on a connection, which net/http may make again on the same
 * goroutine: HTTP/1 at once, HTTP/2 with growing pauses. Key: tgid, goid. Inserted at
 * the attempt's end; LRU, for most are not repeated. */
struct nh_failed {
	__u64 url, hdr; /* of the request; its copies share both */
	__u64 end_ns;
	__u32 epoch;
	__u32 resend;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, struct tr_gokey);
	__type(value, struct nh_failed);
} nh_faileds SEC(".maps");

/* When an attempt last failed: without one there is nothing to look up. */
volatile __u64 nh_failed_ns = 0;

#define RESEND_H1_NS (1ULL * 1000000000ULL)
#define RESEND_H2_NS (64ULL * 1000000000ULL)
#define MAX_RESEND   32

static __noinline int attempt_failed(struct nh_op *op, const struct tr_gokey *key)
{
	struct nh_failed f = {
		.url = call_of(op)->url,
		.hdr = call_of(op)->hdr,
		.end_ns = bpf_ktime_get_ns(),
		.epoch = op->epoch,
		.resend = op->ev.resend,
	};

	nh_failed_ns = f.end_ns;
	bpf_map_update_elem(&nh_faileds, key, &f, BPF_ANY);
	return 0;
}

/* How many attempts of the same call came before: redirects, which the request leads
 * back to, and after a failure net/http's own retries. */
static __noinline int put_resend(struct nh_op *op, const struct nh_exe *e, __u16 response)
{
	struct tr_gokey key = { .tgid = op->ev.hdr.tgid, .id = op->ev.goid };
	__u64 within = op->ev.flags & F_H2 ? RESEND_H2_NS : RESEND_H1_NS, req = op->req, res;
	struct nh_failed *f;
	__u32 n = 0;

	if (op->ev.start_ns - nh_failed_ns < within) {
		f = bpf_map_lookup_elem(&nh_faileds, &key);
		if (f && f->url == call_of(op)->url && f->hdr == call_of(op)->hdr &&
		    f->epoch == op->epoch && op->ev.start_ns - f->end_ns < within &&
		    f->resend < MAX_RESEND) {
			op->ev.resend = f->resend + 1;
			return 0;
		}
	}
	if (response == OFF_NONE || e->res_request == OFF_NONE)
		return 0;
	for (n = 0; n < MAX_RESEND; n++) {
		res = read_u64(req + response);
		if (!res)
			break;
		req = read_u64(res + e->res_request);
	}
	op->ev.resend = n;
	return 0;
}

#endif
