/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * body.h - beginnings of JSON bodies of HTTP/1, for metrics that are made of their fields:
 * see lib/body.h. No point of its own and no copy that waits:
 *   server request   what is behind the headers in the connection's bufio.Reader when the
 *                    handler starts; what comes later is there still when it has ended, if
 *                    it came at once and was read through the buffer
 *   server response  in the connection's bufio.Writer, where it stays when it has been
 *                    sent; not if the handler declares a Content-Length: then it may have
 *                    gone past the buffer, which holds an earlier one
 *   client request   in the bytes.Reader, bytes.Buffer or strings.Reader it is given as
 *   client response  what is behind the headers in the connection's bufio.Reader, before
 *                    the caller reads it
 */
#ifndef NH_BODY_H
#define NH_BODY_H

#include "op.h"
#include "../../bpf/lib/body.h"

#define HEAD_MAX 1024 /* of a response's headers, when it is not known where they end */

/* A record of what is at addr. */
static __noinline int body_put(struct nh_op *op, __u32 kind, __u64 addr, __u64 len)
{
	struct tr_body_of of;

	if (!op)
		return 0;
	of.hdr = &op->ev.hdr;
	of.goid = &op->ev.goid;
	of.start_ns = &op->ev.start_ns;
	of.size = &op->body_size;
	return body_record(&of, kind, addr, len);
}

/* Whether the headers that were scanned say that the body is JSON. */
static __noinline int body_json(struct nh_scratch *x)
{
	struct go_str *v = &x->io.s;
	__u64 *word = (__u64 *)x->tp; /* the traceparent in it has been looked at */

	if (hdr_values(&x->scan, HDR_CONTENT_TYPE) != 1 ||
	    bpf_probe_read_user(v, sizeof(*v), (void *)x->scan.at[HDR_CONTENT_TYPE].ptr))
		return 0;
	x->tp[MEDIA_LEN] = 0;
	if (v->len < MEDIA_LEN ||
	    bpf_probe_read_user(x->tp, v->len == MEDIA_LEN ? MEDIA_LEN : MEDIA_LEN + 1,
				(void *)v->ptr))
		return 0;
	return media_json(word, v->len, x->tp[MEDIA_LEN]);
}

/* The bufio.Reader at br: where its buffer is, and what is unread of it. */
static __always_inline bool body_reader(struct nh_exe *e, __u64 br, __u64 *buf, __u64 *r, __u64 *w)
{
	*buf = read_u64(br + e->br_buf);
	*r = read_u64(br + e->br_r);
	*w = read_u64(br + e->br_w);
	return *buf && *r <= *w && *w <= BODY_MAX;
}

/* The handler of a request is about to start. */
static __noinline int body_arrived(struct nh_op *op, struct nh_scratch *x, struct nh_exe *e)
{
	__u64 buf, r, w, n;

	if (!e->body || op->xnet || op->ev.proto_major != 1 || !op->ev.req_size || !body_json(x))
		return 0;
	if (!body_reader(e, read_u64(read_u64(op->rw + e->w_conn) + e->hc_bufr), &buf, &r, &w))
		return 0;
	n = w - r;
	op->body_size = op->ev.req_size;
	if (op->body_size >= 0) {
		if (n > (__u64)op->body_size)
			n = op->body_size; /* behind it is the next request */
		if (op->body_size - n <= BODY_MAX)
			op->body_left = op->body_size - n;
		op->body_w = w;
	}
	return body_put(op, BODY_REQUEST, buf + r, n);
}

/* The handler has ended. A bufio.Reader that is empty begins its buffer again: one that
 * holds as much as was missing was filled once since. Where it ends where it ended before,
 * it may not have been filled at all. */
static __noinline int body_rest(struct nh_op *op, struct nh_exe *e)
{
	__u64 buf, r, w;

	if (!body_reader(e, read_u64(read_u64(op->rw + e->w_conn) + e->hc_bufr), &buf, &r, &w))
		return 0;
	if (w != op->body_left || r != w || w == op->body_w)
		return 0;
	return body_put(op, BODY_REST, buf, w);
}

/* A response has been sent, whose headers have been looked at. */
static __noinline int body_answered(struct nh_op *op, struct nh_scratch *x, struct nh_exe *e)
{
	__u64 bw, n = op->ev.resp_size;

	if (op->xnet || n > BODY_MAX || x->scan.more || hdr_values(&x->scan, HDR_CONTENT_LENGTH))
		return 0;
	n += HEAD_MAX;
	if (n > BODY_MAX)
		n = BODY_MAX;
	bw = read_u64(read_u64(op->rw + e->w_conn) + e->hc_bufw);
	if (read_u64(bw + e->bw_buf + 8) < n)
		return 0;
	op->body_size = -1; /* its head tells */
	return body_put(op, BODY_RESPONSE, read_u64(bw + e->bw_buf), n);
}

/* A request is about to be sent: *readTrackingBody of net/http, which holds what
 * io.NopCloser made, which holds the reader; each of them an interface. The first is not there
 * when a program uses golang.org/x/net's Transport itself. The reader begins with the bytes or
 * the string, which is the body if it is as long as that. */
static __noinline int body_given(struct nh_op *op, __u64 body)
{
	struct nh_scratch *x = &call_of(op)->x;
	struct go_str *v = &x->io.s;

	if (op->ev.req_size <= 0 || !body_json(x))
		return 0;
	op->body_size = op->ev.req_size;
	v->len = read_u64(body + 8);
	for (int i = 0; i < 3; i++) {
		if (bpf_probe_read_user(v, sizeof(*v), (void *)v->len))
			return 0;
		if (i && v->len == (__u64)op->body_size)
			break;
	}
	if (v->len != (__u64)op->body_size) /* another kind of reader */
		v->len = 0;
	return body_put(op, BODY_REQUEST, v->ptr, v->len > BODY_MAX ? BODY_MAX : v->len);
}

/* A response's head has come; pc is the connection. */
static __noinline int body_received(struct nh_op *op, struct nh_exe *e)
{
	__u64 buf, r, w;

	if (!e->body || !op->rw || !op->ev.resp_size ||
	    !body_reader(e, read_u64(op->rw + e->pc_br), &buf, &r, &w) || r == w)
		return 0;
	op->body_size = op->ev.resp_size;
	return body_put(op, BODY_RESPONSE, buf, w);
}

#endif
