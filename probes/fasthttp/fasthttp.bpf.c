//go:build ignore
//  SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * fasthttp - server requests of github.com/valyala/fasthttp, and of fiber on top of it.
 *
 * Two programs run per request, in the goroutine that serves the connection:
 *   start  (*Request).readLimitBody or readBodyStream: the header has been read
 *   end    writeResponse, when the handler has returned; where the compiler put it into
 *          its callers, their call of (*Response).Write
 * fiber costs a third: its context goes back to the pool and names the route.
 *
 * Where somebody asks for fields of JSON bodies, those are copied at the end, when they are
 * byte slices of the Request and the Response.
 *
 * Lost by design: requests whose header is not valid, and what a handler that hijacks
 * the connection without an answer did. Headers past the 32nd are not read, nor as
 * headers somebody asks for those that fasthttp keeps apart (Content-Type, Cookie, Server).
 * Bodies that are streamed are not read.
 * Minimum kernel: 5.10. Maps: fh_ops, fh_exes; tr_*.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "body.h"
#include "header.h"

/* Who is at the other end, and whether a client on this node said what it sends. */
static __noinline int peer(struct fh_op *op, struct tr_who *w, struct fh_exe *e, __u64 addr)
{
	int fd;

	if (!op || !w || !w->ge || !e)
		return 0;
	io_init(&op->io, w->proc);
	fd = fd_of_conn(&op->io, w->ge, &e->conn, addr);
	if (fd < 0 || !conn_key(&op->io.c, fd, false))
		return 0;
	__builtin_memcpy(op->ev.peer_ip, op->io.c.key.client, 16);
	op->ev.peer_port = op->io.c.key.client_port;
	return e->join && (op->io.hand & HAND_JOIN) && !op->trace_len &&
	       said_any(op->io.c.key.client_port) && conn_take(&op->io.c, fd, 0);
}

/* Trace id, parent and sampling; 0 when the request is not recorded. */
static __noinline int trace(struct fh_op *op, int joined)
{
	struct tr_call *c = &op->ev.call;
	struct traceparent *p = &op->parent;

	c->span_id = new_ids(c->trace_id, c->start_ns, c->hdr.tgid, c->goid);
	p->flags = 0;
	if (op->trace_len && parse_traceparent(p, op->tp, op->trace_len)) {
		c->trace_id[0] = p->trace_id[0];
		c->trace_id[1] = p->trace_id[1];
		c->parent_id = p->span_id;
		c->trace_flags = p->flags & TRACE_FLAG_RANDOM;
	} else if (joined) {
		c->trace_id[0] = op->io.c.val.trace_id[0];
		c->trace_id[1] = op->io.c.val.trace_id[1];
		c->parent_id = op->io.c.val.span_id;
		p->flags = op->io.c.val.trace_flags;
	}
	if (c->parent_id)
		c->flags |= FH_REMOTE_PARENT;
	if (!sampled(c->trace_id, c->parent_id != 0, p->flags))
		return 0;
	c->trace_flags |= TRACE_FLAG_SAMPLED;
	return 1;
}

/* Children find the request by goroutine, and by RequestCtx, which is a context. */
static __noinline int scope_open(struct fh_op *op, struct tr_gokey *key, __u64 rctx)
{
	struct tr_call *c = &op->ev.call;
	struct tr_scope *s = bpf_map_lookup_elem(&tr_scopes, key);

	if (!s) {
		bpf_map_update_elem(&tr_scopes, key, &scope_zero, BPF_ANY);
		s = bpf_map_lookup_elem(&tr_scopes, key);
		if (!s)
			return 0;
	}
	if (s->epoch != c->epoch)
		s->reg = 0; /* of the program before */
	s->trace_id[0] = c->trace_id[0];
	s->trace_id[1] = c->trace_id[1];
	s->span_id = c->span_id;
	s->start_ns = c->start_ns;
	s->end_ns = 0;
	s->trace_flags = c->trace_flags;
	s->epoch = c->epoch;
	s->goid = key->id;
	scope_ctx(key, s, rctx);
	return 0;
}

static __always_inline bool token(struct fh_op *op)
{
	__u8 c = op->ev.tail[0];

	return op->ev.str[FS_METHOD].len && op->ev.str[FS_METHOD].len <= 64 &&
	       ((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'));
}

/* What is read of a request; of one that is not kept and only counted metrics need little. */
static __noinline int put_request(struct fh_op *op, struct fh_exe *e, int kept)
{
	if (!op || !e)
		return 0;
	if (kept || cfg_count_full) {
		put_at(op, FS_URI, op->req + e->uri);
		put_at(op, FS_HOST, op->req + e->host);
		put_at(op, FS_USER_AGENT, op->req + e->agent);
		for (__u32 i = 0; cfg_hdr_lens && i < CAPTURES; i++)
			put(op, FS_CAPTURE0 + i, op->found[i].ptr, op->found[i].len);
	}
	op->ev.req_size = read_u64(op->req + e->clen);
	if (read_u8(op->req + e->req_tls))
		op->ev.call.flags |= FH_TLS;
	if (read_u8(op->req + e->no_http11))
		op->ev.call.flags |= FH_HTTP10;
	return 0;
}

/* func (req *Request) readLimitBody(r *bufio.Reader, ...) error, readBodyStream   AX req */
SEC("uprobe")
int fh_start(struct pt_regs *ctx)
{
	struct tr_who w;
	struct fh_exe *e;
	struct fh_op *op;
	__u64 req = GO_ARG0(ctx), rctx, conn;

	if (!who_runs(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&fh_exes, &w.proc->exe_id);
	if (!e)
		return 0;
	rctx = req - e->ctx_req;
	/* a Request that is in no RequestCtx: the program reads one by itself */
	conn = read_u64(rctx + e->ctx_conn + 8);
	if (!conn || !read_u64(rctx + e->ctx_conn))
		return 0;
	op = call_new(&fh_ops, &fh_zero, &w);
	if (!op)
		return 0;
	op->req = req;
	op->conn = conn;
	put_at(op, FS_METHOD, req + e->method);
	if (!w.key.id || (!e->sane && !token(op))) {
		call_unsane(&op->ev.call, w.key.id ? FH_CHECK_METHOD : CALL_CHECK_G);
		bpf_map_delete_elem(&fh_ops, &w.key);
		return 0;
	}
	e->sane = 1;
	op->lens = cfg_hdr_lens;
	headers(op, e, req + e->hdrs);
	int joined = peer(op, &w, e, rctx + e->ctx_conn);
	int kept = trace(op, joined);

	scope_open(op, &w.key, rctx);
	if (!kept && !cfg_count_all) {
		bpf_map_delete_elem(&fh_ops, &w.key);
		return 0;
	}
	return put_request(op, e, kept);
}

static __noinline __s64 body_size(__u64 resp, struct fh_exe *e)
{
	__u64 n, buf;

	if (read_u64(resp + e->stream))
		return (__s32)read_u32(resp + e->resp_clen) < 0 ? -1
								: read_u64(resp + e->resp_clen);
	n = read_u64(resp + e->raw + 8);
	if (n)
		return n;
	buf = read_u64(resp + e->body); /* *bytebufferpool.ByteBuffer { B []byte } */
	return buf ? read_u64(buf + 8) : 0;
}

/* What somebody asks for of a request that has been answered. */
static __noinline int asked(struct fh_op *op, struct fh_exe *e, __u64 resp)
{
	if (!op || !e)
		return 0;
	if (cfg_answer_lens) {
		__builtin_memset(op->found, 0, sizeof(op->found));
		op->answered = 1;
		op->lens = cfg_answer_lens;
		headers(op, e, resp + e->resp_hdrs);
		for (__u32 i = 0; i < FS_ANSWERS; i++) {
			__u32 slot = cfg_answers[i] - 1;

			if (slot < SLOTS)
				put(op, FS_ANSWER0 + i, op->found[slot].ptr, op->found[slot].len);
		}
	}
	/* of a handler that timed out the request is another RequestCtx's, and still in use */
	if ((cfg_body & WANT_REQUEST) && op->req == resp - e->ctx_resp + e->ctx_req)
		body_given(op, e);
	if (cfg_body & WANT_RESPONSE)
		body_answered(op, e, resp);
	return 0;
}

/* The request on this goroutine ends with the response at resp, which is in the
 * RequestCtx at resp - e->ctx_resp. */
static __always_inline int finish(struct pt_regs *ctx, __u64 addr, bool is_ctx)
{
	struct tr_who w;
	struct fh_exe *e;
	struct fh_op *op;
	struct tr_scope *s;
	__u64 resp, rctx;

	if (!who_runs(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&fh_exes, &w.proc->exe_id);
	if (!e)
		return 0;
	s = bpf_map_lookup_elem(&tr_scopes, &w.key);
	if (s && !s->end_ns)
		s->end_ns = bpf_ktime_get_ns();
	op = call_open(&fh_ops, &w);
	if (!op)
		return 0;
	resp = is_ctx ? addr + e->ctx_resp : addr;
	rctx = resp - e->ctx_resp;
	/* after a timeout the answer is another RequestCtx's, of the same connection */
	if (read_u64(rctx + e->ctx_conn + 8) != op->conn)
		return 0;
	op->ev.status = read_u32(resp + e->status);
	op->ev.resp_size = body_size(resp, e);
	if (cfg_answer_lens || cfg_body)
		asked(op, e, resp);
	call_finish(&fh_ops, &w.key, &op->ev.call, FH_SERVER, offsetof(struct fh_event, tail),
		    CAP + STR_MAX);
	return 0;
}

/* func writeResponse(ctx *RequestCtx, w *bufio.Writer) error   AX ctx */
SEC("uprobe")
int fh_end(struct pt_regs *ctx)
{
	return finish(ctx, GO_ARG0(ctx), true);
}

/* at the call of func (resp *Response) Write(w *bufio.Writer) error   AX resp */
SEC("uprobe")
int fh_write(struct pt_regs *ctx)
{
	return finish(ctx, GO_ARG0(ctx), false);
}

/* The route that matched last is the handler's; one that stands for a prefix is
 * middleware's: nothing else was found. */
static __noinline int fiber_route(struct fh_op *op, __u64 route, __u16 use, __u16 path)
{
	if (!op || !route || read_u8(route + use))
		return 0;
	put_at(op, FS_ROUTE, route + path);
	return 0;
}

static __always_inline int fiber2(struct pt_regs *ctx, bool closure)
{
	struct tr_who w;
	struct fh_exe *e;
	struct fh_op *op;
	__u64 c = GO_ARG1(ctx);

	if (!who_runs(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&fh_exes, &w.proc->exe_id);
	op = call_open(&fh_ops, &w);
	if (!e || !op)
		return 0;
	if (closure) {
		/* app and c, in the compiler's order; a Ctx begins with its app */
		__u64 a = read_u64(GO_CTX(ctx) + 8);

		c = read_u64(GO_CTX(ctx) + 16);
		if (read_u64(c) != a)
			c = a;
	}
	return fiber_route(op, read_u64(c + e->fiber2_route), e->fiber2_use, e->fiber2_path);
}

/* func (app *App) ReleaseCtx(c *Ctx) of fiber v2   AX app, BX c */
SEC("uprobe")
int fh_fiber2(struct pt_regs *ctx)
{
	return fiber2(ctx, false);
}

/* the deferred call of it in (*App).handler, with its body inlined */
SEC("uprobe")
int fh_fiber2_defer(struct pt_regs *ctx)
{
	return fiber2(ctx, true);
}

/* func (app *App) ReleaseCtx(c CustomCtx) of fiber v3   AX app, BX CX c */
SEC("uprobe")
int fh_fiber3(struct pt_regs *ctx)
{
	struct tr_who w;
	struct fh_exe *e;
	struct fh_op *op;

	if (!who_runs(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&fh_exes, &w.proc->exe_id);
	op = call_open(&fh_ops, &w);
	if (e && op)
		fiber_route(op, read_u64(GO_ARG2(ctx) + e->fiber3_route), e->fiber3_use,
			    e->fiber3_path);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";

/* Keep the enums that user space shares in the object's BTF. */
const enum fh_type *keep_type __attribute__((unused));
const enum fh_flag *keep_flag __attribute__((unused));
const enum fh_str *keep_str __attribute__((unused));
const enum fh_check *keep_check __attribute__((unused));
