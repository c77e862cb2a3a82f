/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * body.h - JSON bodies, for metrics that are made of their fields: see lib/body.h. When the
 * handler has returned, the request's is still in the Request, and the response's already in
 * the Response, unless it is a stream.
 */
#ifndef FH_BODY_H
#define FH_BODY_H

#include "op.h"
#include "../../bpf/lib/body.h"

/* A record of the body that is in op->s. */
static __noinline int body_put(struct fh_op *op, __u32 kind)
{
	struct tr_body_of of;

	if (!op)
		return 0;
	of.hdr = &op->ev.call.hdr;
	of.goid = &op->ev.call.goid;
	of.start_ns = &op->ev.call.start_ns;
	of.size = &op->body_size;
	return body_record(&of, kind, op->s.ptr, op->s.len > BODY_MAX ? BODY_MAX : op->s.len);
}

/* Whether the []byte at addr, a media type, is JSON's. */
static __noinline int body_json(struct fh_op *op, __u64 addr)
{
	if (!op)
		return 0;
	op->s.ptr = op->s.len = 0;
	bpf_probe_read_user(&op->s, sizeof(op->s), (void *)addr);
	op->tp[MEDIA_LEN] = 0;
	if (op->s.len < MEDIA_LEN ||
	    bpf_probe_read_user(op->tp, op->s.len == MEDIA_LEN ? MEDIA_LEN : MEDIA_LEN + 1,
				(void *)op->s.ptr))
		return 0;
	return media_json((__u64 *)op->tp, op->s.len, op->tp[MEDIA_LEN]);
}

/* The []byte at raw, or else what the *bytebufferpool.ByteBuffer { B []byte } at body
 * holds, is copied to op->s. */
static __noinline int body_at(struct fh_op *op, __u64 raw, __u64 body)
{
	if (!op)
		return 0;
	op->s.ptr = op->s.len = 0;
	bpf_probe_read_user(&op->s, sizeof(op->s), (void *)raw);
	if (!op->s.len)
		bpf_probe_read_user(&op->s, sizeof(op->s), (void *)read_u64(body));
	op->body_size = op->s.len;
	return 0;
}

/* The request's body, when the handler has returned. */
static __noinline int body_given(struct fh_op *op, struct fh_exe *e)
{
	__u64 req;

	if (!op || !e)
		return 0;
	req = op->req;
	if (op->ev.req_size < -1 || !op->ev.req_size || !body_json(op, req + e->req_ctype))
		return 0;
	body_at(op, req + e->req_raw, req + e->req_body);
	if (read_u64(req + e->req_stream) ||
	    (op->ev.req_size > 0 && op->body_size != op->ev.req_size)) {
		op->s.len = 0; /* not all of it, or what the handler has put there */
		op->body_size = -1;
	}
	return body_put(op, BODY_PIECE);
}

static __noinline int body_answered(struct fh_op *op, struct fh_exe *e, __u64 resp)
{
	if (!op || !e || !op->ev.resp_size || !body_json(op, resp + e->resp_ctype))
		return 0;
	body_at(op, resp + e->raw, resp + e->body);
	if (read_u64(resp + e->stream)) {
		op->s.len = 0;
		op->body_size = -1;
	}
	return body_put(op, BODY_ANSWER);
}

#endif
