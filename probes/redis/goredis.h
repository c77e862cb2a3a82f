/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * goredis.h - github.com/go-redis/redis/v8 and github.com/redis/go-redis/v9. A command:
 *   start  (*baseClient)._process, first attempt
 *   end    in its caller, the branch after it: done, or to be tried again
 * A pipeline or transaction (whose first command is MULTI and whose last is EXEC):
 *   start  (*baseClient)._generalProcessPipeline or the v9 functions of that kind
 *   end    in its caller, the branch after it
 */
#ifndef RD_GOREDIS_H
#define RD_GOREDIS_H

#include "op.h"

/* Address, database and retries of the client at c; false when they are not sane. */
static __noinline int put_options(struct rd_op *op, struct rd_libexe *e, __u64 c)
{
	__u64 opt = read_u64(c + e->opt);

	put_gostr(op, S_ADDR, opt + e->opt_addr);
	op->ev.db = read_u32(opt + e->opt_db);
	op->tries = read_u64(opt + e->opt_retries);
	op->ev.call.flags |= F_DB;
	if (e->conn_pool != OFF_NONE)
		bpf_probe_read_user(op->ev.pool, sizeof(op->ev.pool), (void *)(c + e->conn_pool));
	if (e->sane)
		return 1;
	if (!opt || !op->ev.str[S_ADDR].len || op->ev.db < 0 || op->ev.db > 1 << 20 ||
	    op->tries < -1 || op->tries > 1 << 20) {
		call_unsane(&op->ev.call, CHECK_OPTIONS);
		return 0;
	}
	return 1;
}

/* func (c *baseClient) _process(ctx context.Context, cmd Cmder, attempt int, ...)
 * AX c, BX CX ctx, DI SI cmd, R8 attempt */
static __always_inline int cmd_start(struct pt_regs *ctx, __u32 lib)
{
	struct tr_who w;
	struct rd_libexe *e;
	struct rd_op *op;
	__u64 depth;

	if (!who_runs(&w, ctx))
		return 0;
	e = lib_of(&w, lib);
	if (!e)
		return 0;
	depth = go_depth(ctx);
	if (nested(&w, depth))
		return 0;
	if (go_reg(ctx, 5)) { /* a later attempt of the call that is open */
		op = call_open(&rd_ops, &w);
		if (op && op->depth == depth)
			return 0;
	}
	op = begin(&w, GO_G(ctx), go_reg(ctx, 2));
	if (!op)
		return 0;
	op->depth = depth;
	op->ev.lib = lib;
	if (put_options(op, e, GO_ARG0(ctx))) {
		put_cmd(op, 0, go_reg(ctx, 4) + e->cmd_args);
		if (e->sane || op->ev.n_args[0] < 1 << 20) {
			e->sane = 1;
			return 0;
		}
		call_unsane(&op->ev.call, CHECK_ARGS);
	}
	drop(&w, op);
	return 0;
}

static __always_inline int cmd_end(struct pt_regs *ctx, __u32 lib)
{
	struct tr_who w;
	struct rd_libexe *e;
	struct rd_op *op;
	__u64 itab;

	if (!who_runs(&w, ctx))
		return 0;
	e = lib_of(&w, lib);
	op = ending(&w, ctx);
	if (!e || !op)
		return 0;
	itab = go_loc_read(ctx, &e->end[1]);
	if (itab) {
		/* a bool: only the register's low byte counts */
		if ((go_loc_read(ctx, &e->end[0]) & 0xff) && op->tries-- > 0)
			return 0;
		put_error(op, w.ge, itab, go_loc_read(ctx, &e->end[2]));
	}
	finish(&w, op);
	return 0;
}

static __noinline int put_batch(struct rd_op *op, struct rd_libexe *e)
{
	for (__u32 i = 0; i < MAX_CMDS; i++) {
		if (i >= op->n_cmds)
			break;
		put_cmd(op, i, read_u64(op->cmds + i * 16 + 8) + e->cmd_args);
	}
	return 0;
}

/* func (c *baseClient) generalProcessPipeline(ctx context.Context, cmds []Cmder, ...)
 * AX c, BX CX ctx, DI SI R8 cmds */
static __always_inline int batch_start(struct pt_regs *ctx, __u32 lib)
{
	struct tr_who w;
	struct rd_libexe *e;
	struct rd_op *op;
	__u64 depth;

	if (!who_runs(&w, ctx))
		return 0;
	e = lib_of(&w, lib);
	if (!e)
		return 0;
	depth = go_depth(ctx);
	if (nested(&w, depth))
		return 0;
	op = begin(&w, GO_G(ctx), go_reg(ctx, 2));
	if (!op)
		return 0;
	op->depth = depth;
	op->ev.lib = lib;
	op->cmds = go_reg(ctx, 3);
	op->n_cmds = op->ev.batch = go_reg(ctx, 4);
	op->ev.call.flags |= F_BATCH;
	if (put_options(op, e, GO_ARG0(ctx)))
		put_batch(op, e);
	else
		drop(&w, op);
	return 0;
}

/* Whether the error with this data is redis.Nil, "redis: nil": there is no such key. */
static __noinline int is_nil(struct rd_op *op, __u64 data)
{
	if (bpf_probe_read_user(&op->s, sizeof(op->s), (void *)data) || op->s.len != 10)
		return 0;
	return read_u64(op->s.ptr) == 0x6e203a7369646572 /* redis: n */ &&
	       read_u64(op->s.ptr + 2) == 0x6c696e203a736964 /* dis: nil */;
}

/* The first error that one of the batch's commands was given, but for missing keys. */
static __noinline int batch_error(struct rd_op *op, struct rd_libexe *e, struct tr_goexe *ge)
{
	for (__u32 i = 0; i < 4 * MAX_CMDS; i++) {
		if (i >= op->n_cmds)
			break;
		bpf_probe_read_user(op->iface, sizeof(op->iface),
				    (void *)(read_u64(op->cmds + i * 16 + 8) + e->cmd_err));
		if (op->iface[0] && !is_nil(op, op->iface[1]))
			return put_error(op, ge, op->iface[0], op->iface[1]);
	}
	return 0;
}

static __always_inline int batch_end(struct pt_regs *ctx, __u32 lib, __u32 tx)
{
	struct tr_who w;
	struct rd_libexe *e;
	struct rd_op *op;
	__u64 itab, data;

	if (!who_runs(&w, ctx))
		return 0;
	e = lib_of(&w, lib);
	op = ending(&w, ctx);
	if (!e || !op || !(op->ev.call.flags & F_BATCH))
		return 0;
	itab = go_loc_read(ctx, &e->batch_end[tx][0]);
	data = go_loc_read(ctx, &e->batch_end[tx][1]);
	if (itab && !is_nil(op, data)) /* v9 returns the first command's error */
		put_error(op, w.ge, itab, data);
	else
		batch_error(op, e, w.ge);
	finish(&w, op);
	return 0;
}

#endif
