/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * h2server.h - what runs in a stream of an HTTP/2 server besides the start, which is HTTP/1's.
 */
#ifndef NH_H2SERVER_H
#define NH_H2SERVER_H

#include "server.h"

/* The deferred function of (*serverConn).runHandler. */
static __always_inline int h2_finish(struct pt_regs *ctx, bool xnet)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct tr_goexe *ge;
	struct nh_op *op = server_op(&key, ctx, &e, &ge);
	struct nh_h2 *h2;
	__u64 rws;

	if (!op) {
		server_finish_unsampled(&key);
		return 0;
	}
	h2 = xnet ? &e->xh2 : &e->h2;
	op->ev.flags |= F_H2;
	rws = read_u64(op->rw + h2->rw_rws);
	if (rws) {
		op->ev.status = read_u32(rws + h2->rws_status);
		op->ev.resp_size = read_u64(rws + h2->rws_wrote_bytes);
		if (read_u8(rws + h2->rws_wrote_header))
			op->ev.flags |= F_WROTE_HEADER;
	}
	put_unwind(op, ge, GO_G(ctx));
	op->ev.flags &= ~F_HIJACKED; /* an HTTP/2 stream cannot be taken over */
	server_end(op, &key, e, 0);
	server_drop(&key); /* the goroutine ends with the stream */
	return 0;
}

/* (*dataBuffer).Read. */
static __always_inline int h2_read(struct pt_regs *ctx, bool xnet)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct tr_goexe *ge;
	struct nh_op *op = server_entry(&key, ctx, &e, &ge);
	struct nh_h2 *h2;

	if (!op || !op->h2_pipe)
		return 0;
	h2 = xnet ? &e->xh2 : &e->h2;
	/* its own, and not that of a response that the handler reads */
	if (read_u64(op->h2_pipe + h2->pipe_b + 8) != GO_ARG0(ctx))
		return 0;
	return h2_piece(op, h2, GO_ARG0(ctx), GO_ARG2(ctx));
}

#endif
