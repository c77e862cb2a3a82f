/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * client.h - the client's side. One call is one span, whatever grpc retries below it.
 *   start   newClientStream, for unary calls and streams alike, below interceptors
 *   stream  in (*http2Client).NewStream, the closure that takes a stream from the quota
 *           and gives it its number: once per attempt, in the caller's goroutine, with
 *           the lock held under which headers are queued. Here the call is announced.
 *   end     in (*clientStream).finish, behind its look whether that is the first
 * A call that comes to no attempt or stream ends in the error branches behind newClientStream and
 * in it, which cost nothing until they are taken.
 */
#ifndef GR_CLIENT_H
#define GR_CLIENT_H

#include "inject.h"

#define CTX_HOPS 12
/* grpc.StreamDesc { StreamName string; Handler func; ServerStreams, ClientStreams bool }
 * is part of grpc's API. */
#define DESC_STREAMS 24

static __noinline int client_fill(struct gr_rpc *op, struct tr_goexe *ge, __u64 g, __u64 method_len)
{
	struct gr_exe *e;

	if (!op || !ge)
		return 0;
	e = bpf_map_lookup_elem(&gr_exes, &op->ev.call.hdr.exe_id);
	if (!e)
		return 0;
	/* w[0]: the ClientConn */
	if (!e->client_sane) {
		op->w[1] = 0;
		if (!op->method || !method_len || method_len > 1 << 16) {
			call_unsane(&op->ev.call, CHECK_METHOD);
			return 0;
		}
		bpf_probe_read_user(&op->w[1], 16, (void *)(op->w[0] + e->cc_target));
		if (op->w[2] > 1 << 16) {
			call_unsane(&op->ev.call, CHECK_TARGET);
			return 0;
		}
		e->client_sane = 1;
	}
	if (!call_trace(&op->ev.call, ge, g, op->ctx) && !cfg_count_all)
		return 1; /* kept: its decision is handed on */
	put_str(&op->ev, S_METHOD, op->method, method_len);
	put_gostr(&op->ev, S_TARGET, op->w[0] + e->cc_target, &op->io.s);
	return 1;
}

static __always_inline int client_start(struct pt_regs *ctx)
{
	struct tr_who w;
	struct gr_exe *e;
	struct gr_rpc *op;
	__u16 streams = 0;

	if (!who_runs(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&gr_exes, &w.proc->exe_id);
	if (!e)
		return 0;
	bpf_probe_read_user(&streams, sizeof(streams), (void *)(GO_ARG2(ctx) + DESC_STREAMS));
	if (streams && !e->streams)
		return 0; /* its end would not be seen */
	op = call_new(&gr_calls, &gr_rpc_zero, &w);
	if (!op)
		return 0;
	io_init(&op->io, w.proc);
	op->ctx = GO_ARG1(ctx);
	op->method = go_reg(ctx, 4);
	op->w[0] = GO_ARG3(ctx);
	if (streams)
		op->ev.call.flags |= F_STREAMING;
	if (!w.key.id)
		call_unsane(&op->ev.call, CALL_CHECK_G);
	else if (client_fill(op, w.ge, GO_G(ctx), go_reg(ctx, 5)))
		return 0;
	bpf_map_delete_elem(&gr_calls, &w.key);
	return 0;
}

/* Which of the closure's captured words, in op->w, are the ClientStream and its
 * *http2Client: the one points to the other. */
static __noinline int find_captures(struct gr_rpc *op, struct gr_exe *e)
{
	__u64 ct;

	if (!op || !e)
		return 0;
	for (__u32 i = 0; i < CAPTURES; i++) {
		if (op->w[i] < 4096)
			continue;
		ct = read_u64(op->w[i] + e->client_ct);
		if (ct < 4096)
			continue;
		for (__u32 j = 0; j < CAPTURES; j++) {
			if (j != i && op->w[j] == ct) {
				e->take_stream = i + 1;
				e->take_at = j + 1;
				return 1;
			}
		}
	}
	return 0;
}

/* The data pointer of the context that grpc made for the call: the child of the one the
 * program gave, among the parents of the stream's. 0 if it is not found. */
static __noinline __u64 call_context(struct gr_rpc *op, struct gr_exe *e, __u64 stream)
{
	__u64 base, at, parent;

	if (!op || !e)
		return 0;
	base = e->client_ptr ? read_u64(stream) : stream;
	at = read_u64(base + e->st_ctx + 8);
	for (int i = 0; i < CTX_HOPS; i++) {
		if (!at)
			return 0;
		parent = read_u64(at + 8);
		if (parent == op->ctx)
			return at;
		at = parent;
	}
	return 0;
}

/* Say which span the stream carries, and note the peer's address. */
static __noinline int client_announce(struct gr_rpc *op, struct gr_exe *e, struct tr_goexe *ge,
				      __u64 transport)
{
	struct tr_goio *io;
	__u32 stream;
	int fd;

	if (!op || !e || !ge)
		return 0;
	io = &op->io;
	io->c.sk = 0;
	stream = read_u32(transport + e->cli_next);
	fd = fd_of_conn(io, ge, &e->net, transport + e->cli_conn);
	if (fd < 0 || !(stream & 1)) {
		count_prop(PROP_UNKNOWN);
		return 0;
	}
	io->c.val.trace_id[0] = op->ev.call.trace_id[0];
	io->c.val.trace_id[1] = op->ev.call.trace_id[1];
	io->c.val.span_id = op->ev.call.span_id;
	io->c.val.trace_flags = op->ev.call.trace_flags;
	if (e->join && (io->hand & HAND_JOIN))
		count_prop(conn_announce(&io->c, fd, stream) ? PROP_SAID : PROP_UNKNOWN);
	else
		conn_key(&io->c, fd, true);
	if (!io->c.sk)
		return 0;
	__builtin_memcpy(op->ev.peer_ip, io->c.key.server, 16);
	op->ev.peer_ip_len = 16;
	op->ev.peer_port = io->c.key.server_port;
	return 0;
}

static __always_inline int client_stream(struct pt_regs *ctx)
{
	struct tr_who w;
	struct gr_exe *e;
	struct gr_rpc *op;
	__u64 stream, transport;

	if (!who_runs(&w, ctx))
		return 0;
	op = call_open(&gr_calls, &w);
	if (!op)
		return 0;
	e = bpf_map_lookup_elem(&gr_exes, &op->ev.call.hdr.exe_id);
	if (!e || bpf_probe_read_user(op->w, sizeof(op->w), (void *)(GO_CTX(ctx) + 8)))
		return 0;
	if (!e->take_stream && !find_captures(op, e))
		return 0;
	stream = op->w[(e->take_stream - 1) & (CAPTURES - 1)];
	transport = op->w[(e->take_at - 1) & (CAPTURES - 1)];
	if (read_u64(stream + e->client_ct) != transport) {
		count_lost(probe_id, LOST_UNSANE);
		return 0;
	}
	client_announce(op, e, w.ge, transport);
	if (e->inject && (op->io.hand & HAND_MEMORY))
		write_expect(op, e, transport, GO_ARG1(ctx));
	if (!(op->ev.call.flags & F_STREAMING))
		return 0;
	w.key.id = call_context(op, e, stream);
	if (!w.key.id)
		return 0;
	if (bpf_map_update_elem(&gr_streams, &w.key, op, BPF_ANY))
		count_lost(probe_id, LOST_MAP_FULL);
	w.key.id = op->ev.call.goid;
	bpf_map_delete_elem(&gr_calls, &w.key);
	return 0;
}

/* The same at the end, where the context is in the clientStream, before 1.44 with values
 * on top; at is its interface. */
static __noinline __u64 made_context(struct gr_exe *e, struct tr_goexe *ge, __u64 at)
{
	__u64 itab, data = 0;

	if (!e || !ge)
		return 0;
	for (int i = 0; i < 4; i++) {
		itab = read_u64(at);
		data = read_u64(at + 8);
		if (!e->value_name ||
		    (__s32)read_u32(read_u64(itab + 8) + ge->type_str) != e->value_name)
			break;
		at = data; /* begins with its parent */
	}
	/* timerCtx of Go 1.20 begins with a *cancelCtx */
	if (ge->timer_ptr && in_go_heap(read_u64(data)))
		return read_u64(data);
	return data;
}

/* In (*clientStream).finish, where it has seen that it is the first to end the call: the
 * goroutine that receives and the one that waits for the context may both try.
 * AX the csAttempt, BX CX err */
static __always_inline int client_finish(struct pt_regs *ctx)
{
	struct tr_who w;
	struct gr_exe *e;
	struct gr_rpc *op;
	__u64 cs;

	if (!who_runs(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&gr_exes, &w.proc->exe_id);
	if (!e)
		return 0;
	cs = read_u64(GO_ARG0(ctx) + e->attempt_cs);
	op = call_open(&gr_calls, &w);
	if (op && op->method == read_u64(read_u64(cs + e->cs_hdr) + e->hdr_method)) {
		put_error(&op->ev, e, w.ge, GO_ARG1(ctx), GO_ARG2(ctx));
		finish(&gr_calls, &w.key, &op->ev, GR_CLIENT);
		return 0;
	}
	w.key.id = made_context(e, w.ge, cs + e->cs_ctx);
	op = call_open(&gr_streams, &w);
	if (!op)
		return 0;
	put_error(&op->ev, e, w.ge, GO_ARG1(ctx), GO_ARG2(ctx));
	finish(&gr_streams, &w.key, &op->ev, GR_CLIENT);
	return 0;
}

/* A call that came to no stream; loc says where its error is. */
static __always_inline int client_fail(struct pt_regs *ctx, __u32 off)
{
	struct tr_who w;
	struct gr_exe *e;
	struct gr_rpc *op;
	struct go_loc *loc;

	if (!who_runs(&w, ctx))
		return 0;
	op = call_open(&gr_calls, &w);
	if (!op)
		return 0;
	e = bpf_map_lookup_elem(&gr_exes, &op->ev.call.hdr.exe_id);
	if (!e)
		return 0;
	loc = (void *)e + off;
	op->ev.call.flags |= F_NO_STREAM;
	put_error(&op->ev, e, w.ge, go_loc_read(ctx, &loc[0]), go_loc_read(ctx, &loc[1]));
	finish(&gr_calls, &w.key, &op->ev, GR_CLIENT);
	return 0;
}

#endif
