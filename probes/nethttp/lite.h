/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * lite.h - a server's HTTP/1 requests that are counted and no spans. With a sampling ratio
 * these are nearly all, and what is done for one should be next to nothing: the lines of
 * memory that belong to a connection have left the processor's cache since its last
 * request, and fetching each again costs as much as a read of the program's memory. So a
 * lite request
 *   - is decided at once: no traceparent, nothing said of the connection, a number drawn;
 *   - is kept in the first words of its goroutine's entry, not in the record behind them;
 *   - has no scope of its own (SCOPE_SHARED);
 *   - goes out as struct nethttp_counted.
 * What else happens to the request (a panic, a router's route) makes it a usual one that
 * is not sampled: lite_fill. The first request of a connection is a usual one, too.
 */
#ifndef NH_LITE_H
#define NH_LITE_H

#include "body.h"
#include "answer.h"

/* Some requests are only counted, with what metrics need of them: where sampling may
 * leave a request out, that is decided before anything else is read of it. */
#define MAY_COUNT (cfg_sampler_root != ROOT_ALWAYS_ON && !cfg_count_full && !cfg_body)
/* Lengths of the headers that are looked for first: Traceparent, Upgrade. */
#define FIRST_LENS (1ULL << 11 | 1ULL << 7)

/* After one that had such a header, or came over a connection of which something is
 * said, so many are not tried. */
#define DIRECT 15

/* The goroutine's scope, a new one if it has none. */
static __always_inline struct tr_scope *scope_get(const struct tr_gokey *key)
{
	struct tr_scope *s = bpf_map_lookup_elem(&tr_scopes, key);

	if (s)
		return s;
	/* A copy on the stack would be more than it may hold: insert zeros, then fill in
	 * place; the goroutine is ours. */
	bpf_map_update_elem(&tr_scopes, key, &nh_zero, BPF_ANY);
	return bpf_map_lookup_elem(&tr_scopes, key);
}

/* The method as records of requests that are only counted have it. */
static __always_inline void take_method(struct nh_op *op, struct nh_scratch *x, struct nh_exe *e)
{
	struct go_str *m = (struct go_str *)&x->obj[e->req_method & (REQ_MAX - 1)];
	__u32 n = m->len > 8 ? 8 : m->len;

	op->method = 0;
	asm volatile("%0 &= 15" : "+r"(n));
	if (n <= 8)
		bpf_probe_read_user(&op->method, n, (void *)m->ptr);
}

/* Where the route is: Request.Pattern (Go 1.23), Request.pat.str (1.22), of the copy that
 * ServeMux was given where middleware made one; 0 if there is none. */
static __always_inline __u64 route_at(struct nh_op *op, struct nh_exe *e)
{
	__u64 req = op->req;

	/* A request that is not reachable any more may be something else by now; that
	 * RequestURI is still the same bytes says that it is a copy of ours. */
	if (op->mux_req && op->mux_req != req && read_u64(op->mux_req + e->req_uri) == op->uri_ptr)
		req = op->mux_req;
	if (e->req_pattern != OFF_NONE)
		return req + e->req_pattern;
	if (e->req_pat != OFF_NONE) {
		__u64 pat = read_u64(req + e->req_pat);

		if (pat)
			return pat + e->pat_str;
	}
	return 0;
}

/* The route goes into c, from where a router's program has put it or from ServeMux. */
static __noinline int counted_route(struct nethttp_counted *c, struct nh_op *op, struct nh_exe *e)
{
	__u32 n = op->lite ? 0 : op->ev.str[S_ROUTE].len, off = op->ev.str[S_ROUTE].off;
	__u64 at;

	c->route_len = 0;
	asm volatile("%0 &= 511" : "+r"(n));
	asm volatile("if %0 <= 1535 goto +1; %0 = 0" : "+r"(off));
	_Static_assert(STR_MAX == 511 && TAIL_MAX == 1536, "masks above");
	if (n) {
		if (!bpf_probe_read_kernel(c->route, n, &op->ev.tail[off]))
			c->route_len = n;
		return 0;
	}
	at = route_at(op, e);
	if (!at || bpf_probe_read_user(&op->s, sizeof(op->s), (void *)at) || !op->s.len)
		return 0;
	n = op->s.len > STR_MAX ? STR_MAX : op->s.len;
	asm volatile("%0 &= 511" : "+r"(n));
	if (bpf_probe_read_user(c->route, n, (void *)op->s.ptr))
		count_lost(probe_id, LOST_READ);
	else
		c->route_len = n;
	return 0;
}

static __always_inline void counted_emit(struct nethttp_counted *c)
{
	__u32 n = c->route_len;

	asm volatile("%0 &= 511" : "+r"(n));
	n += __builtin_offsetof(struct nethttp_counted, route);
	c->hdr.probe_id = probe_id;
	c->hdr.type = NH_COUNTED;
	c->hdr.len = n;
	if (event_output(c, n))
		count_lost(probe_id, LOST_RING_FULL);
}

/* Let the goroutine's scope say that what it runs from now on is not sampled. The trace id
 * is in x->parent. */
static __noinline int scope_share(struct nh_op *op, const struct tr_gokey *key,
				  struct nh_scratch *x, __u64 ctx)
{
	struct tr_scope *s = scope_get(key);
	__u64 last_ns;

	if (!s)
		return 0;
	last_ns = s->start_ns;
	if (s->epoch != op->epoch)
		s->reg = 0; /* of the program before */
	s->trace_id[0] = x->parent.trace_id[0];
	s->trace_id[1] = x->parent.trace_id[1];
	s->span_id = x->parent.span_id;
	s->start_ns = op->shared_ns = op->start_ns;
	s->end_ns = 0;
	s->trace_flags = SCOPE_SHARED;
	s->epoch = op->epoch;
	s->goid = key->id;
	scope_ctx_child(key, s, ctx, last_ns);
	return 0;
}

/* Whether the request in x is one of those; its ids are in x->parent then, or else, where
 * it is to be sampled, in op->trace_id. */
static __noinline int is_lite(struct nh_op *op, struct nh_scratch *x, const struct tr_gokey *key,
			      struct nh_exe *e)
{
	struct tr_goexe *ge = bpf_map_lookup_elem(&tr_goexes, &op->ev.hdr.exe_id);
	struct go_str *peer = (struct go_str *)&x->obj[e->req_remote & (REQ_MAX - 1)];

	if (!ge || peer->ptr != op->peer_ptr || peer->len != op->peer_len ||
	    obj_u64(x, e->req_major) != 1)
		return 0;
	scan_reset(&x->scan, FIRST_LENS);
	scan_headers(ge, &x->scan, obj_u64(x, e->req_header));
	if (x->scan.found || (e->join && said_any(op->peer_port))) {
		op->direct = DIRECT;
		return 0;
	}
	x->parent.span_id = new_ids(x->parent.trace_id, op->start_ns, key->tgid, key->id);
	if (!sampled(x->parent.trace_id, false, 0))
		return 1;
	op->trace_id[0] = x->parent.trace_id[0];
	op->trace_id[1] = x->parent.trace_id[1];
	return 0;
}

/* Begin a request in an entry of the running program; false when it must be looked at
 * like all others. */
static __noinline int lite_start(struct nh_op *op, struct tr_gokey *key, struct tr_proc *proc,
				 __u64 req, __u64 rw)
{
	struct nh_exe *e = bpf_map_lookup_elem(&nh_exes, &proc->exe_id);
	struct nh_scratch *x;
	__u32 n;

	if (op->direct) {
		op->direct--;
		return 0;
	}
	if (!e || !e->server_sane)
		return 0;
	x = scratch_get();
	if (!x)
		return 0; /* another one may be free for the usual way */
	op->start_ns = bpf_ktime_get_ns();
	n = e->req_len;
	asm volatile("%0 &= 511" : "+r"(n));
	_Static_assert(REQ_MAX == 512, "mask above");
	if (bpf_probe_read_user(x->obj, n, (void *)req) || !is_lite(op, x, key, e)) {
		scratch_put(x);
		return 0;
	}
	if (cfg_count_all) {
		take_method(op, x, e);
		op->req = req;
		op->rw = rw;
		op->mux_req = 0;
		op->uri_ptr = obj_u64(x, e->req_uri);
		op->req_size = obj_u64(x, e->req_clen);
		op->lite_flags = obj_u64(x, e->req_tls) ? F_TLS : 0;
		op->proto_minor = obj_u64(x, e->req_minor);
		op->xnet = 0;
	}
	op->lite = 1;
	op->open = cfg_count_all;
	if (!op->shared_ns || op->start_ns - op->shared_ns > SHARED_AGAIN_NS)
		scope_share(op, key, x, obj_u64(x, e->req_ctx + 8));
	scratch_put(x);
	return 1;
}

/* Make an open one a usual one; the record's head is that of the goroutine's last one. */
static __noinline int lite_fill(struct nh_op *op)
{
	__builtin_memset(&op->ev.trace_id, 0,
			 __builtin_offsetof(struct nethttp_event, err) -
				 __builtin_offsetof(struct nethttp_event, trace_id));
	op->ev.start_ns = op->start_ns;
	op->ev.req_size = op->req_size;
	op->ev.flags = op->lite_flags;
	op->ev.proto_major = 1;
	op->ev.proto_minor = op->proto_minor;
	op->ev.str[S_PEER].len = op->ev.tail_len = op->peer_len;
	op->lite = 0;
	return 0;
}

/* End an open one, whose *http.response is w. */
static __noinline int lite_finish(struct nh_op *op, const struct tr_gokey *key,
				  struct tr_proc *proc, struct nh_exe *e, __u64 w)
{
	struct nh_scratch *x = scratch_get();
	struct nethttp_counted *c;
	__u32 n = e->w_len, base = e->w_first;

	op->open = 0;
	if (!x) {
		count_lost(probe_id, LOST_MAP_FULL);
		return 0;
	}
	c = &x->counted;
	asm volatile("%0 &= 511" : "+r"(n));
	if (bpf_probe_read_user(x->obj, n, (void *)(w + base))) {
		count_lost(probe_id, LOST_READ);
		scratch_put(x);
		return 0;
	}
	c->end_ns = bpf_ktime_get_ns();
	c->status = obj_u64(x, e->w_status - base);
	c->resp_size = obj_u64(x, e->w_written - base);
	c->flags = op->lite_flags;
	if (x->obj[(e->w_wrote_header - base) & (REQ_MAX - 1)])
		c->flags |= F_WROTE_HEADER;
	if (op->mux_req)
		c->flags |= op->mux_req == op->req ? F_MUX_SAME : F_MUX_COPY;
	c->hdr.tgid = key->tgid;
	c->hdr.exe_id = proc->exe_id;
	c->hdr.proc_start_ns = proc->start_ns;
	c->start_ns = op->start_ns;
	c->req_size = op->req_size;
	c->method = op->method;
	c->proto_major = 1;
	c->proto_minor = op->proto_minor;
	counted_route(c, op, e);
	counted_emit(c);
	scratch_put(x);
	return 0;
}

#endif
