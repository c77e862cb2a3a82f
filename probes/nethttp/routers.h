/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * routers.h - http.route of requests that another router than ServeMux serves. Each
 * program runs once per request, only in programs that have that router:
 *   gin, echo, chi  where the router gives its context back to its pool: the handler
 *                   has returned and every mounted router has added its part
 *   gorilla/mux     when the route has been found
 * A router inside a router names the longer template: the inner one's is kept.
 */
#ifndef NH_ROUTERS_H
#define NH_ROUTERS_H

#include "server.h"

#define MAX_ROUTE_PARTS 8

static __always_inline struct nh_op *route_op(struct pt_regs *ctx, struct nh_exe **e)
{
	struct tr_gokey key = {};
	struct tr_goexe *ge;

	return server_op(&key, ctx, e, &ge);
}

/* The template is the string at addr. */
static __always_inline void route_str(struct nh_op *op, __u64 addr)
{
	if (op->ev.flags & F_ROUTED)
		return;
	put_gostr(op, S_ROUTE, addr);
	if (op->ev.str[S_ROUTE].len)
		op->ev.flags |= F_ROUTED;
}

/* The character i before the end of what is in the tail. */
static __always_inline __u8 tail_char(struct nh_op *op, __u32 i)
{
	__u32 at = op->ev.tail_len - i;

	if (at >= TAIL_MAX)
		return 0;
	/* verifier(5.10): a bound it keeps */
	asm volatile("%0 &= 2047" : "+r"(at));
	_Static_assert(TAIL_MAX + STR_MAX + 1 == 2048, "mask above");
	return op->ev.tail[at];
}

/* chi's Context.RoutePattern: the parts that each router matched, joined, without the
 * wildcard that stands for the next part and without a slash at the end. */
static __noinline int route_chi(struct nh_op *op, __u64 rctx, const struct nh_chi *o)
{
	__u64 list, n;
	__u32 start;

	if (!op || !o || op->ev.flags & F_ROUTED)
		return 0;
	/* empty when the innermost router found nothing */
	if (!read_u64(rctx + o->pattern + 8))
		return 0;
	list = read_u64(rctx + o->patterns);
	n = read_u64(rctx + o->patterns + 8);
	if (!n || n > MAX_ROUTE_PARTS)
		return 0;
	start = op->ev.tail_len;
	for (__u32 i = 0; i < MAX_ROUTE_PARTS; i++) {
		if (i >= n)
			break;
		if (i && op->ev.tail_len > start + 1 && tail_char(op, 1) == '*' &&
		    tail_char(op, 2) == '/')
			op->ev.tail_len -= 2;
		put_gostr(op, S_ROUTE, list + i * 16);
	}
	if (op->ev.tail_len > start + 1 && tail_char(op, 1) == '/')
		op->ev.tail_len--;
	op->ev.str[S_ROUTE].off = start;
	op->ev.str[S_ROUTE].len = op->ev.tail_len - start;
	if (op->ev.str[S_ROUTE].len)
		op->ev.flags |= F_ROUTED;
	return 0;
}

#endif
