/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * h2body.h - JSON bodies and headers of HTTP/2 servers, for metrics: see lib/body.h.
 *   request   comes in frames, mostly after the handler has started, and another goroutine
 *             puts them into a dataBuffer. What a Read of the handler's takes from that is in
 *             it when (*dataBuffer).Read begins: a point of its own, which is attached only
 *             when a rule names a field of requests, and hit once by each Read that gets
 *             something.
 *   response  up to 4 KiB are in the bufio.Writer still when the handler has returned and
 *             the end's program runs: it is sent after that
 */
#ifndef NH_H2BODY_H
#define NH_H2BODY_H

#include "answer.h"
#include "body.h"

#define MIN_CHUNK 1024 /* of a dataBuffer: dataChunkSizeClasses in x/net/http2/databuffer.go */

/* The handler of a request is about to start; body is the data pointer of Request.Body, a
 * *requestBody. */
static __noinline int h2_arrived(struct nh_op *op, struct nh_scratch *x, struct nh_h2 *h2,
				 __u64 body)
{
	if (!op || !x || !h2 || !h2->reads)
		return 0;
	op->ev.flags |= F_LOOKED_REQUEST;
	if (!op->ev.req_size || !body_json(x))
		return 0;
	op->h2_pipe = read_u64(body + h2->rb_pipe);
	op->h2_chunk = 0;
	op->body_size = op->ev.req_size;
	return op->h2_pipe ? body_put(op, BODY_PIECE, 0, 0) : 0;
}

/* A Read with room bytes begins to take from the dataBuffer at buf, under the pipe's lock. Only
 * what lies in its first chunk is looked at, and only as long as all of that was read by this
 * goroutine: r is how much of it was, and nothing was before the first chunk if what has come
 * of the body is in the buffer, or about to be. Chunks of 1 KiB and more take what a frame brings,
 * or what the request said it will send. */
static __noinline int h2_piece(struct nh_op *op, struct nh_h2 *h2, __u64 buf, __u64 room)
{
	__u64 chunks, chunk, r, end;

	if (!op || !h2)
		return 0;
	chunks = read_u64(buf + h2->db_chunks);
	chunk = read_u64(chunks);
	end = read_u64(chunks + 8);
	r = read_u64(buf + h2->db_r);
	if (read_u64(buf + h2->db_chunks + 8) == 1)
		end = read_u64(buf + h2->db_w);
	if (!op->h2_chunk) {
		__u64 rws = read_u64(op->rw + h2->rw_rws);

		/* What was taken is at least a chunk; less that is missing is a frame that
		 * waits for the lock. */
		if (r || read_u64(read_u64(rws + h2->rws_stream) + h2->stream_bytes) -
					 read_u64(buf + h2->db_size) >=
				 MIN_CHUNK)
			goto last; /* another goroutine reads, too */
		op->h2_chunk = chunk;
	} else if (op->h2_chunk != chunk || op->h2_next != r) {
		goto last;
	}
	if (end > BODY_MAX)
		end = BODY_MAX;
	if (!chunk || r >= end)
		goto last;
	end -= r;
	if (end > room)
		end = room;
	op->h2_next = r + end;
	op->body_size = op->ev.req_size;
	return body_put(op, BODY_PIECE | r << BODY_AT, chunk + r, end);
last:
	op->h2_pipe = 0;
	return 0;
}

/* The handler has returned; nothing of its response has been sent if all of it is in the
 * buffer. */
static __noinline int h2_answered(struct nh_op *op, struct nh_exe *e)
{
	struct nh_h2 *h2 = op->xnet ? &e->xh2 : &e->h2;
	__u64 bw, n;

	bw = read_u64(read_u64(op->rw + h2->rw_rws) + h2->rws_bw);
	n = read_u64(bw + e->bw_n);
	if (n != (__u64)op->ev.resp_size || n > BODY_MAX)
		n = 0;
	op->body_size = op->ev.resp_size;
	return body_put(op, BODY_ANSWER, read_u64(bw + e->bw_buf), n);
}

/* The header map of a response of HTTP/2: a copy as it was at WriteHeader, if that was
 * called. */
static __noinline __u64 h2_headers(struct nh_op *op, struct nh_exe *e)
{
	struct nh_h2 *h2 = op->xnet ? &e->xh2 : &e->h2;
	__u64 rws = read_u64(op->rw + h2->rw_rws);
	__u64 map = read_u64(rws + h2->rws_snap);

	if (!h2->answers)
		return 0;
	op->ev.flags |= F_LOOKED_RESPONSE;
	return map ?: read_u64(rws + h2->rws_header);
}

/* A request has been answered, of HTTP/2: is about to be: w is 0. The response's headers take the
 * place of the request's. The verifier follows the search for them once: what tells the two
 * apart afterwards is read from the map. */
static __noinline int answered(struct nh_op *op, struct nh_scratch *x, struct nh_exe *e, __u64 w)
{
	__u64 map = 0;

	if (!op || !x || !e)
		return 0;
	if (!w)
		map = h2_headers(op, e);
	else if (e->body)
		map = read_u64(w + e->w_header);
	scan_answer(op, x, map);
	if (!(cfg_body & WANT_RESPONSE) || !op->ev.resp_size || !body_json(x))
		return 0;
	return op->ev.flags & F_H2 ? h2_answered(op, e) : body_answered(op, x, e);
}

#endif
