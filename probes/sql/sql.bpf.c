//go:build ignore
// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * sql - statements and transactions of Go's database/sql (stdsql.h) and of pgx without
 * it (pgx.h). A driver below database/sql makes no operation of its own.
 *
 * Lost by design: a call in which the driver panics; what a database/sql query meets after its
 * first row; statements past 2047 bytes (marked); pgx batches and copies. Minimum kernel: 5.10.
 * Maps: sq_ops, sq_exes; tr_*.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#include "pgx.h"
#include "stdsql.h"

/* func ctxDriverExec(ctx context.Context, execerCtx driver.ExecerContext, execer
 * driver.Execer, query string, ...)   AX BX ctx, CX DI execerCtx, SI R8 execer, R9 R10 query
 * func ctxDriverQuery(...) */
SEC("uprobe")
int sq_std(struct pt_regs *ctx)
{
	return std_start(ctx);
}

SEC("uprobe")
int sq_exec_end(struct pt_regs *ctx)
{
	return STD_END(ctx, exec_end, 2, H_SKIP);
}

SEC("uprobe")
int sq_query_end(struct pt_regs *ctx)
{
	return STD_END(ctx, query_end, 2, H_SKIP);
}

SEC("uprobe")
int sq_prepare(struct pt_regs *ctx)
{
	return prepare_start(ctx);
}

SEC("uprobe")
int sq_prep_exec(struct pt_regs *ctx)
{
	return STD_END(ctx, prepare_exec_end, 2, H_ERROR);
}

SEC("uprobe")
int sq_prep_query(struct pt_regs *ctx)
{
	return STD_END(ctx, prepare_query_end, 2, H_ERROR);
}

SEC("uprobe")
int sq_skip_exec(struct pt_regs *ctx)
{
	return STD_END(ctx, skip_exec_end, 2, 0);
}

SEC("uprobe")
int sq_skip_query(struct pt_regs *ctx)
{
	return STD_END(ctx, skip_query_end, 2, 0);
}

SEC("uprobe")
int sq_stmt(struct pt_regs *ctx)
{
	return stmt_start(ctx);
}

SEC("uprobe")
int sq_stmt_exec(struct pt_regs *ctx)
{
	return STD_END(ctx, stmt_exec_end, 2, H_RETRY);
}

SEC("uprobe")
int sq_stmt_query(struct pt_regs *ctx)
{
	return STD_END(ctx, stmt_query_end, 2, H_RETRY);
}

SEC("uprobe")
int sq_conn_exec(struct pt_regs *ctx)
{
	return STD_END(ctx, stmt_exec_conn, 3, H_RETRY | H_ERROR);
}

SEC("uprobe")
int sq_conn_query(struct pt_regs *ctx)
{
	return STD_END(ctx, stmt_query_conn, 3, H_RETRY | H_ERROR);
}

static __always_inline int tell_pool(struct pt_regs *ctx, __u32 flags)
{
	struct tr_who w;
	struct sq_op *op;

	if (!who_runs(&w, ctx) || !pool_untold(&sq_pools, &w, GO_ARG0(ctx)))
		return 0;
	op = call_new(&sq_ops, &sq_zero, &w);
	if (!op)
		return 0;
	op->ev.kind = K_POOL;
	op->ev.pool = w.key.id;
	op->ev.call.flags |= flags;
	if (!flags)
		put_db(op, w.ge, w.key.id);
	finish(&w.key, op);
	return 0;
}

/* func (db *DB) connectionOpener(ctx context.Context), once in a *DB's life, and
 * func (db *DB) conn(ctx context.Context, strategy connReuseStrategy) (*driverConn, error),
 * attached for a moment to programs that run already   AX db */
SEC("uprobe")
int sq_pool(struct pt_regs *ctx)
{
	return tell_pool(ctx, 0);
}

/* func (p *Pool) backgroundHealthCheck(), once in a *pgxpool.Pool's life, and
 * func (p *Pool) Acquire(ctx context.Context) (*Conn, error), attached likewise   AX p */
SEC("uprobe")
int sq_pgx_pool(struct pt_regs *ctx)
{
	return tell_pool(ctx, F_PGX);
}

/* func ctxDriverBegin(ctx context.Context, opts *TxOptions, ci driver.Conn)
 * AX BX ctx, CX opts, DI SI ci */
SEC("uprobe")
int sq_begin(struct pt_regs *ctx)
{
	struct tr_who w;
	struct sq_op *op;

	if (!who_runs(&w, ctx))
		return 0;
	op = std_begin(&w, ctx, go_reg(ctx, 1), K_BEGIN);
	if (op)
		put_driver(op, w.ge, go_reg(ctx, 3));
	return 0;
}

SEC("uprobe")
int sq_begin_end(struct pt_regs *ctx)
{
	return STD_END(ctx, begin_end, 2, 0);
}

SEC("uprobe")
int sq_commit(struct pt_regs *ctx)
{
	return tx_end_start(ctx, K_COMMIT);
}

SEC("uprobe")
int sq_rollback(struct pt_regs *ctx)
{
	return tx_end_start(ctx, K_ROLLBACK);
}

/* in (*Tx).Commit and rollback, at the call of
 * func Is(err, target error) bool of package errors   AX BX err */
SEC("uprobe")
int sq_tx_end(struct pt_regs *ctx)
{
	struct tr_who w;
	struct sq_op *op;

	if (!who_runs(&w, ctx))
		return 0;
	op = call_open(&sq_ops, &w);
	if (!op || op->ev.kind < K_COMMIT)
		return 0;
	if (GO_ARG0(ctx))
		put_error(op, &w, GO_ARG0(ctx), GO_ARG1(ctx));
	finish(&w.key, op);
	return 0;
}

SEC("uprobe")
int sq_pgx_exec(struct pt_regs *ctx)
{
	return pgx_exec_start(ctx);
}

SEC("uprobe")
int sq_pgx_exec_end(struct pt_regs *ctx)
{
	return pgx_exec_end(ctx);
}

SEC("uprobe")
int sq_pgx_query(struct pt_regs *ctx)
{
	return pgx_query_start(ctx, 0);
}

SEC("uprobe")
int sq_pgx_query2(struct pt_regs *ctx)
{
	return pgx_query_start(ctx, 1);
}

SEC("uprobe")
int sq_pgx_close(struct pt_regs *ctx)
{
	return pgx_rows_close(ctx);
}

SEC("uprobe")
int sq_pgx_fatal(struct pt_regs *ctx)
{
	return pgx_rows_fatal(ctx);
}

char LICENSE[] SEC("license") = "GPL";

/* Keep the enums that user space shares in the object's BTF. */
const enum sql_event_type *keep_type __attribute__((unused));
const enum sq_flag *keep_flag __attribute__((unused));
const enum sq_kind *keep_kind __attribute__((unused));
const enum sq_spare *keep_spare __attribute__((unused));
const enum sq_check *keep_check __attribute__((unused));
const enum sq_str *keep_str __attribute__((unused));
