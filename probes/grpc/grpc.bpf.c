//go:build ignore
//  SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * grpc - RPCs of google.golang.org/grpc, served and called, unary and streams.
 *
 * Hooked: see server.h and client.h. An RPC is one map entry, emitted once, at its end.
 *
 * Lost by design: RPCs that a server refuses before it has a handler's goroutine for
 * them (over its limit of streams, refused by a tap); how many messages a stream had,
 * because every one would be a hit.
 * Minimum kernel: 5.10. Maps: gr_server, gr_calls, gr_streams, gr_writes, gr_exes,
 * gr_props; tr_*.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "client.h"
#include "server.h"

/* func (s *Server) handleStream(t transport.ServerTransport, stream *transport.ServerStream)
 * AX s, BX CX t, DI stream */
SEC("uprobe")
int gr_handle(struct pt_regs *ctx)
{
	return server_start(ctx);
}

/* func (t *http2Server) writeStatus(s *ServerStream, st *status.Status) error, and the
 * same of *serverHandlerTransport   AX t, BX s, CX st */
SEC("uprobe")
int gr_status(struct pt_regs *ctx)
{
	return server_status(ctx);
}

/* in func (s *Server) processUnaryRPC, where sendResponse has failed. If its error is a
 * status grpc writes that next, and what is noted here is the same. */
SEC("uprobe")
int gr_unsent(struct pt_regs *ctx)
{
	struct tr_who w;
	struct gr_op *op = server_op(&w, ctx);
	struct gr_exe *e;

	if (!w.proc || !w.ge || !op)
		return 0;
	e = bpf_map_lookup_elem(&gr_exes, &op->ev.call.hdr.exe_id);
	if (!e)
		return 0;
	put_error(&op->ev, e, w.ge, go_loc_read(ctx, &e->unsent[0]),
		  go_loc_read(ctx, &e->unsent[1]));
	op->ev.call.flags |= F_UNSENT;
	scope_close(&w.key);
	finish(&gr_server, &w.key, &op->ev, GR_SERVER);
	return 0;
}

/* func gopanic(e any)   AX BX e. Costs nothing until somebody panics. */
SEC("uprobe")
int gr_panic(struct pt_regs *ctx)
{
	struct tr_who w;
	struct gr_op *op = server_op(&w, ctx);

	if (!w.proc || !w.ge || !op)
		return 0;
	op->ev.call.flags |= F_SAW_PANIC;
	err_type(&op->ev.panic_type, w.ge, GO_ARG0(ctx));
	op->ev.panic_raw[0] = op->ev.panic_raw[1] = 0;
	bpf_probe_read_user(op->ev.panic_raw, sizeof(op->ev.panic_raw), (void *)GO_ARG1(ctx));
	op->ev.str[S_PANIC].len = 0;
	if (op->ev.panic_raw[1] && op->ev.panic_raw[1] < 4096)
		put_str(&op->ev, S_PANIC, op->ev.panic_raw[0], op->ev.panic_raw[1]);
	return 0;
}

/* func fatalpanic(msgs *_panic): nobody recovers, the program ends */
SEC("uprobe")
int gr_fatal(struct pt_regs *ctx)
{
	return server_stop(ctx, F_PANIC);
}

/* func Goexit() */
SEC("uprobe")
int gr_goexit(struct pt_regs *ctx)
{
	return server_stop(ctx, F_GOEXIT);
}

/* func newClientStream(ctx context.Context, desc *StreamDesc, cc *ClientConn, method string,
 * opts ...CallOption) (ClientStream, error)   AX BX ctx, CX desc, DI cc, SI R8 method */
SEC("uprobe")
int gr_call(struct pt_regs *ctx)
{
	return client_start(ctx);
}

/* the closure checkForStreamQuota of (*http2Client).NewStream; DX its captured words */
SEC("uprobe")
int gr_stream(struct pt_regs *ctx)
{
	return client_stream(ctx);
}

/* in func (l *loopyWriter) originateStream, since 1.83 clientHeaderHandler, at the call of
 * (l *loopyWriter) writeHeader(streamID uint32, endStream bool, hf []hpack.HeaderField, ...)
 * AX l, BX streamID, CX endStream, DI SI R8 hf */
SEC("uprobe")
int gr_encode(struct pt_regs *ctx)
{
	struct tr_who w;

	return who_runs(&w, ctx) ? write_begins(ctx, &w) : 0;
}

/* behind that call: the frame is in the connection's buffer */
SEC("uprobe")
int gr_write(struct pt_regs *ctx)
{
	return write_ends(ctx);
}

/* in func (cs *clientStream) finish(err error), once for each call, at its call of
 * func (a *csAttempt) finish(err error)   AX a, BX CX err */
SEC("uprobe")
int gr_finish(struct pt_regs *ctx)
{
	return client_finish(ctx);
}

/* in func invoke, where newClientStream has failed */
SEC("uprobe")
int gr_no_call(struct pt_regs *ctx)
{
	return client_fail(ctx, __builtin_offsetof(struct gr_exe, no_call));
}

/* in func newClientStreamWithParams, where (*clientStream).withRetry has failed */
SEC("uprobe")
int gr_no_stream(struct pt_regs *ctx)
{
	return client_fail(ctx, __builtin_offsetof(struct gr_exe, no_stream));
}

/* in func newClientStreamWithParams, where (*clientStream).newAttemptLocked has failed */
SEC("uprobe")
int gr_no_attempt(struct pt_regs *ctx)
{
	return client_fail(ctx, __builtin_offsetof(struct gr_exe, no_attempt));
}

/* in func newClientStream, where (*ClientConn).waitForResolvedAddrs has failed */
SEC("uprobe")
int gr_no_addrs(struct pt_regs *ctx)
{
	return client_fail(ctx, __builtin_offsetof(struct gr_exe, no_addrs));
}

char LICENSE[] SEC("license") = "GPL";

/* Keep what user space shares in the object's BTF. */
const enum grpc_event_type *keep_type __attribute__((unused));
const enum gr_flag *keep_flag __attribute__((unused));
const enum gr_str *keep_str __attribute__((unused));
const enum gr_check *keep_check __attribute__((unused));
const struct grpc_event *keep_event __attribute__((unused));
