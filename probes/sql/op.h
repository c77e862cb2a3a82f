/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * op.h - one SQL statement, or the begin or end of a transaction, in flight.
 */
#ifndef SQ_OP_H
#define SQ_OP_H

#include "../../bpf/lib/call.h"
#include "../../bpf/lib/depth.h"
#include "../../bpf/lib/goerr.h"

/* Names come before the statement and after it: the tail has room for both. */
#define TEXT_CAP  512
#define TAIL_CAP  3072
#define SHORT_MAX 255  /* bytes of a name */
#define TEXT_MAX  2047 /* bytes of a statement; a longer one is cut and marked */

enum sql_event_type {
	SQ_CALL = 1,
};

enum sq_flag {
	F_ERROR = 1 << 0,
	F_RESULT = 1 << 1,  /* result and result_raw are set */
	F_TAG = 1 << 2,     /* S_TAG is what the server said was done */
	F_PGX = 1 << 3,     /* pgx itself, not database/sql */
	F_CODE = 1 << 4,    /* code holds the words of the error that follow its first two */
	F_SKIPPED = 1 << 5, /* the driver asked for the statement to be prepared */
};

enum sq_kind {
	K_STATEMENT = 0,
	K_BEGIN,
	K_COMMIT,
	K_ROLLBACK,
	K_POOL,   /* nothing was done; a connection pool was seen */
	K_NATIVE, /* the same: a call of pgx whose end is not looked at */
};

/* What of pgx has only its starts looked at, until a program calls it by itself. */
enum sq_spare {
	SPARE_EXEC = 1 << 0,
	SPARE_QUERY = 1 << 1,
};

enum sq_check {
	CHECK_TEXT = 2,
};

enum sq_str {
	S_HOST = 0,
	S_DATABASE,
	S_TAG,
	S_CODE, /* SQLSTATE */
	S_ERR,
	S_TEXT,
	S_COUNT,
};

struct sql_event {
	struct tr_call call;
	struct tr_errs err;
	struct tr_errtype driver;  /* of the driver's connection or connector */
	struct tr_errtype driver2; /* of the driver behind database/sql's own connector */
	struct tr_errtype result;  /* of the driver's Result */
	__u64 result_raw[2];
	__u64 code[2];
	__u64 pool; /* K_POOL: *database/sql.DB, or *pgxpool.Pool with F_PGX */
	__u16 port;
	__u8 kind;
	__u8 pad[5];
	struct tr_str str[S_COUNT];
	__u8 tail[TAIL_CAP + SHORT_MAX + 1];
};
_Static_assert(TEXT_CAP + TEXT_MAX < TAIL_CAP, "names behind the longest statement");
#define HEAD __builtin_offsetof(struct sql_event, tail)

struct sq_op {
	struct sql_event ev;
	__u64 depth; /* of the goroutine's stack at the start */
	__u64 tries; /* that failed */
	/* scratch from here on */
	struct go_str s;
	__u64 word;
};

const struct sq_op sq_zero = {};

/* Operations in flight. Key: tgid, goid; of pgx's queries, which go on until their rows
 * are closed and of which a goroutine may have several, tgid, *baseRows. Inserted at the
 * start, deleted at the end, or closed and kept for the goroutine's next one (call.h); by
 * the agent when the process exits, or when they are so old that their end, rows that are
 * never closed, will not come. User space sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct sq_op);
} sq_ops SEC(".maps");

/* The *DBs that user space was told of. Key: tgid, *DB; value: the program's epoch. LRU. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, __u32);
} sq_pools SEC(".maps");

struct sq_exe {
	__u16 conn_config, config;              /* pgx.Conn.config, ConnConfig.Config */
	__u16 cfg_host, cfg_port, cfg_database; /* pgconn.Config */
	__u16 rows_ctx, rows_sql, rows_conn;    /* pgx.baseRows */
	__u16 pgerr_code;                       /* pgconn.PgError.Code */
	__u8 sane;                              /* set here */
	__u8 fatal_is_close;                    /* 1: (*baseRows).fatal is a part of its callers */
	__u8 prepares; /* 1: every end of a statement that is prepared is seen */
	__u8 spare;    /* enum sq_spare; bits are cleared here */
	__u8 pad[2];
	__s32 pgerr_name, pqerr_name;            /* nameOff of these error types; 0 = not there */
	struct go_loc exec_end[4], query_end[4]; /* value type, data; error type, data */
	struct go_loc stmt_exec_end[4], stmt_query_end[4];
	struct go_loc stmt_exec_conn[5], stmt_query_conn[5]; /* error type, data last */
	struct go_loc skip_exec_end[4], skip_query_end[4];
	struct go_loc prepare_exec_end[4], prepare_query_end[4];
	struct go_loc begin_end[4];
	struct go_loc pgx_exec_end[4]; /* tag pointer, length; error type, data */
	struct go_loc pgx_rows[2][1];
	struct go_loc pgx_close[4];
};

/* Index: executable. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_EXES);
	__type(key, __u32);
	__type(value, struct sq_exe);
} sq_exes SEC(".maps");

static __always_inline struct sq_exe *exe_of(struct tr_who *w)
{
	return bpf_map_lookup_elem(&sq_exes, &w->proc->exe_id);
}

static __noinline int put_short(struct sq_op *op, __u32 i, __u64 ptr, __u64 len)
{
	if (i >= S_COUNT)
		return 0;
	return call_put(&op->ev.call, op->ev.tail, &op->ev.str[i], ptr, len, TAIL_CAP, SHORT_MAX);
}

/* The statement's text; at most two names are before it. */
static __noinline int put_text(struct sq_op *op, __u64 ptr, __u64 len)
{
	return call_put(&op->ev.call, op->ev.tail, &op->ev.str[S_TEXT], ptr, len, TEXT_CAP,
			TEXT_MAX);
}

static __noinline int put_gostr(struct sq_op *op, __u32 i, __u64 addr)
{
	if (bpf_probe_read_user(&op->s, sizeof(op->s), (void *)addr)) {
		count_lost(probe_id, LOST_READ);
		return 0;
	}
	return put_short(op, i, op->s.ptr, op->s.len);
}

/* The error whose interface words are itab, data, with its SQLSTATE where its type is
 * known to have one. */
static __noinline int put_error(struct sq_op *op, struct tr_who *w, __u64 itab, __u64 data)
{
	struct sq_exe *e = exe_of(w);
	__s32 name;

	op->ev.call.flags |= F_ERROR;
	data = err_chain(&op->ev.err, w->ge, op->ev.call.hdr.exe_id, itab, data);
	if (!e || !op->ev.err.n)
		return 0;
	name = op->ev.err.type[(op->ev.err.n - 1) & 3].type_name;
	if (op->ev.err.n > 4)
		return 0;
	if (name == e->pgerr_name && e->pgerr_name)
		return put_gostr(op, S_CODE, data + e->pgerr_code);
	if (name == e->pqerr_name && e->pqerr_name)
		return put_gostr(op, S_CODE, data + 16); /* pq.Error { Severity, Code string */
	op->ev.call.flags |= F_CODE;
	bpf_probe_read_user(op->ev.code, sizeof(op->ev.code), (void *)(data + 16));
	if (err_has_text(&op->ev.err))
		put_short(op, S_ERR, op->ev.err.raw[0], op->ev.err.raw[1]);
	return 0;
}

/* The open operation of a goroutine that makes a call at this depth: a driver's own
 * call below database/sql's. NULL if the call is not within one. */
static __always_inline struct sq_op *outer(struct tr_who *w, __u64 depth)
{
	struct sq_op *op = call_open(&sq_ops, w);

	if (!op || depth <= op->depth || bpf_ktime_get_ns() - op->ev.call.start_ns >= NESTED_NS)
		return NULL;
	return op;
}

/* The entry of a call of database/sql that begins now; NULL when there is no room for it,
 * or it is neither to be recorded nor to be counted. */
static __noinline struct sq_op *begin(struct tr_who *w, __u64 g, __u64 context)
{
	struct sq_op *op;

	if (!w || !w->proc || !w->ge)
		return NULL;
	op = call_again(&sq_ops, &sq_zero, w, g, context, HEAD);
	if (op)
		op->tries = 0;
	return op;
}

static __always_inline void finish(struct tr_gokey *key, struct sq_op *op)
{
	/* pools and rows of pgx have keys of their own, which do not come again */
	if (!(op->ev.call.flags & F_PGX) && op->ev.kind != K_POOL) {
		op->ev.call.end_ns = bpf_ktime_get_ns();
		call_emit(&op->ev.call, SQ_CALL, HEAD, TAIL_CAP + SHORT_MAX);
		call_away(&sq_ops, key, &op->ev.call);
		return;
	}
	call_finish(&sq_ops, key, &op->ev.call, SQ_CALL, HEAD, TAIL_CAP + SHORT_MAX);
}

#endif
