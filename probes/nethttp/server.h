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

#include "h2body.h"
#include "request.h"

/* Keep the traceparent header for server_trace. Several of them are none. */
static __always_inline void get_traceparent(struct nh_scratch *x)
{
	struct go_str *v = &x->io.s;
	struct go_str *at = &x->scan.at[S_TRACEPARENT];
	__u32 n;

	x->parent_len = 0;
	if (hdr_values(&x->scan, S_TRACEPARENT) != 1 ||
	    bpf_probe_read_user(v, sizeof(*v), (void *)at->ptr))
		return;
	if (v->len < TRACEPARENT_LEN || v->len > 1024)
		return;
	n = v->len > 56 ? 56 : v->len;
	asm volatile("%0 &= 63" : "+r"(n));
	if (bpf_probe_read_user(x->tp, n, (void *)v->ptr) == 0)
		x->parent_len = v->len;
}

/* The span at the other end of the connection, if it is watched on this node. */
static __always_inline int server_join(struct nh_op *op, struct nh_scratch *x, struct tr_goexe *ge,
				       struct nh_exe *e)
{
	struct nh_h2 *h2 = op->xnet ? &e->xh2 : &e->h2;
	__u32 stream = 0;
	__u64 at;
	int fd;

	if (!e->join || !(x->io.hand & HAND_JOIN) || !said_any(op->peer_port))
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
	fd = fd_of_conn(&x->io, ge, &e->net, at);
	return fd >= 0 && conn_take(&x->io.c, fd, stream);
}

/* Trace id, parent and sampling of a server request; false when not sampled. */
static __noinline int server_trace(struct nh_op *op, struct nh_scratch *x, struct tr_goexe *ge,
				   struct nh_exe *e)
{
	struct traceparent *p = &x->parent;

	op->ev.span_id = new_ids(op->ev.trace_id, op->ev.start_ns, op->ev.hdr.tgid, op->ev.goid);
	if (op->trace_id[1]) {
		op->ev.trace_id[0] = op->trace_id[0];
		op->ev.trace_id[1] = op->trace_id[1];
		op->trace_id[1] = 0;
	}
	if (x->parent_len && parse_traceparent(p, x->tp, x->parent_len)) {
		op->ev.trace_id[0] = p->trace_id[0];
		op->ev.trace_id[1] = p->trace_id[1];
		op->ev.parent_id = p->span_id;
		op->ev.flags |= F_REMOTE_PARENT;
		op->ev.trace_flags = p->flags & TRACE_FLAG_RANDOM;
	} else if (!hdr_values(&x->scan, S_TRACEPARENT) && server_join(op, x, ge, e)) {
		op->ev.trace_id[0] = x->io.c.val.trace_id[0];
		op->ev.trace_id[1] = x->io.c.val.trace_id[1];
		op->ev.parent_id = x->io.c.val.span_id;
		op->ev.flags |= F_REMOTE_PARENT | F_JOINED;
		count_prop(PROP_JOINED);
		p->flags = x->io.c.val.trace_flags;
		op->ev.trace_flags = p->flags & TRACE_FLAG_RANDOM;
	} else {
		p->flags = 0;
	}
	if (!sampled(op->ev.trace_id, op->ev.parent_id != 0, p->flags))
		return false;
	op->ev.trace_flags |= TRACE_FLAG_SAMPLED;
	return true;
}

static __always_inline int scope_open(struct nh_op *op, struct tr_gokey *key, struct nh_scratch *x)
{
	struct tr_scope *s = scope_get(key);
	__u64 last_ns;

	op->shared_ns = 0;
	if (!s)
		return 0;
	last_ns = s->start_ns;
	if (s->epoch != op->epoch)
		s->reg = 0; /* of the program before */
	s->trace_id[0] = op->ev.trace_id[0];
	s->trace_id[1] = op->ev.trace_id[1];
	s->span_id = op->ev.span_id;
	s->start_ns = op->ev.start_ns;
	s->end_ns = 0;
	s->trace_flags = op->ev.trace_flags;
	if (hdr_values(&x->scan, S_TRACESTATE))
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
	op->start_ns = op->ev.start_ns = s->start_ns;
	op->ev.trace_flags = s->trace_flags;
	first = bpf_map_lookup_elem(&nh_server, &key);
	if (first && first->open && !first->lite && first->ev.span_id == op->ev.span_id) {
		op->ev.parent_id = first->ev.parent_id;
		op->ev.flags |= first->ev.flags & (F_REMOTE_PARENT | F_JOINED);
		server_drop(&key);
	}
	return 1;
}

/* Fill an entry from the request: 1 when it is kept, 0 when only its scope is, -1 when
 * the request is not followed. */
static __noinline int server_fill(struct nh_op *op, struct tr_gokey *key, struct tr_goexe *ge,
				  struct nh_scratch *x)
{
	struct nh_exe *e = bpf_map_lookup_elem(&nh_exes, &op->ev.hdr.exe_id);
	__u32 n;

	if (!e || !server_read(op, x, e))
		return -1;
	scan_reset(&x->scan, MAY_COUNT ? FIRST_LENS : cfg_hdr_lens);
	scan_headers(ge, &x->scan, obj_u64(x, e->req_header));
	get_traceparent(x);
	if (op->xnet && op->ev.proto_major == 1 && server_upgraded(op, ge))
		n = op->ev.trace_flags & TRACE_FLAG_SAMPLED;
	else
		n = server_trace(op, x, ge, e);
	if (n && MAY_COUNT)
		server_details(op, x, ge, e);
	scope_open(op, key, x);
	if (!n && !cfg_count_all)
		return 0;
	op->uri_ptr = obj_u64(x, e->req_uri);
	op->ev.req_size = obj_u64(x, e->req_clen);
	if (obj_u64(x, e->req_tls))
		op->ev.flags |= F_TLS;
	if ((cfg_body & WANT_REQUEST) && op->ev.proto_major < 2)
		body_arrived(op, x, e);
	else if ((cfg_body & WANT_REQUEST) && obj_u64(x, e->req_major) == 2) /* not of an upgrade */
		h2_arrived(op, x, op->xnet ? &e->xh2 : &e->h2,
			   read_u64(op->req + e->creq.body + 8));
	if (!n && !cfg_count_full) {
		if (!MAY_COUNT)
			take_method(op, x, e);
		if (hdr_values(&x->scan, S_UPGRADE))
			put_gostr(op, S_UPGRADE, x->scan.at[S_UPGRADE].ptr);
		return 1;
	}
	if (!MAY_COUNT)
		server_details(op, x, ge, e);
	return 1;
}

/* The entry of a request that begins now: the goroutine's last one's, or a new one. */
static __always_inline struct nh_op *server_new(struct tr_gokey *key, struct tr_proc *proc,
						struct nh_op *op)
{
	if (op) {
		if (op->epoch != proc->epoch)
			op->peer_len = op->trace_id[1] = 0; /* what is kept is of another program */
		if (op->ev.flags & F_SAW_PANIC) {
			__builtin_memset(&op->ev.panic_type, 0, sizeof(op->ev.panic_type));
			op->ev.panic_raw[0] = op->ev.panic_raw[1] = 0;
		}
		/* what is behind is the client's */
		__builtin_memset(&op->ev, 0, __builtin_offsetof(struct nethttp_event, panic_type));
		op->mux_req = 0;
		op->uri_ptr = 0;
		op->lite = 0;
		op->body_left = 0;
		op->h2_pipe = 0;
	} else {
		op = op_insert(&nh_server, key);
		if (!op)
			return NULL;
		__sync_fetch_and_add(&nh_entries, 1);
	}
	op_begin(op, key, proc);
	return op;
}

/* Follow the request that op->req is. */
static __always_inline int server_begin(struct nh_op *op, struct tr_gokey *key,
					struct tr_proc *proc)
{
	struct tr_goexe *ge = bpf_map_lookup_elem(&tr_goexes, &op->ev.hdr.exe_id);
	struct nh_scratch *x = scratch_get();
	int rc = -1;

	if (x && ge) {
		io_init(&x->io, proc);
		rc = server_fill(op, key, ge, x);
	}
	if (x)
		scratch_put(x);
	else
		count_lost(probe_id, LOST_MAP_FULL);
	if (rc > 0)
		return 0;
	/* What this request does is not the last one's. */
	if (rc < 0)
		bpf_map_delete_elem(&tr_scopes, key);
	/* The next one of an HTTP/1 connection finds its entry again. */
	op->open = 0;
	if (rc < 0 || op->ev.proto_major > 1 || nh_entries - nh_forgotten > cfg_keep)
		server_drop(key);
	return 0;
}

/* req is the *http.Request, rw the ResponseWriter's data pointer. */
static __always_inline int server_start(struct pt_regs *ctx, __u64 rw, __u64 req, bool xnet)
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
	op = bpf_map_lookup_elem(&nh_server, &key);
	if (op && op->open && op->xnet && op->req == req && op->epoch == proc->epoch)
		return 0; /* runHandler of golang.org/x/net was here before serverHandler */
	if (MAY_COUNT && !xnet && op && op->epoch == proc->epoch &&
	    lite_start(op, &key, proc, req, rw))
		return 0;
	op = server_new(&key, proc, op);
	if (!op) {
		bpf_map_delete_elem(&tr_scopes, &key);
		return 0;
	}
	op->req = req;
	op->rw = rw;
	op->xnet = xnet;
	if (key.id)
		return server_begin(op, &key, proc);
	unsane(op, CHECK_G);
	server_drop(&key);
	return 0;
}

/* The running goroutine's open request. */
static __always_inline struct nh_op *server_entry(struct tr_gokey *key, struct pt_regs *ctx,
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

/* The same for who looks at the record. */
static __always_inline struct nh_op *server_op(struct tr_gokey *key, struct pt_regs *ctx,
					       struct nh_exe **e, struct tr_goexe **ge)
{
	struct nh_op *op = server_entry(key, ctx, e, ge);

	if (MAY_COUNT && op && op->lite)
		lite_fill(op);
	return op;
}

/* A request that is neither sampled nor counted has a scope and no open entry. */
static __always_inline void server_finish_unsampled(struct tr_gokey *key)
{
	if (key->id)
		scope_close(key, bpf_ktime_get_ns());
}

/* Whether what has become of a request is told in few words. */
static __always_inline bool counted_only(struct nh_op *op)
{
	return !cfg_count_full && !cfg_body && !(op->ev.trace_flags & TRACE_FLAG_SAMPLED) &&
	       !(op->ev.flags & (F_SAW_PANIC | F_PANIC | F_GOEXIT));
}

static __noinline int emit_counted(struct nh_op *op, struct nh_scratch *x, struct nh_exe *e)
{
	struct nethttp_counted *c = &x->counted;

	c->hdr.tgid = op->ev.hdr.tgid;
	c->hdr.exe_id = op->ev.hdr.exe_id;
	c->hdr.proc_start_ns = op->ev.hdr.proc_start_ns;
	c->start_ns = op->ev.start_ns;
	c->end_ns = op->ev.end_ns;
	c->req_size = op->ev.req_size;
	c->resp_size = op->ev.resp_size;
	c->method = op->method;
	c->status = op->ev.status;
	c->flags = op->ev.flags;
	if (!c->status && (c->flags & F_HIJACKED) && op->ev.str[S_UPGRADE].len) {
		/* written by who took the connection */
		c->status = 101;
		c->flags |= F_WROTE_HEADER;
	}
	c->proto_major = op->ev.proto_major;
	c->proto_minor = op->ev.proto_minor;
	counted_route(c, op, e);
	counted_emit(c);
	return 0;
}

/* For the record of a request that was to be counted only, and then panicked. */
static __noinline int method_to_tail(struct nh_op *op)
{
	__u32 off = op->ev.tail_len, n = 0;

	asm volatile("if %0 <= 1535 goto +1; %0 = 0" : "+r"(off));
	_Static_assert(TAIL_MAX == 1536, "bound above");
	for (__u32 i = 0; i < 8; i++) {
		__u8 c = op->method >> 8 * i;

		op->ev.tail[off + i] = c;
		n += !!c;
	}
	op->ev.str[S_METHOD].off = off;
	op->ev.str[S_METHOD].len = n;
	op->ev.tail_len = off + n;
	return 0;
}

/* Whether the handler has not returned: nothing, or what another has written, was sent. */
static __always_inline bool unwound(struct nh_op *op)
{
	return op->ev.flags & (F_HIJACKED | F_PANIC | F_GOEXIT);
}

static __always_inline int server_finish(struct nh_op *op, struct nh_scratch *x,
					 struct tr_gokey *key, struct nh_exe *e)
{
	op->ev.end_ns = bpf_ktime_get_ns();
	if (op->mux_req)
		op->ev.flags |= op->mux_req == op->req ? F_MUX_SAME : F_MUX_COPY;
	/* one that is shared is the next request's, too */
	if (!op->shared_ns)
		scope_close(key, op->ev.end_ns);
	op->open = 0;
	if (counted_only(op))
		return emit_counted(op, x, e);
	if (!op->ev.str[S_ROUTE].len) {
		__u64 at = route_at(op, e);

		if (at)
			put_gostr(op, S_ROUTE, at);
	}
	if (!op->ev.str[S_METHOD].len)
		method_to_tail(op);
	if (cfg_answer_lens && (op->ev.flags & F_ANSWERED))
		put_answers(op, x);
	emit(op, NH_SERVER);
	return 0;
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

static __always_inline void h1_result(struct nh_op *op, struct nh_scratch *x, struct nh_exe *e,
				      __u64 w)
{
	__u32 n = e->w_len, base = e->w_first;

	asm volatile("%0 &= 511" : "+r"(n));
	if (bpf_probe_read_user(x->obj, n, (void *)(w + base))) {
		count_lost(probe_id, LOST_READ);
		return;
	}
	op->ev.status = obj_u64(x, e->w_status - base);
	op->ev.resp_size = obj_u64(x, e->w_written - base);
	if (x->obj[(e->w_wrote_header - base) & (REQ_MAX - 1)])
		op->ev.flags |= F_WROTE_HEADER;
}

/* A request has ended; of HTTP/1 w is the *http.response, of HTTP/2 0. */
static __noinline int server_end(struct nh_op *op, struct tr_gokey *key, struct nh_exe *e, __u64 w)
{
	struct nh_scratch *x = scratch_get();

	if (!x) {
		count_lost(probe_id, LOST_MAP_FULL);
		scope_close(key, bpf_ktime_get_ns());
		op->open = 0;
		return 0;
	}
	if (w)
		h1_result(op, x, e, w);
	if ((cfg_body & WANT_REQUEST) && w && op->body_left && !unwound(op))
		body_rest(op, e);
	if (((cfg_body & WANT_RESPONSE) || cfg_answer_lens) && (w || (op->ev.flags & F_H2)) &&
	    !unwound(op))
		answered(op, x, e, w);
	server_finish(op, x, key, e);
	scratch_put(x);
	return 0;
}

#endif
