//go:build ignore
// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * redis - commands, pipelines and transactions of Go's Redis clients: go-redis v8 and
 * v9 (goredis.h) and redigo (below). State is one map entry keyed by goroutine; the
 * greeting of a new connection, made below the command that needed it, is no call of
 * its own.
 *
 * Lost by design: subscriptions, which are no calls; go-redis's cluster pipelines,
 * which take another way; names past the 16th command of a batch, errors past the
 * 64th. Redigo's Send is not seen, so of its pipelines the length and the last
 * command are known. Minimum kernel: 5.10. Maps: rd_ops, rd_exes, rd_pools; tr_*.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#include "goredis.h"

SEC("uprobe")
int rd_v8_cmd(struct pt_regs *ctx)
{
	return cmd_start(ctx, LIB_V8);
}

SEC("uprobe")
int rd_v8_cmd_end(struct pt_regs *ctx)
{
	return cmd_end(ctx, LIB_V8);
}

SEC("uprobe")
int rd_v8_batch(struct pt_regs *ctx)
{
	return batch_start(ctx, LIB_V8);
}

SEC("uprobe")
int rd_v8_batch_end(struct pt_regs *ctx)
{
	return batch_end(ctx, LIB_V8, 0);
}

SEC("uprobe")
int rd_v9_cmd(struct pt_regs *ctx)
{
	return cmd_start(ctx, LIB_V9);
}

SEC("uprobe")
int rd_v9_cmd_end(struct pt_regs *ctx)
{
	return cmd_end(ctx, LIB_V9);
}

SEC("uprobe")
int rd_v9_batch(struct pt_regs *ctx)
{
	return batch_start(ctx, LIB_V9);
}

SEC("uprobe")
int rd_v9_batch_end(struct pt_regs *ctx)
{
	return batch_end(ctx, LIB_V9, 0);
}

SEC("uprobe")
int rd_v9_tx_end(struct pt_regs *ctx)
{
	return batch_end(ctx, LIB_V9, 1);
}

/* func (c *conn) DoWithTimeout(readTimeout time.Duration, cmd string, args ...interface{})
 * AX c, BX readTimeout, CX DI cmd, SI R8 R9 args. Without a command it only waits for
 * the replies to those that were sent before. */
SEC("uprobe")
int rd_redigo_do(struct pt_regs *ctx)
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
	op->n_cmds = pending + !!go_reg(ctx, 3);
	if (pending) {
		op->ev.call.flags |= F_BATCH;
		op->ev.batch = op->n_cmds;
	}
	put_str(op, S_NAME0, go_reg(ctx, 2), go_reg(ctx, 3));
	op->ev.n_args[0] = go_reg(ctx, 5) + 1;
	if (cfg_values && !pending)
		put_args(op, go_reg(ctx, 4), go_reg(ctx, 5));
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

SEC("uprobe")
int rd_redigo_reply(struct pt_regs *ctx)
{
	return redigo_reply(ctx, 0);
}

SEC("uprobe")
int rd_redigo_reply2(struct pt_regs *ctx)
{
	return redigo_reply(ctx, 1);
}

/* func (c *conn) fatal(err error) error   AX c, BX CX err
 * The connection's first error is what the others come of: a context that ends closes
 * it, which the goroutine that reads finds out afterwards. */
SEC("uprobe")
int rd_redigo_fatal(struct pt_regs *ctx)
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
SEC("uprobe")
int rd_redigo_pool(struct pt_regs *ctx)
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

char LICENSE[] SEC("license") = "GPL";

/* Keep the enums that user space shares in the object's BTF. */
const enum redis_event_type *keep_type __attribute__((unused));
const enum rd_flag *keep_flag __attribute__((unused));
const enum rd_check *keep_check __attribute__((unused));
const enum rd_lib *keep_lib __attribute__((unused));
const enum rd_str *keep_str __attribute__((unused));
