/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * request.h - what is read of a request that is served, and what it must look like.
 */
#ifndef NH_REQUEST_H
#define NH_REQUEST_H

#include "lite.h"

/* Append the values of the configured request headers. */
static __noinline int put_captured(struct nh_op *op, struct hdr_scan *sc)
{
	if (sc->found >> S_CAPTURE0)
		for (__u32 i = S_CAPTURE0; i < S_ANSWER0; i++)
			if (hdr_values(sc, i))
				put_gostr(op, i, sc->at[i].ptr);
	return 0;
}

/* Append the values of the wanted request headers. A header split over several
 * lines is taken from its first; tracestate, which would be changed by that, is
 * left out then. */
static __noinline int put_headers(struct nh_op *op, struct hdr_scan *sc)
{
	if (!op || !sc->found)
		return 0;
	for (__u32 i = S_USER_AGENT; i < S_CAPTURE0; i++) {
		if (!hdr_values(sc, i) || i == S_TRACEPARENT)
			continue;
		if (i == S_TRACESTATE &&
		    (sc->at[i].len > 1 ||
		     (op->ev.flags & (F_REMOTE_PARENT | F_JOINED)) != F_REMOTE_PARENT))
			continue; /* nothing without its traceparent */
		put_gostr(op, i, sc->at[i].ptr);
	}
	return put_captured(op, sc);
}

/* The port at the end of string S_PEER, "address:port". */
static __noinline int peer_port(struct nh_op *op)
{
	__u32 end = op->ev.str[S_PEER].off + op->ev.str[S_PEER].len, port = 0, unit = 1;

	for (__u32 i = 1; i < 6; i++) {
		__u32 at = end - i;

		if (at >= TAIL_MAX)
			break;
		__u8 c = op->ev.tail[at];

		if (c < '0' || c > '9')
			break;
		port += unit * (c - '0');
		unit *= 10;
	}
	return port & 0xffff;
}

/* RemoteAddr, which is the same string for all of a connection's requests; so is the
 * goroutine, and the entry, with HTTP/1. It comes first in the tail. */
static __always_inline int put_remote(struct nh_op *op, struct nh_scratch *x, struct nh_exe *e)
{
	struct go_str *v = (struct go_str *)&x->obj[e->req_remote & (REQ_MAX - 1)];

	if (v->len && v->ptr == op->peer_ptr && v->len == op->peer_len) {
		op->ev.str[S_PEER].len = v->len;
		op->ev.tail_len = v->len;
		return 0;
	}
	put_str(op, S_PEER, v->ptr, v->len);
	op->peer_len = op->ev.str[S_PEER].len;
	op->peer_ptr = op->peer_len == v->len ? v->ptr : 0;
	op->peer_port = peer_port(op);
	return 0;
}

/* The method; and the target, if it is its neighbour in the line that was received. */
static __always_inline int put_line(struct nh_op *op, struct nh_scratch *x, struct nh_exe *e)
{
	struct go_str *m = (struct go_str *)&x->obj[e->req_method & (REQ_MAX - 1)];
	struct go_str *u = (struct go_str *)&x->obj[e->req_uri & (REQ_MAX - 1)];
	__u64 len = m->len, all = len + 1 + u->len;

	if (u->ptr != m->ptr + len + 1 || !u->len || len > 64 || u->len > STR_MAX - 65)
		all = len;
	put_str(op, S_METHOD, m->ptr, all);
	if (all == len || op->ev.str[S_METHOD].len != all)
		return 0;
	op->ev.str[S_METHOD].len = len;
	op->ev.str[S_URI].off = op->ev.str[S_METHOD].off + len + 1;
	op->ev.str[S_URI].len = all - len - 1;
	return 0;
}

static __always_inline __u8 method_char(struct nh_op *op, __u32 i)
{
	return op->ev.tail[(op->ev.str[S_METHOD].off + i) & (STR_MAX)];
}

/* What the offsets must lead to, checked until it once did. The method is the client's
 * to choose, and may be on a page that cannot be read now: neither condemns the program. */
static __always_inline enum nh_check server_check(struct nh_op *op, struct nh_scratch *x,
						  struct nh_exe *e)
{
	if (!op->ev.str[S_METHOD].len || op->ev.str[S_METHOD].len > 64)
		return CHECK_LATER;
	if (!is_tchar(method_char(op, 0)))
		return CHECK_METHOD;
	if (!obj_u64(x, e->req_url))
		return CHECK_URL;
	if (!op->ctx)
		return CHECK_CONTEXT;
	e->server_sane = 1;
	return 0;
}

/* Whether the request is the beginning, "PRI * HTTP/2.0", of a connection that goes on as
 * HTTP/2. */
static __always_inline bool is_preface(struct nh_op *op)
{
	if (MAY_COUNT)
		return op->method == 0x495250; /* PRI, as a little-endian word */
	return op->ev.str[S_METHOD].len == 3 && method_char(op, 0) == 'P' &&
	       method_char(op, 1) == 'R';
}

/* What a span has and metrics have not. */
static __noinline int server_details(struct nh_op *op, struct nh_scratch *x, struct tr_goexe *ge,
				     struct nh_exe *e)
{
	if (MAY_COUNT) {
		if (!op->ev.str[S_METHOD].len)
			put_line(op, x, e);
		scan_reset(&x->scan, cfg_hdr_lens);
		scan_headers(ge, &x->scan, obj_u64(x, e->req_header));
	}
	if (!op->ev.str[S_URI].len)
		put_field(op, x, S_URI, e->req_uri);
	put_field(op, x, S_HOST, e->req_host);
	return put_headers(op, &x->scan);
}

/* Read the request and check it; false when it is not followed. */
static __noinline int server_read(struct nh_op *op, struct nh_scratch *x, struct nh_exe *e)
{
	__u32 n = e->req_len;

	asm volatile("%0 &= 511" : "+r"(n));
	_Static_assert(REQ_MAX == 512, "mask above");
	if (bpf_probe_read_user(x->obj, n, (void *)op->req)) {
		count_lost(probe_id, LOST_READ);
		return 0;
	}
	put_remote(op, x, e);
	if (MAY_COUNT)
		take_method(op, x, e);
	if (!MAY_COUNT || !e->server_sane)
		put_line(op, x, e);
	op->ctx = obj_u64(x, e->req_ctx + 8);
	if (!e->server_sane) {
		enum nh_check bad = server_check(op, x, e);

		if (bad) {
			unsane(op, bad);
			return 0;
		}
	}
	if (is_preface(op))
		return 0;
	op->ev.proto_major = obj_u64(x, e->req_major);
	op->ev.proto_minor = obj_u64(x, e->req_minor);
	/* else its end would not be seen */
	return op->ev.proto_major < 2 ||
	       (op->ev.proto_major == 2 && (op->xnet ? e->xh2_end : e->h2_end));
}

#endif
