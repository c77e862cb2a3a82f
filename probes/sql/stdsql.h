/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * stdsql.h - database/sql with any driver. An operation is what a driver is asked for:
 *   start  ctxDriverExec, ctxDriverQuery; a driver that has neither: the preparation
 *   end    in the caller, the branch after the driver's answer
 * A driver that answers "skip" has its statement prepared, and the operation goes on. A
 * statement that the program has prepared is one operation with all that database/sql
 * does for it, a connection, another try:
 *   start  (*Stmt).ExecContext, (*Stmt).QueryContext
 *   end    in it, the branch after the answer to the last try
 * The ends of transactions go from the driver's call to where its answer is looked at.
 *
 * Offsets are the same in Go 1.18 to 1.27 (src/database/sql/sql.go).
 */
#ifndef SQ_STDSQL_H
#define SQ_STDSQL_H

#include "op.h"

#define DB_CONNECTOR 8  /* DB { waitDuration int64; connector driver.Connector */
#define DSN_DRIVER   16 /* dsnConnector { dsn string; driver driver.Driver */
#define STMT_QUERY   8  /* Stmt { db *DB; query string */
#define TX_CTX                                                                                     \
	112 /* Tx { db; closemu; dc; txi; releaseConn; done; keepConnOnRollback;                   \
	     * stmts; cancel; ctx */

/* Bytes 8 to 15 of what driver.ErrSkip and ErrBadConn say: "driver: skip fast-path; ...",
 * "driver: bad connection" */
#define SAID_AT   8
#define SKIP_WORD 0x7361662070696b73ULL
#define BAD_WORD  0x6e6e6f6320646162ULL

/* maxBadConnRetries + 1 */
#define TRIES 3

enum std_how {
	H_SKIP = 1 << 0,  /* the driver may ask for a preparation */
	H_RETRY = 1 << 1, /* after a bad connection there is another try */
	H_ERROR = 1 << 2, /* only an error is the end */
};

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
	struct sq_op *op = begin(w, GO_G(ctx), context);

	if (op) {
		op->depth = go_depth(ctx);
		op->ev.kind = kind;
	}
	return op;
}

/* A statement whose words are in registers text and text + 1; the driver's type is in
 * register driver or else driver + 2. */
static __always_inline int std_begins(struct tr_who *w, struct pt_regs *ctx, __u8 driver,
				      bool other, __u8 text)
{
	struct sq_op *op = std_begin(w, ctx, go_reg(ctx, 1), K_STATEMENT);
	struct sq_exe *e = exe_of(w);

	if (!op || !e)
		return 0;
	if (go_reg(ctx, driver) || !other)
		put_driver(op, w->ge, go_reg(ctx, driver));
	else
		put_driver(op, w->ge, go_reg(ctx, driver + 2));
	if (!e->sane && go_reg(ctx, text + 1) > 1 << 30) {
		call_unsane(&op->ev.call, CHECK_TEXT);
		call_away(&sq_ops, &w->key, &op->ev.call);
		return 0;
	}
	e->sane = 1;
	put_text(op, go_reg(ctx, text), go_reg(ctx, text + 1));
	return 0;
}

static __always_inline int std_start(struct pt_regs *ctx)
{
	struct tr_who w;

	return who_runs(&w, ctx) ? std_begins(&w, ctx, 2, true, 6) : 0;
}

/* At the call of
 * func ctxDriverPrepare(ctx context.Context, ci driver.Conn, query string)
 * AX BX ctx, CX DI ci, SI R8 query
 * which a skip is followed by, or which is all that the driver has. Of the latter the
 * trace is decided on here: of a skip's that is not recorded, a second time. */
static __always_inline int prepare_start(struct pt_regs *ctx)
{
	struct tr_who w;
	struct sq_exe *e;
	struct sq_op *op;

	if (!who_runs(&w, ctx))
		return 0;
	e = exe_of(&w);
	op = call_open(&sq_ops, &w);
	if (!e || !e->prepares || (op && (op->ev.call.flags & F_SKIPPED)))
		return 0;
	return std_begins(&w, ctx, 2, false, 4);
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

/* func() { err = tx.txi.Commit() } of func (tx *Tx) Commit() error, or rollback. The
 * closure holds tx and &err, in the compiler's order; a Tx begins with its db, and err is
 * nil until the driver has answered. */
static __always_inline int tx_end_start(struct pt_regs *ctx, __u8 kind)
{
	struct tr_who w;
	struct sq_op *op;
	__u64 tx, db;

	if (!who_runs(&w, ctx))
		return 0;
	tx = read_u64(GO_CTX(ctx) + 8);
	db = read_u64(tx);
	if (!db) {
		tx = read_u64(GO_CTX(ctx) + 16);
		db = read_u64(tx);
	}
	op = std_begin(&w, ctx, read_u64(tx + TX_CTX + 8), kind);
	if (op)
		put_db(op, w.ge, db);
	return 0;
}

static __always_inline bool says(__u64 data, __u64 word)
{
	return read_u64(read_u64(data) + SAID_AT) == word;
}

/* The driver's Result, whose words are in s. */
static __noinline int put_result(struct sq_op *op, struct tr_goexe *ge)
{
	op->ev.call.flags |= F_RESULT;
	err_type(&op->ev.result, ge, read_u64(op->s.ptr + 8));
	bpf_probe_read_user(op->ev.result_raw, sizeof(op->ev.result_raw), (void *)op->s.len);
	if (op->ev.result_raw[1] == 1) /* perhaps a slice of one: MySQL's */
		op->ev.code[0] = read_u64(op->ev.result_raw[0]);
	return 0;
}

/* The branch after the driver's answer: at loc_off in the executable's offsets is where
 * its words are, those of the error from number err on. */
static __always_inline int std_end(struct pt_regs *ctx, __u64 loc_off, __u32 err, __u32 how)
{
	struct tr_who w;
	struct go_loc *loc;
	struct sq_op *op;

	if (!who_runs(&w, ctx))
		return 0;
	loc = (void *)exe_of(&w);
	op = call_open(&sq_ops, &w);
	if (!loc || !op || op->ev.call.flags & F_PGX)
		return 0;
	loc = (void *)loc + loc_off;
	op->s.ptr = go_loc_read(ctx, &loc[err]);
	op->s.len = go_loc_read(ctx, &loc[err + 1]);
	if (op->s.ptr) {
		if (how & H_SKIP && says(op->s.len, SKIP_WORD)) {
			op->ev.call.flags |= F_SKIPPED;
			return 0;
		}
		if (how & H_RETRY && says(op->s.len, BAD_WORD) && ++op->tries < TRIES)
			return 0;
		put_error(op, &w, op->s.ptr, op->s.len);
	} else {
		if (how & H_ERROR)
			return 0;
		op->s.ptr = go_loc_read(ctx, &loc[0]);
		op->s.len = go_loc_read(ctx, &loc[1]);
		if (op->s.ptr)
			put_result(op, w.ge);
	}
	finish(&w.key, op);
	return 0;
}
#define STD_END(ctx, field, err, how)                                                              \
	std_end(ctx, __builtin_offsetof(struct sq_exe, field), err, how)

#endif
