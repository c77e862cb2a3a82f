/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * pgx.h - github.com/jackc/pgx/v5 without database/sql; below it, it only says where
 * the server is. Exec:
 *   start  (*Conn).Exec
 *   end    in it, the branch after (*Conn).exec
 * Query, which goes on until its rows are closed:
 *   start  in (*Conn).Query, after getRows
 *   end    in (*baseRows).Close, the branch after (*ResultReader).Close; or fatal
 * Where pgx seems to be there for database/sql only, the ends are spared (spare.go): the
 * first call that is not below it is told to user space, which has them looked at.
 */
#ifndef SQ_PGX_H
#define SQ_PGX_H

#include "op.h"

/* Where the server of the *pgx.Conn at c is. */
static __noinline int put_config(struct sq_op *op, struct sq_exe *e, __u64 c)
{
	__u64 cfg = read_u64(c + e->conn_config) + e->config;

	put_gostr(op, S_HOST, cfg + e->cfg_host);
	put_gostr(op, S_DATABASE, cfg + e->cfg_database);
	op->ev.port = read_u32(cfg + e->cfg_port);
	return 0;
}

/* Below database/sql only the address is of interest. */
static __always_inline int pgx_below(struct sq_op *op, struct sq_exe *e, __u64 c)
{
	if (!op->ev.str[S_HOST].len)
		put_config(op, e, c);
	return 0;
}

/* What pgx sends to see whether a connection lives: "-- ping" or ";". */
static __noinline int is_ping(__u64 text, __u64 len)
{
	return (len == 7 && read_u32(text) == 0x70202d2d) || (len == 1 && read_u8(text) == ';');
}

/* A call that is not below database/sql, where the ends are spared. */
static __noinline int spared(struct sq_op *op, struct tr_gokey *key)
{
	count_lost(probe_id, LOST_UNENDED);
	op->ev.kind = K_NATIVE;
	finish(key, op);
	return 0;
}

/* func (c *Conn) Exec(ctx context.Context, sql string, ...)
 * AX c, BX CX ctx, DI SI sql */
static __always_inline int pgx_exec_start(struct pt_regs *ctx)
{
	struct tr_who w;
	struct sq_exe *e;
	struct sq_op *op;

	if (!who_runs(&w, ctx))
		return 0;
	e = exe_of(&w);
	if (!e)
		return 0;
	op = outer(&w, go_depth(ctx));
	if (op)
		return pgx_below(op, e, GO_ARG0(ctx));
	if (e->spare & SPARE_EXEC && is_ping(go_reg(ctx, 3), go_reg(ctx, 4)))
		return 0;
	op = call_begin(&sq_ops, &sq_zero, &w, GO_G(ctx), go_reg(ctx, 2));
	if (!op)
		return 0;
	op->depth = go_depth(ctx);
	op->ev.call.flags |= F_PGX;
	put_config(op, e, GO_ARG0(ctx));
	put_text(op, go_reg(ctx, 3), go_reg(ctx, 4));
	if (e->spare & SPARE_EXEC)
		spared(op, &w.key);
	return 0;
}

static __always_inline int pgx_exec_end(struct pt_regs *ctx)
{
	struct tr_who w;
	struct sq_exe *e;
	struct sq_op *op;
	__u64 itab;

	if (!who_runs(&w, ctx))
		return 0;
	e = exe_of(&w);
	if (!e)
		return 0;
	if (e->spare & SPARE_EXEC)
		e->spare &= ~SPARE_EXEC;
	op = call_open(&sq_ops, &w);
	if (!op || !(op->ev.call.flags & F_PGX))
		return 0;
	itab = go_loc_read(ctx, &e->pgx_exec_end[2]);
	if (itab) {
		put_error(op, &w, itab, go_loc_read(ctx, &e->pgx_exec_end[3]));
	} else {
		op->ev.call.flags |= F_TAG;
		put_short(op, S_TAG, go_loc_read(ctx, &e->pgx_exec_end[0]),
			  go_loc_read(ctx, &e->pgx_exec_end[1]));
	}
	finish(&w.key, op);
	return 0;
}

/* What the *baseRows at rows says of the connection and the statement. */
static __noinline int put_rows(struct sq_op *op, struct sq_exe *e, __u64 rows)
{
	if (!op || !e)
		return 0;
	put_config(op, e, read_u64(rows + e->rows_conn));
	if (!bpf_probe_read_user(&op->s, sizeof(op->s), (void *)(rows + e->rows_sql)))
		put_text(op, op->s.ptr, op->s.len);
	return 0;
}

/* The key is not the goroutine, whose g is g, but the *baseRows at rows. */
static __noinline int rows_trace(struct sq_op *op, struct sq_exe *e, struct tr_goexe *ge, __u64 g,
				 __u64 rows)
{
	if (!op || !e || !ge)
		return 0;
	op->ev.call.goid = read_u64(g + ge->g_goid);
	op->ev.call.flags |= F_PGX;
	return call_trace(&op->ev.call, ge, g, read_u64(rows + e->rows_ctx + 8));
}

static __always_inline int pgx_query_start(struct pt_regs *ctx, __u32 nth)
{
	struct tr_who w;
	struct sq_exe *e;
	struct sq_op *op;
	__u64 rows;

	if (!who_runs(&w, ctx))
		return 0;
	e = exe_of(&w);
	if (!e)
		return 0;
	rows = go_loc_read(ctx, &e->pgx_rows[nth][0]);
	if (!rows || !w.key.id)
		return 0;
	op = outer(&w, go_depth(ctx));
	if (op)
		return pgx_below(op, e, read_u64(rows + e->rows_conn));
	w.key.id = rows;
	op = call_new(&sq_ops, &sq_zero, &w);
	if (!op)
		return 0;
	if (!rows_trace(op, e, w.ge, GO_G(ctx), rows) && !cfg_count_all) {
		bpf_map_delete_elem(&sq_ops, &w.key);
		return 0;
	}
	put_rows(op, e, rows);
	if (e->spare & SPARE_QUERY)
		spared(op, &w.key);
	return 0;
}

#if defined(__TARGET_ARCH_x86)
/* The receiver of the running method, which takes no argument on the stack: the compiler
 * keeps it where the ABI has room for it, the first word above the return address. Where
 * it is not there, what is read is the key of no operation. */
#define GO_RECEIVER(ctx) read_u64((ctx)->bp + 16)
#else
#define GO_RECEIVER(ctx) 0 /* user space attaches no such program */
#endif

/* in func (rows *baseRows) Close(), after (*ResultReader).Close() (CommandTag, error) */
static __always_inline int pgx_rows_close(struct pt_regs *ctx)
{
	struct tr_who w;
	struct sq_exe *e;
	struct sq_op *op;
	__u64 itab;

	if (!who_runs(&w, ctx))
		return 0;
	e = exe_of(&w);
	if (!e)
		return 0;
	if (e->spare & SPARE_QUERY)
		e->spare &= ~SPARE_QUERY;
	w.key.id = GO_RECEIVER(ctx);
	op = call_open(&sq_ops, &w);
	if (!op)
		return 0;
	itab = go_loc_read(ctx, &e->pgx_close[2]);
	if (itab) {
		put_error(op, &w, itab, go_loc_read(ctx, &e->pgx_close[3]));
	} else {
		op->ev.call.flags |= F_TAG;
		put_short(op, S_TAG, go_loc_read(ctx, &e->pgx_close[0]),
			  go_loc_read(ctx, &e->pgx_close[1]));
	}
	finish(&w.key, op);
	return 0;
}

/* Offsets in pgx.baseRows { typeMap; resultReader; values; commandTag; err: the same in
 * pgx 5.0 to 5.12. */
#define ROWS_READER 8
#define ROWS_ERR    56

/* func (rows *baseRows) fatal(err error)   AX rows, BX CX err
 * or func (rows *baseRows) Close()   AX rows, which it calls with rows.err set; without a
 * reader nothing will be read. Within Close rows may have left AX. */
static __always_inline int pgx_rows_fatal(struct pt_regs *ctx)
{
	struct tr_who w;
	struct sq_exe *e;
	struct sq_op *op;

	if (!who_runs(&w, ctx))
		return 0;
	e = exe_of(&w);
	w.key.id = GO_ARG0(ctx);
	op = call_open(&sq_ops, &w);
	if (!op && e && e->fatal_is_close) {
		w.key.id = GO_RECEIVER(ctx);
		op = call_open(&sq_ops, &w);
	}
	if (!e || !op)
		return 0;
	op->s.ptr = GO_ARG1(ctx);
	op->s.len = GO_ARG2(ctx);
	if (e->fatal_is_close) {
		bpf_probe_read_user(&op->s, sizeof(op->s), (void *)(w.key.id + ROWS_ERR));
		if (!op->s.ptr && read_u64(w.key.id + ROWS_READER))
			return 0;
	}
	if (op->s.ptr)
		put_error(op, &w, op->s.ptr, op->s.len);
	finish(&w.key, op);
	return 0;
}

#endif
