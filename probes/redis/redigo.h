/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * redigo.h - github.com/gomodule/redigo.
 *   start  DoWithTimeout, which all commands but a pipeline's first ones go through
 *   end    in it, the branch after readReply, once for each reply (ADR 2); or fatal
 * Send is not seen, so of a pipeline the length and the last command are known.
 */
#ifndef RD_REDIGO_H
#define RD_REDIGO_H

#include "op.h"

static __always_inline bool is_conn(struct tr_goexe *ge, __u64 itab, __s32 name)
{
	return itab && name && (__s32)read_u32(read_u64(itab + 8) + ge->type_str) == name;
}

/* Where the connection of redigo's conn at c leads, if it is TCP, with TLS or without. */
static __noinline int put_peer(struct rd_op *op, struct tr_goexe *ge, struct rd_libexe *e, __u64 c)
{
	__u64 fd, addr;

	if (!op || !ge || !e || e->conn_net == OFF_NONE)
		return 0;
	if (bpf_probe_read_user(op->iface, sizeof(op->iface), (void *)(c + e->conn_net)))
		return 0;
	if (is_conn(ge, op->iface[0], e->tls_name) &&
	    bpf_probe_read_user(op->iface, sizeof(op->iface), (void *)(op->iface[1] + e->tls_conn)))
		return 0;
	if (!is_conn(ge, op->iface[0], e->tcp_name))
		return 0;
	fd = read_u64(op->iface[1] + e->conn_fd);
	addr = read_u64(fd + e->fd_raddr);
	if (!addr || bpf_probe_read_user(&op->s, sizeof(op->s), (void *)(addr + e->addr_ip)))
		return 0;
	if (op->s.len == 4)
		bpf_probe_read_user(op->ev.peer, 4, (void *)op->s.ptr);
	else if (op->s.len == 16)
		bpf_probe_read_user(op->ev.peer, 16, (void *)op->s.ptr);
	else
		return 0;
	op->ev.peer_len = op->s.len;
	op->ev.peer_port = read_u32(addr + e->addr_port);
	op->ev.local_port = read_u32(read_u64(fd + e->fd_laddr) + e->addr_port);
	return 0;
}

/* Whether a command is SELECT, whose argument is the number of a database. */
static __noinline int is_select(struct rd_op *op, __u64 name, __u64 len)
{
	op->iface[0] = 0;
	return len == 6 && !bpf_probe_read_user(op->iface, 6, (void *)name) &&
	       (op->iface[0] | 0x202020202020ULL) == 0x7463656c6573ULL;
}

/* func (c *conn) DoWithTimeout(readTimeout time.Duration, cmd string, args ...interface{})
 * AX c, BX readTimeout, CX DI cmd, SI R8 R9 args. Without a command it only waits for
 * the replies to those that were sent before. */
static __always_inline int redigo_do(struct pt_regs *ctx)
{
	struct tr_who w;
	struct rd_libexe *e;
	struct rd_op *op;
	__u64 pending;

	if (!who_runs(&w, ctx))
		return 0;
	e = lib_of(&w, LIB_REDIGO);
	if (!e)
		return 0;
	pending = read_u64(GO_ARG0(ctx) + e->conn_pending);
	if (!pending && !go_reg(ctx, 3))
		return 0;
	op = begin(&w, GO_G(ctx), 0);
	if (!op)
		return 0;
	op->depth = go_depth(ctx);
	op->ev.lib = LIB_REDIGO;
	op->ev.pool[0] = GO_ARG0(ctx);
	op->n_cmds = pending + !!go_reg(ctx, 3);
	if (pending) {
		op->ev.call.flags |= F_BATCH;
		op->ev.batch = op->n_cmds;
	}
	put_str(op, S_NAME0, go_reg(ctx, 2), go_reg(ctx, 3));
	op->ev.n_args[0] = go_reg(ctx, 5) + 1;
	if (cfg_values && !pending)
		put_args(op, go_reg(ctx, 4), go_reg(ctx, 5));
	else if (!pending && go_reg(ctx, 5) && is_select(op, go_reg(ctx, 2), go_reg(ctx, 3)))
		put_arg(op, 0, go_reg(ctx, 4));
	put_peer(op, w.ge, e, GO_ARG0(ctx));
	if (e->sane || (pending < 1 << 20 && op->ev.n_args[0] < 1 << 20)) {
		e->sane = 1;
		return 0;
	}
	call_unsane(&op->ev.call, CHECK_ARGS);
	drop(&w, op);
	return 0;
}

/* In DoWithTimeout, after func (c *conn) readReply() (interface{}, error) */
static __always_inline int redigo_reply(struct pt_regs *ctx, __u32 nth)
{
	struct tr_who w;
	struct rd_libexe *e;
	struct rd_op *op;
	__u64 type;

	if (!who_runs(&w, ctx))
		return 0;
	e = lib_of(&w, LIB_REDIGO);
	op = call_open(&rd_ops, &w);
	if (!e || !op || op->ev.lib != LIB_REDIGO || go_loc_read(ctx, &e->reply[nth][2]))
		return 0; /* an error: fatal comes next */
	type = go_loc_read(ctx, &e->reply[nth][0]);
	if (type && e->err_name && !(op->ev.call.flags & F_ERROR) &&
	    (__s32)read_u32(type + w.ge->type_str) == e->err_name) {
		op->ev.call.flags |= F_ERROR;
		err_type(&op->ev.err.type[0], w.ge, type);
		op->ev.err.n = 1;
		put_gostr(op, S_ERR, go_loc_read(ctx, &e->reply[nth][1]));
	}
	if (op->n_cmds > 1) {
		op->n_cmds--;
		return 0;
	}
	finish(&w, op);
	return 0;
}

/* func (c *conn) fatal(err error) error   AX c, BX CX err
 * The connection's first error is what the others come of: a context that ends closes
 * it, which the goroutine that reads finds out afterwards. */
static __always_inline int redigo_fatal(struct pt_regs *ctx)
{
	struct tr_who w;
	struct rd_libexe *e;
	struct rd_op *op;

	if (!who_runs(&w, ctx))
		return 0;
	e = lib_of(&w, LIB_REDIGO);
	op = call_open(&rd_ops, &w);
	if (!e || !op || op->ev.lib != LIB_REDIGO)
		return 0;
	bpf_probe_read_user(op->iface, sizeof(op->iface), (void *)(GO_ARG0(ctx) + e->conn_err));
	if (!op->iface[0]) {
		op->iface[0] = GO_ARG1(ctx);
		op->iface[1] = GO_ARG2(ctx);
	}
	put_error(op, w.ge, op->iface[0], op->iface[1]);
	finish(&w, op);
	return 0;
}

/* func (p *Pool) dial(ctx context.Context) (Conn, error), once for each connection, and
 * func (p *Pool) GetContext(ctx context.Context) (Conn, error), attached for a moment to
 * programs that run already   AX p */
static __always_inline int redigo_pool(struct pt_regs *ctx)
{
	struct tr_who w;
	struct rd_op *op;

	if (!who_runs(&w, ctx) || !pool_untold(&rd_pools, &w, GO_ARG0(ctx)))
		return 0;
	op = call_new(&rd_ops, &rd_zero, &w);
	if (!op)
		return 0;
	op->ev.lib = LIB_REDIGO;
	op->ev.pool[1] = w.key.id;
	call_finish(&rd_ops, &w.key, &op->ev.call, RD_POOL, HEAD, TAIL_CAP + STR_MAX);
	return 0;
}

#endif
