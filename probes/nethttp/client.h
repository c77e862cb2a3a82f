/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * client.h - the client's side. One operation is one attempt: net/http's own
 * retries and every redirect are attempts of their own. HTTP/1, and the first
 * HTTP/2 request of a connection:
 *   start  (*Transport).getConn, so that the dial and the TLS handshake count
 *   conn   in (*Transport).roundTrip, the branch after getConn: failed or not
 *   end    in (*Transport).roundTrip, the branch after (*persistConn).roundTrip
 * HTTP/2 on a pooled connection:
 *   start  (*ClientConn).roundTrip
 *   end    in (*Transport).RoundTripOpt, the branch after it
 *
 * Not seen: requests that net/http refuses before it tries to reach anybody, and those
 * that a program makes on a connection of its own (http.ClientConn, Go 1.26).
 */
#ifndef NH_CLIENT_H
#define NH_CLIENT_H

#include "handon.h"
#include "resend.h"
#include "server.h"

/* A traceparent that the program itself set (an SDK in the process): its span is the
 * parent of ours, as it is of the server's. */
static __always_inline bool adopted(struct nh_op *op, struct nh_scratch *x)
{
	struct traceparent *p = &x->parent;

	get_traceparent(x);
	if (!x->parent_len || !parse_traceparent(p, x->tp, x->parent_len))
		return false;
	op->ev.trace_id[0] = p->trace_id[0];
	op->ev.trace_id[1] = p->trace_id[1];
	op->ev.parent_id = p->span_id;
	return true;
}

/* The tracestate of the request that the call is made for, while that is open; key is
 * the goroutine that serves it. */
static __noinline int inherit_tracestate(struct nh_op *op, const struct tr_gokey *key)
{
	struct nh_op *from = bpf_map_lookup_elem(&nh_server, key);
	__u32 n, src, dst = op->ev.tail_len;

	if (!from || !from->open || from->lite || from->ev.span_id != op->ev.parent_id)
		return 0;
	n = from->ev.str[S_TRACESTATE].len;
	src = from->ev.str[S_TRACESTATE].off;
	/* verifier(all): as in put_str; both tails have STR_MAX bytes behind TAIL_MAX */
	asm volatile("%0 &= 511" : "+r"(n));
	asm volatile("if %0 <= 1535 goto +1; %0 = 0" : "+r"(src));
	asm volatile("if %0 <= 1535 goto +1; %0 = 0" : "+r"(dst));
	_Static_assert(STR_MAX == 511 && TAIL_MAX == 1536, "masks above");
	if (!n || bpf_probe_read_kernel(&op->ev.tail[dst], n, &from->ev.tail[src]))
		return 0;
	op->ev.str[S_TRACESTATE].off = dst;
	op->ev.str[S_TRACESTATE].len = n;
	op->ev.tail_len = dst + n;
	return 0;
}

static __noinline int client_trace(struct nh_op *op, struct tr_goexe *ge)
{
	struct nh_scratch *x = &call_of(op)->x;

	op->ev.span_id = new_ids(op->ev.trace_id, op->ev.start_ns, op->ev.hdr.tgid, op->ev.goid);
	if (hdr_values(&x->scan, S_TRACEPARENT)) {
		/* Whatever it says is what the server reads. Two of them, or one that is no
		 * traceparent, are nobody's parent. */
		x->io.own_header = 1;
		if (x->scan.fold == 1 && adopted(op, x)) {
			if (!sampled(op->ev.trace_id, true, x->parent.flags))
				return false;
			op->ev.trace_flags =
				(x->parent.flags & TRACE_FLAG_RANDOM) | TRACE_FLAG_SAMPLED;
			if (hdr_values(&x->scan, S_TRACESTATE) == 1)
				put_gostr(op, S_TRACESTATE, x->scan.at[S_TRACESTATE].ptr);
			return true;
		}
	}
	struct tr_scope *s = find_scope(ge, op->ev.hdr.tgid, call_of(op)->g, op->ev.goid, op->ctx,
					op->ev.start_ns, op->epoch);
	__u32 flags = 0;

	if (s) {
		op->ev.trace_id[0] = s->trace_id[0];
		op->ev.trace_id[1] = s->trace_id[1];
		op->ev.parent_id = s->span_id;
		flags = s->trace_flags;
		if (flags & SCOPE_TRACESTATE) {
			struct tr_gokey key = { .tgid = op->ev.hdr.tgid, .id = s->goid };

			inherit_tracestate(op, &key);
		}
	}
	/* Also of a call that is not recorded: it is handed on. */
	op->ev.trace_flags = flags & TRACE_FLAG_RANDOM;
	if (!sampled(op->ev.trace_id, s != NULL, flags))
		return false;
	op->ev.trace_flags |= TRACE_FLAG_SAMPLED;
	return true;
}

static __always_inline enum nh_check client_check(struct nh_op *op, struct nh_exe *e, __u64 url,
						  __u64 cx)
{
	if (op->ev.str[S_METHOD].len > 64)
		return CHECK_LATER;
	if (op->ev.str[S_METHOD].len && !is_tchar(op->ev.tail[0]))
		return CHECK_METHOD;
	if (!url || !op->ev.str[S_SCHEME].len || op->ev.str[S_SCHEME].len > 64)
		return CHECK_URL;
	if (!cx)
		return CHECK_CONTEXT;
	e->client_sane = 1;
	return 0;
}

/* Whose request a client operation begins with. */
enum client_kind {
	CLIENT_H1,  /* (*Transport).getConn's */
	CLIENT_H2,  /* (*ClientConn).roundTrip's, of the HTTP/2 that comes with Go */
	CLIENT_XH2, /* the same of golang.org/x/net */
};

/* Fill a new entry from the request; false when it is not kept. */
static __noinline int client_fill(struct nh_op *op, struct tr_goexe *ge, enum client_kind kind)
{
	struct nh_exe *e = bpf_map_lookup_elem(&nh_exes, &op->ev.hdr.exe_id);
	struct nh_scratch *x = &call_of(op)->x;
	const struct nh_creq *o;
	__u64 req;
	__u32 n;

	if (!e)
		return 0;
	o = kind == CLIENT_H1 ? &e->creq : kind == CLIENT_H2 ? &e->h2.creq : &e->xh2.creq;
	if (kind == CLIENT_H1)
		op->req = read_u64(op->req + e->treq_req);
	req = op->req;
	n = o->len;
	asm volatile("%0 &= 511" : "+r"(n));
	_Static_assert(REQ_MAX == 512, "mask above and below");
	if (bpf_probe_read_user(x->obj, n, (void *)req)) {
		count_lost(probe_id, LOST_READ);
		return 0;
	}
	/* net/http gives HTTP/2 none but pooled connections here */
	if (kind == CLIENT_H2 && e->dials)
		op->ev.flags |= F_GOT_CONN;
	op->ctx = obj_u64(x, o->ctx + 8);
	call_of(op)->hdr = obj_u64(x, o->header);
	call_of(op)->url = obj_u64(x, o->url);
	op->ev.req_size = obj_u64(x, o->clen);
	op->ev.resp_size = -1;
	if (!e->client_sane) {
		enum nh_check bad;

		put_field(op, x, S_METHOD, o->method);
		put_gostr(op, S_SCHEME, call_of(op)->url + e->url_scheme);
		bad = client_check(op, e, call_of(op)->url, op->ctx);
		if (bad) {
			unsane(op, bad);
			return 0;
		}
	}
	/* One call for both ways, which the verifier follows once: what tells them apart
	 * afterwards is read from the map. */
	scan_reset(&x->scan, cfg_hdr_lens);
	scan_headers(ge, &x->scan, call_of(op)->hdr);
	client_trace(op, ge);
	/* Not sampled: kept all the same, because its decision is handed on, and HTTP/2
	 * below must not begin anew. */
	if (!(op->ev.trace_flags & TRACE_FLAG_SAMPLED) && !cfg_count_all)
		return 1;
	if (!op->ev.str[S_SCHEME].len)
		put_field(op, x, S_METHOD, o->method);
	n = e->url_len;
	asm volatile("%0 &= 511" : "+r"(n));
	if (bpf_probe_read_user(x->obj, n, (void *)call_of(op)->url)) {
		count_lost(probe_id, LOST_READ);
		return 1;
	}
	if (!op->ev.str[S_SCHEME].len)
		put_field(op, x, S_SCHEME, e->url_scheme);
	put_field(op, x, S_HOST, e->url_host);
	if ((cfg_body & WANT_REQUEST) && o->body != OFF_NONE && e->body) {
		op->ev.flags |= F_LOOKED_REQUEST;
		body_given(op, req + o->body);
	}
	if (!(op->ev.trace_flags & TRACE_FLAG_SAMPLED) && !cfg_count_full)
		return 1; /* only counted: metrics need no more */
	put_field(op, x, S_URI, e->url_raw_path);
	if (op->ev.str[S_URI].len)
		op->ev.flags |= F_RAW_PATH;
	else
		put_field(op, x, S_URI, e->url_path);
	put_field(op, x, S_QUERY, e->url_query);
	if (obj_u64(x, e->url_user))
		op->ev.flags |= F_USERINFO;
	put_resend(op, e, o->response);
	put_captured(op, &x->scan);
	return 1;
}

/* Whether the end of a call will be seen: not of one that a program makes on a
 * ClientConn itself, which would stay in the map. */
static __always_inline bool h2_followed(struct pt_regs *ctx, struct tr_proc *proc,
					enum client_kind kind)
{
	struct nh_exe *e = bpf_map_lookup_elem(&nh_exes, &proc->exe_id);
	const struct nh_h2 *h2;
	__u64 at;

	if (!e)
		return false;
	h2 = kind == CLIENT_H2 ? &e->h2 : &e->xh2;
	if (!h2->callers[0][1])
		return true;
	at = go_return_addr(ctx) - proc->bias;
	return at - h2->callers[0][0] < h2->callers[0][1] ||
	       at - h2->callers[1][0] < h2->callers[1][1];
}

/* The operation is over or not to be followed. The goroutine's next one finds its entry
 * again: inserting and deleting one costs as much as all else that is done for a call. */
static __always_inline void client_away(struct nh_op *op, struct tr_gokey *key)
{
	op->open = 0;
	if (nh_calls - nh_calls_forgotten > cfg_keep && !bpf_map_delete_elem(&nh_client, key))
		__sync_fetch_and_add(&nh_calls, -1);
}

/* The entry of a call that begins now: the goroutine's last one's, or a new one. What of it
 * is read before it is written is zero. */
static __noinline struct nh_op *client_new(struct tr_gokey *key, struct tr_proc *proc,
					   struct nh_op *op)
{
	struct nh_call *c;

	if (op) {
		c = call_of(op);
		__builtin_memset(op, 0, __builtin_offsetof(struct nh_op, ev.tail));
		__builtin_memset(&c->conn, 0,
				 __builtin_offsetof(struct nh_call, x) -
					 __builtin_offsetof(struct nh_call, conn));
		c->x.io.c.sk = 0;
	} else {
		op = op_insert(&nh_client, key);
		if (!op)
			return NULL;
		__sync_fetch_and_add(&nh_calls, 1);
	}
	op_begin(op, key, proc);
	return op;
}

/* AX conn or transport, BX request or transport request. */
static __always_inline int client_start(struct pt_regs *ctx, enum client_kind kind)
{
	struct tr_gokey key = {};
	struct tr_proc *proc = watched(&key);
	struct nh_op *op;
	struct tr_goexe *ge;

	if (!proc)
		return 0;
	ge = bpf_map_lookup_elem(&tr_goexes, &proc->exe_id);
	if (!ge)
		return 0;
	key.id = go_id(ge, GO_G(ctx));
	op = bpf_map_lookup_elem(&nh_client, &key);
	if (kind != CLIENT_H1) {
		/* below getConn the attempt is open already */
		if (op && op->open && !call_of(op)->conn && op->epoch == proc->epoch) {
			call_of(op)->conn = GO_ARG0(ctx);
			call_of(op)->h2req = GO_ARG1(ctx);
			op->ev.flags |= F_H2;
			return 0;
		}
		if (!h2_followed(ctx, proc, kind))
			return 0;
	}
	op = client_new(&key, proc, op);
	if (!op)
		return 0;
	io_init(&call_of(op)->x.io, proc);
	op->req = GO_ARG1(ctx);
	call_of(op)->g = GO_G(ctx);
	if (kind != CLIENT_H1) {
		call_of(op)->conn = GO_ARG0(ctx);
		call_of(op)->h2req = GO_ARG1(ctx);
		op->ev.flags |= F_H2;
	}
	if (!key.id)
		unsane(op, CHECK_G);
	else if (client_fill(op, ge, kind))
		return 0;
	client_away(op, &key);
	return 0;
}

static __always_inline struct nh_op *client_op(struct tr_gokey *key, struct pt_regs *ctx,
					       struct nh_exe **e, struct tr_goexe **ge)
{
	struct tr_proc *proc = watched(key);
	struct nh_op *op;

	if (!proc)
		return NULL;
	*e = bpf_map_lookup_elem(&nh_exes, &proc->exe_id);
	*ge = bpf_map_lookup_elem(&tr_goexes, &proc->exe_id);
	if (!*e || !*ge)
		return NULL;
	key->id = read_u64(GO_G(ctx) + (*ge)->g_goid);
	op = bpf_map_lookup_elem(&nh_client, key);
	return op && op->open && op->epoch == proc->epoch ? op : NULL;
}

static __always_inline void client_finish(struct nh_op *op, struct tr_gokey *key)
{
	op->ev.end_ns = bpf_ktime_get_ns();
	if ((op->ev.flags & (F_ERROR | F_CONN_ERROR)) == F_ERROR)
		attempt_failed(op, key);
	if (cfg_count_all || (op->ev.trace_flags & TRACE_FLAG_SAMPLED))
		emit(op, NH_CLIENT);
	if (call_of(op)->bw) {
		/* never written: the connection failed, or it was not ours to write to */
		if (op->ev.status)
			count_prop(PROP_UNKNOWN);
		struct tr_gokey writer = { .tgid = key->tgid, .id = call_of(op)->bw };
		__u64 *goid = bpf_map_lookup_elem(&nh_reqs, &writer);

		if (goid && *goid == key->id)
			*goid = 0;
	}
	client_away(op, key);
}

/* (*clientStream).encodeAndWriteHeaders runs in a goroutine that the call started;
 * here the stream has its number and nothing of it has been written. */
static __always_inline int h2_client_stream(struct pt_regs *ctx, bool xnet)
{
	struct tr_gokey key = {};
	struct tr_proc *proc = watched(&key);
	struct nh_exe *e;
	struct tr_goexe *ge;
	struct nh_writer *w;
	struct nh_op *op;
	struct nh_h2 *h2;
	bool inject;

	if (!proc)
		return 0;
	e = bpf_map_lookup_elem(&nh_exes, &proc->exe_id);
	ge = bpf_map_lookup_elem(&tr_goexes, &proc->exe_id);
	if (!e || !ge || ge->g_parent_goid == OFF_NONE)
		return 0;
	key.id = read_u64(GO_G(ctx) + ge->g_goid);
	w = writer_new(&key, read_u64(GO_G(ctx) + ge->g_parent_goid), GO_ARG1(ctx));
	if (!w)
		return 0;
	h2 = xnet ? &e->xh2 : &e->h2;
	announce(&w->io, ge, e, read_u64(GO_ARG0(ctx) + h2->cs_cc) + h2->cc_tconn,
		 read_u32(GO_ARG0(ctx) + h2->cs_id));
	op = writer_op(w, &key);
	if (op)
		put_peer(op, &w->io);
	inject = h2->inject && (w->io.hand & HAND_MEMORY);
	if (inject && w->io.own_header)
		count_prop(PROP_KEPT);
	if (!inject || w->io.own_header)
		bpf_map_delete_elem(&nh_writers, &key);
	return 0;
}

static __always_inline int h2_client_end(struct pt_regs *ctx, bool xnet)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct tr_goexe *ge;
	struct nh_op *op = client_op(&key, ctx, &e, &ge);
	struct nh_h2 *h2;
	__u64 err;

	if (!op || !(op->ev.flags & F_H2))
		return 0;
	h2 = xnet ? &e->xh2 : &e->h2;
	err = go_loc_read(ctx, &h2->end[1]);
	if (err) {
		put_error(op, ge, err, go_loc_read(ctx, &h2->end[2]));
	} else {
		__u64 res = go_loc_read(ctx, &h2->end[0]);

		op->ev.status = read_u32(res + h2->cres_status);
		op->ev.resp_size = read_u64(res + h2->cres_clen);
		if (cfg_answer_lens && h2->cres_header != OFF_NONE) {
			scan_answer(op, &call_of(op)->x, read_u64(res + h2->cres_header));
			put_answers(op, &call_of(op)->x);
		}
	}
	op->ev.proto_major = 2;
	client_finish(op, &key);
	return 0;
}

#endif
