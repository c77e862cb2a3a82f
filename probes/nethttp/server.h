/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * server.h - the server's side. Two programs run per request:
 *   start  net/http.serverHandler.ServeHTTP, for HTTP/1 and HTTP/2 alike
 *   end    HTTP/1: (*response).shouldReuseConnection, which (*conn).serve calls when
 *          the handler has returned and the response is on its way: what the probe
 *          costs there, the client does not wait for; HTTP/2: the deferred function
 *          of (*serverConn).runHandler, which runs in any case.
 * (*conn).serve.func1 runs once per HTTP/1 connection and ends what that
 * did not: a handler that panicked or took the connection over.
 */
#ifndef NH_SERVER_H
#define NH_SERVER_H

#include "body.h"

/* Keep the traceparent header for server_trace. Several of them are none. */
static __always_inline void get_traceparent(struct nh_op *op)
{
	struct go_str *v = &op->io.s;
	struct go_str *at = &op->scan.at[S_TRACEPARENT];
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

/* Append the values of the configured request headers. */
static __noinline int put_captured(struct nh_op *op)
{
	for (__u32 i = S_CAPTURE0; i < S_COUNT; i++)
		if (op->scan.at[i].len)
			put_gostr(op, i, op->scan.at[i].ptr);
	return 0;
}

/* Append the values of the wanted request headers. A header split over several
 * lines is taken from its first; tracestate, which would be changed by that, is
 * left out then. */
static __noinline int put_headers(struct nh_op *op)
{
	if (!op)
		return 0;
	for (__u32 i = S_USER_AGENT; i < S_CAPTURE0; i++) {
		struct go_str *at = &op->scan.at[i];

		if (!at->len || i == S_TRACEPARENT)
			continue;
		if (i == S_TRACESTATE &&
		    (at->len > 1 ||
		     (op->ev.flags & (F_REMOTE_PARENT | F_JOINED)) != F_REMOTE_PARENT))
			continue; /* nothing without its traceparent */
		put_gostr(op, i, at->ptr);
	}
	return put_captured(op);
}

/* The span at the other end of the connection, if it is watched on this node. */
static __noinline int server_join(struct nh_op *op, struct tr_goexe *ge, struct nh_exe *e)
{
	struct nh_h2 *h2 = op->xnet ? &e->xh2 : &e->h2;
	__u32 stream = 0;
	__u64 at;
	int fd;

	if (!e->join || !(op->io.hand & HAND_JOIN) || !said_any(op->peer_port))
		return 0;
	if (op->ev.proto_major == 2) {
		__u64 rws = read_u64(op->rw + h2->rw_rws);

		stream = read_u32(read_u64(rws + h2->rws_stream) + h2->stream_id);
		at = read_u64(rws + h2->rws_conn) + h2->sc_conn;
		if (!stream)
			return 0;
	} else {
		at = read_u64(op->rw + e->w_conn) + e->hc_rwc;
	}
	fd = fd_of_conn(&op->io, ge, &e->net, at);
	return fd >= 0 && conn_take(&op->io.c, fd, stream);
}

/* Trace id, parent and sampling of a server request; false when not sampled. */
static __always_inline bool server_trace(struct nh_op *op, struct tr_goexe *ge, struct nh_exe *e)
{
	struct traceparent *p = &op->parent;

	op->ev.span_id = new_ids(op->ev.trace_id, op->ev.start_ns, op->ev.hdr.tgid, op->ev.goid);
	if (op->parent_len && parse_traceparent(p, op->tp, op->parent_len)) {
		op->ev.trace_id[0] = p->trace_id[0];
		op->ev.trace_id[1] = p->trace_id[1];
		op->ev.parent_id = p->span_id;
		op->ev.flags |= F_REMOTE_PARENT;
		op->ev.trace_flags = p->flags & TRACE_FLAG_RANDOM;
	} else if (!op->scan.at[S_TRACEPARENT].len && server_join(op, ge, e)) {
		op->ev.trace_id[0] = op->io.c.val.trace_id[0];
		op->ev.trace_id[1] = op->io.c.val.trace_id[1];
		op->ev.parent_id = op->io.c.val.span_id;
		op->ev.flags |= F_REMOTE_PARENT | F_JOINED;
		count_prop(PROP_JOINED);
		p->flags = op->io.c.val.trace_flags;
		op->ev.trace_flags = p->flags & TRACE_FLAG_RANDOM;
	} else {
		p->flags = 0;
	}
	if (!sampled(op->ev.trace_id, op->ev.parent_id != 0, p->flags))
		return false;
	op->ev.trace_flags |= TRACE_FLAG_SAMPLED;
	return true;
}

static __noinline int scope_open(struct nh_op *op, struct tr_gokey *key)
{
	struct tr_scope *s = bpf_map_lookup_elem(&tr_scopes, key);
	__u64 last_ns;

	if (!s) {
		/* A copy on the stack would be more than it may hold: insert zeros, then
		 * fill in place; the goroutine is ours. */
		bpf_map_update_elem(&tr_scopes, key, &nh_zero, BPF_ANY);
		s = bpf_map_lookup_elem(&tr_scopes, key);
		if (!s)
			return 0;
	}
	last_ns = s->start_ns;
	if (s->epoch != op->epoch)
		s->reg = 0; /* of the program before */
	s->trace_id[0] = op->ev.trace_id[0];
	s->trace_id[1] = op->ev.trace_id[1];
	s->span_id = op->ev.span_id;
	s->start_ns = op->ev.start_ns;
	s->end_ns = 0;
	s->trace_flags = op->ev.trace_flags;
	if (op->scan.at[S_TRACESTATE].len)
		s->trace_flags |= SCOPE_TRACESTATE;
	s->epoch = op->epoch;
	s->goid = key->id;
	/* (*conn).serve makes a context a connection, and of it one for each request;
	 * a stream of HTTP/2 has a goroutine of its own. */
	if (op->ev.proto_major < 2)
		scope_ctx_child(key, s, op->ctx, last_ns);
	else
		scope_ctx(key, s, op->ctx);
	return 0;
}

static __always_inline void scope_close(struct tr_gokey *key, __u64 now)
{
	struct tr_scope *s = bpf_map_lookup_elem(&tr_scopes, key);

	if (s && !s->end_ns && !(s->trace_flags & SCOPE_HELD))
		s->end_ns = now;
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
static __noinline int put_remote(struct nh_op *op, struct nh_exe *e)
{
	struct go_str *v = (struct go_str *)&op->obj[e->req_remote & (REQ_MAX - 1)];

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
static __noinline int put_line(struct nh_op *op, struct nh_exe *e)
{
	struct go_str *m = (struct go_str *)&op->obj[e->req_method & (REQ_MAX - 1)];
	struct go_str *u = (struct go_str *)&op->obj[e->req_uri & (REQ_MAX - 1)];
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
static __always_inline enum nh_check server_check(struct nh_op *op, struct nh_exe *e)
{
	if (!op->ev.str[S_METHOD].len || op->ev.str[S_METHOD].len > 64)
		return CHECK_LATER;
	if (!is_tchar(method_char(op, 0)))
		return CHECK_METHOD;
	if (!obj_u64(op, e->req_url))
		return CHECK_URL;
	if (!op->ctx)
		return CHECK_CONTEXT;
	e->server_sane = 1;
	return 0;
}

static __always_inline void server_drop(struct tr_gokey *key)
{
	if (!bpf_map_delete_elem(&nh_server, key))
		__sync_fetch_and_add(&nh_entries, -1);
}

/* "Upgrade: h2c": golang.org/x/net serves the request that net/http has begun, from
 * another goroutine, as the first stream of HTTP/2. It is one operation: this one goes
 * on with what the first has, which then ends without a span. */
static __noinline int server_upgraded(struct nh_op *op, struct tr_goexe *ge)
{
	struct tr_gokey key = { .tgid = op->ev.hdr.tgid };
	struct tr_scope *s = scope_by_ctx(ge, key.tgid, op->ctx, op->ev.start_ns, op->epoch);
	struct nh_op *first;

	op->ev.proto_major = 2;
	op->ev.proto_minor = 0;
	if (!s)
		return 0;
	key.id = s->goid;
	op->ev.trace_id[0] = s->trace_id[0];
	op->ev.trace_id[1] = s->trace_id[1];
	op->ev.span_id = s->span_id;
	op->ev.start_ns = s->start_ns;
	op->ev.trace_flags = s->trace_flags;
	first = bpf_map_lookup_elem(&nh_server, &key);
	if (first && first->open && first->ev.span_id == op->ev.span_id) {
		op->ev.parent_id = first->ev.parent_id;
		op->ev.flags |= first->ev.flags & (F_REMOTE_PARENT | F_JOINED);
		server_drop(&key);
	}
	return 1;
}

/* Fill a new entry from the request: 1 when it is kept, 0 when only its scope is, -1 when
 * the request is not followed. */
static __noinline int server_fill(struct nh_op *op, struct tr_gokey *key, struct tr_goexe *ge)
{
	struct nh_exe *e = bpf_map_lookup_elem(&nh_exes, &op->ev.hdr.exe_id);
	__u32 n;

	if (!e)
		return -1;
	n = e->req_len;
	asm volatile("%0 &= 511" : "+r"(n));
	_Static_assert(REQ_MAX == 512, "mask above");
	if (bpf_probe_read_user(op->obj, n, (void *)op->req)) {
		count_lost(probe_id, LOST_READ);
		return -1;
	}
	put_remote(op, e);
	put_line(op, e);
	op->ctx = obj_u64(op, e->req_ctx + 8);
	if (!e->server_sane) {
		enum nh_check bad = server_check(op, e);

		if (bad) {
			unsane(op, bad);
			return -1;
		}
	}
	/* "PRI * HTTP/2.0": a connection that goes on as HTTP/2, not a request */
	if (op->ev.str[S_METHOD].len == 3 && method_char(op, 0) == 'P' && method_char(op, 1) == 'R')
		return -1;
	scan_headers(ge, &op->scan, obj_u64(op, e->req_header));
	get_traceparent(op);
	op->ev.proto_major = obj_u64(op, e->req_major);
	op->ev.proto_minor = obj_u64(op, e->req_minor);
	if (op->ev.proto_major > 2 ||
	    (op->ev.proto_major == 2 && !(op->xnet ? e->xh2_end : e->h2_end)))
		return -1; /* its end would not be seen */
	if (op->xnet && op->ev.proto_major == 1 && server_upgraded(op, ge))
		n = op->ev.trace_flags & TRACE_FLAG_SAMPLED;
	else
		n = server_trace(op, ge, e);
	scope_open(op, key);
	if (!n && !cfg_count_all)
		return 0;
	op->uri_ptr = obj_u64(op, e->req_uri);
	op->ev.req_size = obj_u64(op, e->req_clen);
	if (obj_u64(op, e->req_tls))
		op->ev.flags |= F_TLS;
	if (cfg_body & WANT_REQUEST)
		body_arrived(op, e);
	if (!n && !cfg_count_full)
		return 1; /* only counted: metrics need no more */
	if (!op->ev.str[S_URI].len)
		put_field(op, S_URI, e->req_uri);
	put_field(op, S_HOST, e->req_host);
	put_headers(op);
	return 1;
}

/* req is the *http.Request, rw the ResponseWriter's data pointer. */
static __always_inline int server_start(struct pt_regs *ctx, __u64 rw, __u64 req, bool xnet)
{
	struct tr_gokey key = {};
	struct tr_proc *proc = watched(&key);
	struct nh_op *op;
	struct tr_goexe *ge;
	int rc;

	if (!proc)
		return 0;
	ge = bpf_map_lookup_elem(&tr_goexes, &proc->exe_id);
	if (!ge)
		return 0;
	key.id = go_id(ge, GO_G(ctx));
	op = bpf_map_lookup_elem(&nh_server, &key);
	if (op && op->open && op->xnet && op->req == req && op->epoch == proc->epoch)
		return 0; /* runHandler of golang.org/x/net was here before serverHandler */
	if (op && op->epoch != proc->epoch)
		op->peer_len = 0; /* what is kept is of another program */
	op = op_new(&nh_server, &key, proc, op);
	if (op) {
		op->req = req;
		op->rw = rw;
		op->xnet = xnet;
		rc = -1;
		if (!key.id)
			unsane(op, CHECK_G);
		else
			rc = server_fill(op, &key, ge);
		if (rc > 0)
			return 0;
		server_drop(&key);
		if (!rc)
			return 0;
	}
	/* What this request does is not the last one's. */
	bpf_map_delete_elem(&tr_scopes, &key);
	return 0;
}

/* The route: Request.Pattern (Go 1.23), Request.pat.str (1.22), of the copy that
 * ServeMux was given where middleware made one. */
static __always_inline void put_route(struct nh_op *op, struct nh_exe *e)
{
	__u64 req = op->req;

	/* A request that is not reachable any more may be something else by now; that
	 * RequestURI is still the same bytes says that it is a copy of ours. */
	if (op->mux_req && op->mux_req != req && read_u64(op->mux_req + e->req_uri) == op->uri_ptr)
		req = op->mux_req;
	if (e->req_pattern != OFF_NONE) {
		put_gostr(op, S_ROUTE, req + e->req_pattern);
	} else if (e->req_pat != OFF_NONE) {
		__u64 pat = read_u64(req + e->req_pat);

		if (pat)
			put_gostr(op, S_ROUTE, pat + e->pat_str);
	}
}

static __always_inline struct nh_op *server_op(struct tr_gokey *key, struct pt_regs *ctx,
					       struct nh_exe **e, struct tr_goexe **ge)
{
	struct nh_op *op;
	struct tr_proc *proc = watched(key);

	if (!proc)
		return NULL;
	*e = bpf_map_lookup_elem(&nh_exes, &proc->exe_id);
	*ge = bpf_map_lookup_elem(&tr_goexes, &proc->exe_id);
	if (!*e || !*ge)
		return NULL;
	key->id = read_u64(GO_G(ctx) + (*ge)->g_goid);
	op = bpf_map_lookup_elem(&nh_server, key);
	return op && op->open && op->epoch == proc->epoch ? op : NULL;
}

/* A request that is neither sampled nor counted has a scope and no entry. */
static __always_inline void server_finish_unsampled(struct tr_gokey *key)
{
	if (key->id)
		scope_close(key, bpf_ktime_get_ns());
}

static __always_inline void server_finish(struct nh_op *op, struct tr_gokey *key, struct nh_exe *e)
{
	op->ev.end_ns = bpf_ktime_get_ns();
	if (op->mux_req)
		op->ev.flags |= op->mux_req == op->req ? F_MUX_SAME : F_MUX_COPY;
	if (!op->ev.str[S_ROUTE].len)
		put_route(op, e);
	scope_close(key, op->ev.end_ns);
	emit(op, NH_SERVER);
	op->open = 0;
}

/* Whether the goroutine is unwinding: g._panic is linked only then. */
static __always_inline void put_unwind(struct nh_op *op, struct tr_goexe *ge, __u64 g)
{
	__u64 p = read_u64(g + ge->g_panic);

	if (!p) {
		op->ev.flags |= F_HIJACKED;
		return;
	}
	if (ge->panic_goexit != OFF_NONE && read_u8(p + ge->panic_goexit))
		op->ev.flags |= F_GOEXIT;
	else
		op->ev.flags |= F_PANIC;
}

static __always_inline void h1_result(struct nh_op *op, struct nh_exe *e, __u64 w)
{
	__u32 n = e->w_len, base = e->w_first;

	asm volatile("%0 &= 511" : "+r"(n));
	if (bpf_probe_read_user(op->obj, n, (void *)(w + base))) {
		count_lost(probe_id, LOST_READ);
		return;
	}
	op->ev.status = obj_u64(op, e->w_status - base);
	op->ev.resp_size = obj_u64(op, e->w_written - base);
	if (op->obj[(e->w_wrote_header - base) & (REQ_MAX - 1)])
		op->ev.flags |= F_WROTE_HEADER;
}

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
	server_finish(op, &key, e);
	server_drop(&key); /* the goroutine ends with the stream */
	return 0;
}

#endif
