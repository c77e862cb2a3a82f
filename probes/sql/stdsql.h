/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * stdsql.h - database/sql with any driver. An operation is what a driver is asked for:
 *   start  ctxDriverExec, ctxDriverQuery, (*Stmt).ExecContext, ...
 *   end    in the caller, the branch after the driver's answer
 * and the ends of transactions, from (*Tx).Commit or rollback to where they look at the
 * driver's answer. A driver that answers "skip" has its statement prepared, and the operation goes
 * on.
 *
 * Offsets are the same in Go 1.18 to 1.27 (src/database/sql/sql.go).
 */
#ifndef SQ_STDSQL_H
#define SQ_STDSQL_H

#include "op.h"

#define DB_CONNECTOR 8   /* DB { waitDuration int64; connector driver.Connector */
#define DSN_DRIVER   16  /* dsnConnector { dsn string; driver driver.Driver */
#define STMT_QUERY   8   /* Stmt { db *DB; query string */
#define TX_DONE      64  /* Tx { db; closemu; dc; txi; releaseConn; done */
#define TX_CTX       112 /* ... keepConnOnRollback; stmts; cancel; ctx */

/* driver.ErrSkip's text, "driver: skip fast-path; ...", bytes 8 to 15 */
#define SKIP_AT   8
#define SKIP_WORD 0x7361662070696b73ULL

static __always_inline void put_driver(struct sq_op *op, struct tr_goexe *ge, __u64 itab)
{
	err_type(&op->ev.driver, ge, read_u64(itab + 8));
}

/* What driver a *DB uses, by the type of its connector. */
static __noinline int put_db(struct sq_op *op, struct tr_goexe *ge, __u64 db)
{
	if (bpf_probe_read_user(&op->s, sizeof(op->s), (void *)(db + DB_CONNECTOR)) || !op->s.ptr)
		return 0;
	put_driver(op, ge, op->s.ptr);
	op->word = read_u64(op->s.len + DSN_DRIVER);
	if (op->word)
		err_type(&op->ev.driver2, ge, read_u64(op->word + 8));
	return 0;
}

static __always_inline struct sq_op *std_begin(struct tr_who *w, struct pt_regs *ctx, __u64 context,
					       __u8 kind)
{
	struct sq_op *op = call_begin(&sq_ops, &sq_zero, w, GO_G(ctx), context);

	if (op) {
		op->depth = go_depth(ctx);
		op->ev.kind = kind;
	}
	return op;
}

/* func ctxDriverExec(ctx context.Context, execerCtx driver.ExecerContext, execer
 * driver.Execer, query string, ...)   AX BX ctx, CX DI execerCtx, SI R8 execer, R9 R10 query */
static __always_inline int std_start(struct pt_regs *ctx)
{
	struct tr_who w;
	struct sq_op *op;
	struct sq_exe *e;

	if (!who_runs(&w, ctx))
		return 0;
	op = std_begin(&w, ctx, go_reg(ctx, 1), K_STATEMENT);
	e = exe_of(&w);
	if (!op || !e)
		return 0;
	if (go_reg(ctx, 2))
		put_driver(op, w.ge, go_reg(ctx, 2));
	else
		put_driver(op, w.ge, go_reg(ctx, 4));
	if (!e->sane && go_reg(ctx, 7) > 1 << 30) {
		call_unsane(&op->ev.call, CHECK_TEXT);
		bpf_map_delete_elem(&sq_ops, &w.key);
		return 0;
	}
	e->sane = 1;
	put_text(op, go_reg(ctx, 6), go_reg(ctx, 7));
	return 0;
}

/* func (s *Stmt) ExecContext(ctx context.Context, ...)   AX s, BX CX ctx */
static __always_inline int stmt_start(struct pt_regs *ctx)
{
	struct tr_who w;
	struct sq_op *op;

	if (!who_runs(&w, ctx))
		return 0;
	op = std_begin(&w, ctx, go_reg(ctx, 2), K_STATEMENT);
	if (!op)
		return 0;
	put_db(op, w.ge, read_u64(GO_ARG0(ctx)));
	if (!bpf_probe_read_user(&op->s, sizeof(op->s), (void *)(GO_ARG0(ctx) + STMT_QUERY)))
		put_text(op, op->s.ptr, op->s.len);
	return 0;
}

/* func (tx *Tx) Commit() error, func (tx *Tx) rollback(discardConn bool) error   AX tx
 * One that is over already is not asked for again. */
static __always_inline int tx_end_start(struct pt_regs *ctx, __u8 kind)
{
	struct tr_who w;
	struct sq_op *op;

	if (!who_runs(&w, ctx) || read_u32(GO_ARG0(ctx) + TX_DONE))
		return 0;
	op = std_begin(&w, ctx, read_u64(GO_ARG0(ctx) + TX_CTX + 8), kind);
	if (op)
		put_db(op, w.ge, read_u64(GO_ARG0(ctx)));
	return 0;
}

static __always_inline bool is_skip(__u64 data)
{
	return read_u64(read_u64(data) + SKIP_AT) == SKIP_WORD;
}

/* The driver's Result, whose words are in s. */
static __noinline int put_result(struct sq_op *op, struct tr_goexe *ge)
{
	op->ev.call.flags |= F_RESULT;
	err_type(&op->ev.result, ge, read_u64(op->s.ptr + 8));
	bpf_probe_read_user(op->ev.result_raw, sizeof(op->ev.result_raw), (void *)op->s.len);
	return 0;
}

/* The branch after the driver's answer, whose words are at loc. */
static __always_inline int std_end(struct pt_regs *ctx, __u64 loc_off, bool may_skip)
{
	struct tr_who w;
	struct go_loc *loc;
	struct sq_op *op;

	if (!who_runs(&w, ctx))
		return 0;
	loc = (void *)exe_of(&w);
	op = call_open(&sq_ops, &w);
	if (!loc || !op)
		return 0;
	loc = (void *)loc + loc_off;
	op->s.ptr = go_loc_read(ctx, &loc[2]);
	op->s.len = go_loc_read(ctx, &loc[3]);
	if (op->s.ptr) {
		if (may_skip && is_skip(op->s.len))
			return 0;
		put_error(op, &w, op->s.ptr, op->s.len);
	} else {
		op->s.ptr = go_loc_read(ctx, &loc[0]);
		op->s.len = go_loc_read(ctx, &loc[1]);
		if (op->s.ptr)
			put_result(op, w.ge);
	}
	finish(&w.key, op);
	return 0;
}
#define STD_END(ctx, field, may_skip)                                                              \
	std_end(ctx, __builtin_offsetof(struct sq_exe, field), may_skip)

#endif
