//go:build ignore
//  SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * nethttp - server and client operations of Go's net/http, HTTP/1 and HTTP/2.
 *
 * Hooked: see server.h and client.h. Every program first looks its process up in
 * tr_procs: probes sit on an inode, watched is a process. All state of an operation
 * is one map entry keyed by goroutine id; it is emitted once, at the end.
 *
 * Lost by design: header values past 511 bytes (marked), headers past the 128th
 * slot of the header map, requests that net/http itself refuses before dialling.
 * Minimum kernel: 5.10. Maps: nh_server, nh_client, nh_exes; tr_*.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "dial.h"
#include "h2server.h"
#include "inject.h"
#include "routers.h"

/* func (sh serverHandler) ServeHTTP(rw ResponseWriter, req *Request)
 * AX sh.srv, BX CX rw, DI req */
SEC("uprobe")
int nh_serve(struct pt_regs *ctx)
{
	return server_start(ctx, GO_ARG2(ctx), GO_ARG3(ctx), false);
}

/* func (sc *serverConn) runHandler(rw *responseWriter, req *http.Request, handler func(...))
 * of golang.org/x/net/http2, whose handler need not be net/http's.
 * AX sc, BX rw, CX req */
SEC("uprobe")
int nh_xrun(struct pt_regs *ctx)
{
	return server_start(ctx, GO_ARG1(ctx), GO_ARG2(ctx), true);
}

/* func (w *response) shouldReuseConnection() bool   AX w; after finishRequest */
SEC("uprobe")
int nh_finish(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct tr_proc *proc = watched(&key);
	struct tr_goexe *ge;
	struct nh_exe *e;
	struct nh_op *op;

	if (!proc)
		return 0;
	e = bpf_map_lookup_elem(&nh_exes, &proc->exe_id);
	ge = bpf_map_lookup_elem(&tr_goexes, &proc->exe_id);
	if (!e || !ge)
		return 0;
	key.id = read_u64(GO_G(ctx) + ge->g_goid);
	op = bpf_map_lookup_elem(&nh_server, &key);
	if (!op || !op->open || op->epoch != proc->epoch) {
		if (!op || !op->shared_ns)
			server_finish_unsampled(&key);
		return 0;
	}
	if (MAY_COUNT && op->lite)
		lite_finish(op, &key, proc, e, GO_ARG0(ctx));
	else
		server_end(op, &key, e, GO_ARG0(ctx));
	if (nh_entries - nh_forgotten > cfg_keep)
		server_drop(&key);
	return 0;
}

/* func (c *conn) serve(ctx context.Context).func1()   the deferred function */
SEC("uprobe")
int nh_conn_end(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct tr_goexe *ge;
	struct nh_op *op = server_op(&key, ctx, &e, &ge);

	if (op) {
		put_unwind(op, ge, GO_G(ctx));
		server_end(op, &key, e, op->rw);
	}
	server_finish_unsampled(&key); /* and one that is shared */
	if (key.id)
		server_drop(&key);
	return 0;
}

/* func (w *response) Hijack() (rwc net.Conn, buf *bufio.ReadWriter, err error)
 * A connection that is upgraded to another protocol is no request any more. */
SEC("uprobe")
int nh_hijack(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct tr_goexe *ge;
	struct nh_op *op = server_op(&key, ctx, &e, &ge);

	/* "h2c" is answered by HTTP/2, as a request of that */
	if (!op || op->ev.str[S_UPGRADE].len <= 3)
		return 0;
	op->ev.flags |= F_HIJACKED;
	server_end(op, &key, e, op->rw);
	server_drop(&key); /* the connection may live for days */
	return 0;
}

/* the deferred function of (*http2serverConn).runHandler that calls handlerDone */
SEC("uprobe")
int nh_h2_end(struct pt_regs *ctx)
{
	return h2_finish(ctx, false);
}

SEC("uprobe")
int nh_xh2_end(struct pt_regs *ctx)
{
	return h2_finish(ctx, true);
}

/* http.TimeoutHandler serves a copy of the request in a goroutine that the request's own
 * starts and waits for. That RequestURI is the same bytes says that it is such a copy. */
static __always_inline struct nh_op *timeout_op(struct tr_gokey *key, struct tr_goexe *ge,
						struct nh_exe *e, __u64 g, __u64 req)
{
	struct tr_proc *proc = watched(key);
	struct nh_op *op;

	if (!proc || ge->g_parent_goid == OFF_NONE)
		return NULL;
	key->id = read_u64(g + ge->g_parent_goid);
	op = bpf_map_lookup_elem(&nh_server, key);
	if (!op || !op->open || op->epoch != proc->epoch || !op->uri_ptr)
		return NULL;
	return read_u64(req + e->req_uri) == op->uri_ptr ? op : NULL;
}

/* func (mux *ServeMux) findHandler(r *Request) (...)   Go 1.22+; BX r
 * Only to find the request that carries the pattern when middleware copied it. */
SEC("uprobe")
int nh_mux(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct nh_exe *e = NULL;
	struct tr_goexe *ge = NULL;
	struct nh_op *op = server_entry(&key, ctx, &e, &ge);

	if (!op && e && ge)
		op = timeout_op(&key, ge, e, GO_G(ctx), GO_ARG1(ctx));
	if (op && !op->mux_req)
		op->mux_req = GO_ARG1(ctx);
	return 0;
}

/* in func (mux *ServeMux) ServeHTTP, after
 * func (mux *ServeMux) Handler(r *Request) (h Handler, pattern string); Go 1.18 to 1.21 */
SEC("uprobe")
int nh_match(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct tr_goexe *ge;
	struct nh_op *op = server_op(&key, ctx, &e, &ge);

	if (!op || op->ev.str[S_ROUTE].len || !go_loc_read(ctx, &e->match_end[0]))
		return 0;
	put_str(op, S_ROUTE, go_loc_read(ctx, &e->match_end[2]),
		go_loc_read(ctx, &e->match_end[3]));
	return 0;
}

/* in func (engine *Engine) ServeHTTP of gin, at the call of sync.(*Pool).Put
 * CX *gin.Context */
SEC("uprobe")
int nh_gin(struct pt_regs *ctx)
{
	struct nh_exe *e;
	struct nh_op *op = route_op(ctx, &e);

	if (op)
		route_str(op, GO_ARG2(ctx) + e->routers.gin_path);
	return 0;
}

/* the same in func (e *Echo) ServeHTTP of echo v4   CX *echo.context */
SEC("uprobe")
int nh_echo4(struct pt_regs *ctx)
{
	struct nh_exe *e;
	struct nh_op *op = route_op(ctx, &e);

	if (!op)
		return 0;
	if (!(op->ev.flags & F_ROUTED))
		op->ev.flags |= F_ROUTE_ECHO;
	route_str(op, GO_ARG2(ctx) + e->routers.echo4_path);
	return 0;
}

/* the same deferred in func (e *Echo) serveHTTP of echo v5   CX *echo.Context */
SEC("uprobe")
int nh_echo5(struct pt_regs *ctx)
{
	struct nh_exe *e;
	struct nh_op *op = route_op(ctx, &e);

	if (op)
		route_str(op, GO_ARG2(ctx) + e->routers.echo5_path);
	return 0;
}

/* the same in func (mx *Mux) ServeHTTP of chi to v4   CX *chi.Context */
SEC("uprobe")
int nh_chi(struct pt_regs *ctx)
{
	struct nh_exe *e;
	struct nh_op *op = route_op(ctx, &e);

	if (op)
		route_chi(op, GO_ARG2(ctx), &e->routers.chi);
	return 0;
}

/* of chi v5 */
SEC("uprobe")
int nh_chi5(struct pt_regs *ctx)
{
	struct nh_exe *e;
	struct nh_op *op = route_op(ctx, &e);

	if (op)
		route_chi(op, GO_ARG2(ctx), &e->routers.chi5);
	return 0;
}

/* func requestWithRoute(r *http.Request, route *Route) *http.Request
 * of gorilla/mux; BX route */
SEC("uprobe")
int nh_gmux(struct pt_regs *ctx)
{
	struct nh_exe *e;
	struct nh_op *op = route_op(ctx, &e);
	__u64 path;

	if (!op)
		return 0;
	/* nil when no route of the path's is set: matched by host or method alone */
	path = read_u64(GO_ARG1(ctx) + e->routers.mux_regexp + e->routers.mux_path);
	op->ev.flags &= ~F_ROUTED; /* of the router that this one is mounted in */
	if (path)
		route_str(op, path + e->routers.mux_template);
	return 0;
}

/* func gopanic(e any)   AX BX e. Costs nothing until somebody panics. */
SEC("uprobe")
int nh_panic(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct tr_goexe *ge;
	struct nh_op *op = server_op(&key, ctx, &e, &ge);

	if (!op)
		return 0;
	op->ev.flags |= F_SAW_PANIC;
	err_type(&op->ev.panic_type, ge, GO_ARG0(ctx));
	op->ev.panic_raw[0] = op->ev.panic_raw[1] = 0;
	bpf_probe_read_user(op->ev.panic_raw, sizeof(op->ev.panic_raw), (void *)GO_ARG1(ctx));
	op->ev.str[S_PANIC_MSG].len = 0;
	if (op->ev.panic_raw[1] && op->ev.panic_raw[1] < 4096)
		put_str(op, S_PANIC_MSG, op->ev.panic_raw[0], op->ev.panic_raw[1]);
	return 0;
}

/* func (t *Transport) getConn(treq *transportRequest, cm connectMethod) (*persistConn, error)
 * AX t, BX treq */
SEC("uprobe")
int nh_get_conn(struct pt_regs *ctx)
{
	return client_start(ctx, CLIENT_H1);
}

/* The operation goes over the *persistConn at pc. */
static __noinline int got_conn(struct nh_op *op, struct nh_exe *e, struct tr_goexe *ge, __u64 pc)
{
	struct tr_gokey key = {};

	if (!op || !e || !ge)
		return 0;
	key.tgid = op->ev.hdr.tgid;
	key.id = op->ev.goid;
	if (e->dials)
		got_fresh(op, &key, pc);
	if (read_u64(pc + e->pc_alt))
		return 0; /* HTTP/2, where a stream is announced */
	if (cfg_body & WANT_RESPONSE)
		op->rw = pc;
	expect_write(op, &key, e, pc);
	io_ids(&call_of(op)->x.io, op);
	announce(&call_of(op)->x.io, ge, e, pc + e->pc_conn, 0);
	put_peer(op, &call_of(op)->x.io);
	return 0;
}

/* in func (t *Transport) roundTrip(req *Request) (*Response, error), after getConn */
SEC("uprobe")
int nh_got_conn(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct tr_goexe *ge;
	struct nh_op *op = client_op(&key, ctx, &e, &ge);
	__u64 err;

	if (!op)
		return 0;
	err = go_loc_read(ctx, &e->conn_end[1]);
	if (err) {
		op->ev.flags |= F_CONN_ERROR;
		put_error(op, ge, err, go_loc_read(ctx, &e->conn_end[2]));
		client_finish(op, &key);
		return 0;
	}
	return got_conn(op, e, ge, go_loc_read(ctx, &e->conn_end[0]));
}

/* in func (t *Transport) roundTrip, after (*persistConn).roundTrip or the HTTP/2 one */
SEC("uprobe")
int nh_call_end(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct tr_goexe *ge;
	struct nh_op *op = client_op(&key, ctx, &e, &ge);
	__u64 err, res;

	if (!op)
		return 0;
	err = go_loc_read(ctx, &e->call_end[1]);
	if (err) {
		put_error(op, ge, err, go_loc_read(ctx, &e->call_end[2]));
	} else {
		res = go_loc_read(ctx, &e->call_end[0]);
		op->ev.status = read_u32(res + e->res_status);
		op->ev.resp_size = read_u64(res + e->res_clen);
		op->ev.proto_major = read_u8(res + e->res_major);
		op->ev.proto_minor = read_u8(res + e->res_minor);
		if (cfg_body & WANT_RESPONSE)
			body_received(op, e);
		if (cfg_answer_lens) { /* Header is what follows ProtoMinor */
			scan_answer(op, &call_of(op)->x, read_u64(res + e->res_minor + 8));
			put_answers(op, &call_of(op)->x);
		}
	}
	client_finish(op, &key);
	return 0;
}

/* func (cc *ClientConn) roundTrip(req, ...)   AX cc, BX req */
SEC("uprobe")
int nh_h2_call(struct pt_regs *ctx)
{
	return client_start(ctx, CLIENT_H2);
}

/* in func (t *Transport) RoundTripOpt, after (*ClientConn).RoundTrip */
SEC("uprobe")
int nh_h2_call_end(struct pt_regs *ctx)
{
	return h2_client_end(ctx, false);
}

/* in (*Request).write, at the first call of
 * func (h Header) writeSubset(w io.Writer, exclude map[string]bool, trace *ClientTrace) error
 * AX h, BX CX w */
SEC("uprobe")
int nh_write_h1(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct tr_proc *proc = watched(&key);
	struct tr_goexe *ge;
	struct nh_scratch *x;
	__u64 *goid, caller;

	if (!proc)
		return 0;
	ge = bpf_map_lookup_elem(&tr_goexes, &proc->exe_id);
	if (!ge)
		return 0;
	key.id = GO_ARG2(ctx);
	goid = bpf_map_lookup_elem(&nh_reqs, &key);
	caller = goid ? *goid : 0;
	if (!caller)
		return 0;
	*goid = 0;
	key.id = read_u64(GO_G(ctx) + ge->g_goid);
	x = scratch_get();
	if (!x) {
		count_lost(probe_id, LOST_MAP_FULL);
		return 0;
	}
	h1_write(scratch_writer(x), &key, ge, caller, ctx);
	scratch_put(x);
	return 0;
}

/* in func (cc *ClientConn) writeHeaders(streamID, endStream, maxFrameSize, hdrs) error, at
 * the call of func (b *bufio.Writer) Flush() error   AX b */
SEC("uprobe")
int nh_write_h2(struct pt_regs *ctx)
{
	return h2_write(ctx, false);
}

SEC("uprobe")
int nh_write_xh2(struct pt_regs *ctx)
{
	return h2_write(ctx, true);
}

/* func (cs *clientStream) encodeAndWriteHeaders(req) error   AX cs, BX req */
SEC("uprobe")
int nh_h2_stream(struct pt_regs *ctx)
{
	return h2_client_stream(ctx, false);
}

SEC("uprobe")
int nh_xh2_stream(struct pt_regs *ctx)
{
	return h2_client_stream(ctx, true);
}

/* func (b *dataBuffer) Read(p []byte) (int, error)   AX b, BX CX p */
SEC("uprobe")
int nh_h2_read(struct pt_regs *ctx)
{
	return h2_read(ctx, false);
}

SEC("uprobe")
int nh_xh2_read(struct pt_regs *ctx)
{
	return h2_read(ctx, true);
}

SEC("uprobe")
int nh_xh2_call(struct pt_regs *ctx)
{
	return client_start(ctx, CLIENT_XH2);
}

SEC("uprobe")
int nh_xh2_call_end(struct pt_regs *ctx)
{
	return h2_client_end(ctx, true);
}

char LICENSE[] SEC("license") = "GPL";

/* Keep what user space shares in the object's BTF. */
const struct nethttp_counted *keep_counted __attribute__((unused));
const enum nethttp_event_type *keep_type __attribute__((unused));
const enum nh_flag *keep_flag __attribute__((unused));
const enum nh_str *keep_str __attribute__((unused));
const enum nh_check *keep_check __attribute__((unused));
const enum nh_prop *keep_prop __attribute__((unused));
const enum lost_place *keep_place __attribute__((unused));
const struct tr_body *keep_body __attribute__((unused));
const enum tr_body_kind *keep_body_kind __attribute__((unused));
const enum tr_body_want *keep_body_want __attribute__((unused));
