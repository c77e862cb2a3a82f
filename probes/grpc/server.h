/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * server.h - the server's side. Two programs run per RPC, unary or stream:
 *   start  (*Server).handleStream, in the RPC's own goroutine or a worker's
 *   end    (*http2Server).WriteStatus, which grpc calls with every outcome; over
 *          net/http's server (*serverHandlerTransport).WriteStatus
 * What ends otherwise costs nothing until it happens: the response of a unary RPC that
 * cannot be sent, a panic that nobody recovers, runtime.Goexit.
 */
#ifndef GR_SERVER_H
#define GR_SERVER_H

#include "op.h"

#define MD_HOPS 8

/* The peer's address: a *net.TCPAddr { IP IP; Port int; Zone string }. */
static __noinline int put_peer_addr(struct gr_op *op, struct gr_exe *e, struct tr_goexe *ge,
				    __u64 at)
{
	__u32 n;

	if (!op || !e || !ge || bpf_probe_read_user(op->w, 16, (void *)at))
		return 0;
	if (!itab_is(&op->io, ge, op->w[0], e->addr_name, &e->addr_itab))
		return 0;
	/* IP's pointer, length, capacity, then Port */
	if (bpf_probe_read_user(op->w, 32, (void *)op->w[1]))
		return 0;
	n = op->w[1];
	if (n != 4 && n != 16)
		return 0;
	asm volatile("%0 &= 31" : "+r"(n));
	if (n > 16 || bpf_probe_read_user(op->ev.peer_ip, n, (void *)op->w[0]))
		return 0;
	op->ev.peer_ip_len = n;
	op->ev.peer_port = op->w[3] & 0xffff;
	return 0;
}

/* The RPC's metadata, 0 if there is none: the value of a
 *	context.valueCtx { Context; key, val any }
 * between the RPC's context and the one that grpc cancels when the RPC has ended; that
 * is left in op->ctx. */
static __noinline __u64 find_metadata(struct gr_op *op, struct gr_exe *e, struct tr_goexe *ge)
{
	__u64 at;

	if (!op || !e || !ge)
		return 0;
	at = op->ctx;
	for (int i = 0; i < MD_HOPS; i++) {
		if (!at || bpf_probe_read_user(op->w, 48, (void *)at))
			return 0;
		if (e->md_name && (__s32)read_u32(op->w[2] + ge->type_str) == e->md_name) {
			op->ctx = op->w[1];
			/* timerCtx of Go 1.20 begins with a *cancelCtx */
			if (ge->timer_ptr && in_go_heap(read_u64(op->ctx)))
				op->ctx = read_u64(op->ctx);
			return op->w[5];
		}
		at = op->w[1];
	}
	return 0;
}

/* Keep the traceparent for server_trace. Several of them are none. */
static __always_inline void get_traceparent(struct gr_op *op)
{
	struct go_str *v = &op->io.s, *at = &op->scan.at[S_TRACEPARENT];
	__u32 n;

	if (at->len != 1 || bpf_probe_read_user(v, sizeof(*v), (void *)at->ptr))
		return;
	if (v->len < TRACEPARENT_LEN || v->len > 1024)
		return;
	n = v->len > 56 ? 56 : v->len;
	asm volatile("%0 &= 63" : "+r"(n));
	if (bpf_probe_read_user(op->tp, n, (void *)v->ptr) == 0)
		op->parent_len = v->len;
}

/* The span at the other end of the connection, if it is watched on this node. */
static __always_inline bool server_join(struct gr_op *op, struct tr_goexe *ge, struct gr_exe *e)
{
	int fd;

	if (!e->join || !(op->io.hand & HAND_JOIN) || !op->transport || !said_any(op->ev.peer_port))
		return false;
	fd = fd_of_conn(&op->io, ge, &e->net, op->transport + e->srv_conn);
	return fd >= 0 && conn_take(&op->io.c, fd, op->id);
}

/* Trace id, parent and sampling; false when not sampled. */
static __noinline int server_trace(struct gr_op *op, struct tr_goexe *ge, struct gr_exe *e)
{
	struct tr_call *c;
	struct traceparent *p;
	struct tr_scope *s = NULL;

	if (!op || !ge || !e)
		return 0;
	c = &op->ev.call;
	p = &op->parent;
	p->flags = 0;
	c->span_id = new_ids(c->trace_id, c->start_ns, c->hdr.tgid, c->goid);
	/* Over net/http's server, the RPC is part of the request that carries it. */
	if (!op->transport)
		s = scope_by_ctx(ge, c->hdr.tgid, op->ctx, c->start_ns, c->epoch);
	if (s) {
		c->trace_id[0] = s->trace_id[0];
		c->trace_id[1] = s->trace_id[1];
		c->parent_id = s->span_id;
		p->flags = s->trace_flags;
	} else if (op->parent_len && parse_traceparent(p, op->tp, op->parent_len)) {
		c->trace_id[0] = p->trace_id[0];
		c->trace_id[1] = p->trace_id[1];
		c->parent_id = p->span_id;
		c->flags |= F_REMOTE_PARENT;
		c->trace_flags = p->flags & TRACE_FLAG_RANDOM;
	} else if (!op->scan.at[S_TRACEPARENT].len && server_join(op, ge, e)) {
		c->trace_id[0] = op->io.c.val.trace_id[0];
		c->trace_id[1] = op->io.c.val.trace_id[1];
		c->parent_id = op->io.c.val.span_id;
		c->flags |= F_REMOTE_PARENT | F_JOINED;
		count_prop(PROP_JOINED);
		p->flags = op->io.c.val.trace_flags;
	}
	if (!sampled(c->trace_id, c->parent_id != 0, p->flags))
		return 0;
	c->trace_flags |= TRACE_FLAG_SAMPLED;
	return 1;
}

static __noinline int scope_open(struct gr_op *op, struct tr_gokey *key)
{
	struct tr_scope *s = bpf_map_lookup_elem(&tr_scopes, key);

	if (!op)
		return 0;
	if (!s) {
		/* zeros, then filled in place: the goroutine is ours, the stack is small */
		bpf_map_update_elem(&tr_scopes, key, &gr_zero, BPF_ANY);
		s = bpf_map_lookup_elem(&tr_scopes, key);
		if (!s)
			return 0;
	}
	if (s->epoch != op->ev.call.epoch)
		s->reg = 0; /* of the program before */
	s->goid = key->id;
	s->trace_id[0] = op->ev.call.trace_id[0];
	s->trace_id[1] = op->ev.call.trace_id[1];
	s->span_id = op->ev.call.span_id;
	s->start_ns = op->ev.call.start_ns;
	s->end_ns = 0;
	s->trace_flags = op->ev.call.trace_flags;
	s->epoch = op->ev.call.epoch;
	scope_ctx(key, s, op->ctx);
	return 0;
}

static __always_inline void scope_close(struct tr_gokey *key)
{
	struct tr_scope *s = bpf_map_lookup_elem(&tr_scopes, key);

	if (s && !s->end_ns)
		s->end_ns = bpf_ktime_get_ns();
}

/* Fill a new entry; 0 when it is not kept. */
static __noinline int server_fill(struct gr_op *op, struct tr_gokey *key, struct tr_goexe *ge)
{
	struct gr_exe *e;
	__u64 base, md;
	__u32 sampling;

	if (!op || !ge)
		return 0;
	e = bpf_map_lookup_elem(&gr_exes, &op->ev.call.hdr.exe_id);
	if (!e)
		return 0;
	base = e->server_ptr ? read_u64(op->stream) : op->stream;
	op->ctx = read_u64(base + e->st_ctx + 8);
	op->id = read_u32(base + e->st_id);
	op->w[0] = op->w[1] = 0;
	bpf_probe_read_user(op->w, 16, (void *)(base + e->st_method));
	if (!e->server_sane) {
		if (!op->ctx || (op->transport && !(op->id & 1))) {
			call_unsane(&op->ev.call, CHECK_STREAM);
			return 0;
		}
		if (op->w[1] > 1 << 16 || (op->w[1] && read_u8(op->w[0]) != '/')) {
			/* a client may ask for such a method; then another will not */
			if (op->w[1] > 1 << 16)
				call_unsane(&op->ev.call, CHECK_METHOD);
			return 0;
		}
		e->server_sane = op->w[1] != 0;
	}
	put_str(&op->ev, S_METHOD, op->w[0], op->w[1]);
	if (op->transport)
		put_peer_addr(op, e, ge, op->transport + e->srv_addr);
	else
		op->ev.call.flags |= F_HTTP;
	md = find_metadata(op, e, ge);
	scan_reset(&op->scan, cfg_hdr_lens);
	scan_headers(ge, &op->scan, md);
	get_traceparent(op);
	sampling = server_trace(op, ge, e);
	scope_open(op, key);
	if (!sampling && !cfg_count_full)
		return cfg_count_all; /* only counted: metrics need no more */
	if (op->scan.at[S_TARGET].len)
		put_gostr(&op->ev, S_TARGET, op->scan.at[S_TARGET].ptr, &op->io.s);
	/* in several parts it would be changed */
	if (op->ev.call.parent_id && op->scan.at[S_TRACESTATE].len == 1)
		put_gostr(&op->ev, S_TRACESTATE, op->scan.at[S_TRACESTATE].ptr, &op->io.s);
	return 1;
}

/* Keep the transport, the interface itab, data, if it is an *http2Server. */
static __noinline int put_transport(struct gr_op *op, struct gr_exe *e, struct tr_goexe *ge,
				    __u64 itab, __u64 data)
{
	if (op && e && ge && itab_is(&op->io, ge, itab, e->h2_name, &e->h2_itab))
		op->transport = data;
	return 0;
}

static __always_inline int server_start(struct pt_regs *ctx)
{
	struct tr_who w;
	struct gr_exe *e;
	struct gr_op *op;

	if (!who_runs(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&gr_exes, &w.proc->exe_id);
	if (!e)
		return 0;
	op = call_new(&gr_server, &gr_zero, &w);
	if (!op)
		return 0;
	io_init(&op->io, w.proc);
	op->stream = GO_ARG3(ctx);
	put_transport(op, e, w.ge, GO_ARG1(ctx), GO_ARG2(ctx));
	if (!w.key.id)
		call_unsane(&op->ev.call, CALL_CHECK_G);
	else if (server_fill(op, &w.key, w.ge))
		return 0;
	bpf_map_delete_elem(&gr_server, &w.key);
	return 0;
}

/* The open RPC of the running goroutine; NULL when there is none, or it is neither
 * sampled nor counted. */
static __always_inline struct gr_op *server_op(struct tr_who *w, struct pt_regs *ctx)
{
	if (!who_runs(w, ctx))
		return NULL;
	return call_open(&gr_server, w);
}

static __always_inline int server_status(struct pt_regs *ctx)
{
	struct tr_who w;
	struct gr_op *op = server_op(&w, ctx);
	struct gr_exe *e;

	if (!w.proc || !w.ge)
		return 0;
	if (!op) {
		scope_close(&w.key); /* there is but the scope */
		return 0;
	}
	e = bpf_map_lookup_elem(&gr_exes, &op->ev.call.hdr.exe_id);
	if (!e || op->stream != GO_ARG1(ctx))
		return 0;
	put_status(&op->ev, e, GO_ARG2(ctx));
	scope_close(&w.key);
	finish(&gr_server, &w.key, &op->ev, GR_SERVER);
	return 0;
}

/* The goroutine will not come to the end of its RPC. */
static __always_inline int server_stop(struct pt_regs *ctx, __u32 why)
{
	struct tr_who w;
	struct gr_op *op = server_op(&w, ctx);

	if (!w.proc || !w.ge)
		return 0;
	if (!op)
		return 0;
	op->ev.call.flags |= why;
	scope_close(&w.key);
	finish(&gr_server, &w.key, &op->ev, GR_SERVER);
	return 0;
}

#endif
