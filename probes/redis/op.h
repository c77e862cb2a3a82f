/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * op.h - one Redis command, pipeline or transaction in flight.
 */
#ifndef RD_OP_H
#define RD_OP_H

#include "../../bpf/lib/call.h"
#include "../../bpf/lib/depth.h"
#include "../../bpf/lib/goerr.h"

#define TAIL_CAP 1024
#define STR_MAX  255 /* bytes of one string; longer ones are cut and marked */
#define MAX_CMDS 16  /* commands of a batch whose names are read */
#define MAX_ARGS 16  /* arguments of a command whose values are read, if at all */

/* reflect.Kind in abi.Type.Kind_: offset and values are the same in Go 1.18 to 1.27. */
#define TYPE_KIND   23
#define KIND_MASK   31
#define KIND_STRING 24
#define KIND_SLICE  23
#define KIND_FLOAT  14 /* float64; the integers are 2 to 12 */

/* 1: values of arguments are read (full query text). */
const volatile __u8 cfg_values = 0;

enum redis_event_type {
	RD_CALL = 1,
	RD_POOL = 2, /* nothing was done; a pool of redigo's was seen: pool[1] */
};

enum rd_flag {
	F_ERROR = 1 << 0,
	F_BATCH = 1 << 1, /* batch holds the number of commands */
	F_DB = 1 << 2,    /* db is known */
};

enum rd_check {
	CHECK_OPTIONS = 2,
	CHECK_ARGS = 3,
};

enum rd_lib {
	LIB_V8 = 0,
	LIB_V9 = 1,
	LIB_REDIGO = 2,
	LIBS = 3,
};

enum rd_str {
	S_ADDR = 0, /* host:port as it was configured */
	S_ERR,
	S_NAME0,                     /* names of the commands */
	S_ARG0 = S_NAME0 + MAX_CMDS, /* values of the first one's arguments */
	S_COUNT = S_ARG0 + MAX_ARGS,
};

struct redis_event {
	struct tr_call call;
	struct tr_errs err;
	/* go-redis: baseClient.connPool, itab and data; 0 if not known. redigo: its *conn, 0. */
	__u64 pool[2];
	__s32 db;
	__u32 batch;
	__u32 lib;
	/* redigo, which does not know where a connection leads: its remote address, and what, with
	 * its *conn, tells connections apart, the local port. */
	__u8 peer[16];
	__u32 peer_len; /* 4, 16; 0: not known */
	__u16 peer_port, local_port;
	__u32 n_args[MAX_CMDS];  /* words of each command, its name included */
	__u8 arg_kind[MAX_ARGS]; /* reflect.Kind of what str[S_ARG0 + i] holds */
	struct tr_str str[S_COUNT];
	__u8 tail[TAIL_CAP + STR_MAX + 1];
};
#define HEAD __builtin_offsetof(struct redis_event, tail)

struct rd_op {
	struct redis_event ev;
	__u64 depth;  /* of the goroutine's stack at the start */
	__u64 cmds;   /* batch: where its commands are */
	__u32 n_cmds; /* batch: how many; redigo: replies that are outstanding */
	__s32 tries;  /* attempts that are left */
	/* scratch from here on */
	struct go_str s;
	__u64 iface[2];
};

const struct rd_op rd_zero = {};

/* Operations in flight. Key: tgid, goid. Inserted at the start, closed at the end and kept
 * for the goroutine's next one (call.h). User space sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct rd_op);
} rd_ops SEC(".maps");

/* redigo's pools that user space was told of. Key: tgid, *Pool; value: the program's epoch.
 * LRU. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, __u32);
} rd_pools SEC(".maps");

/* Offsets and results of one library in one executable. */
struct rd_libexe {
	__u16 opt;                           /* baseClient.opt */
	__u16 opt_addr, opt_db, opt_retries; /* Options */
	__u16 conn_pool;                     /* baseClient.connPool, OFF_NONE if not known */
	__u16 cmd_args, cmd_err;             /* baseCmd, which every command begins with */
	__u16 conn_pending, conn_err;        /* redigo's conn */
	__u16 conn_net;                      /* conn.conn, OFF_NONE if not known */
	__u16 tls_conn, conn_fd;             /* tls.Conn.conn, net.conn.fd */
	__u16 fd_laddr, fd_raddr;            /* netFD.laddr, raddr: the data of each */
	__u16 addr_ip, addr_port;            /* TCPAddr */
	__u8 sane;                           /* set here */
	__u8 pad[3];
	__s32 err_name; /* redigo: nameOff of its Error, 0 = not there */
	/* Of *net.TCPConn, *tls.Conn, 0 = not there, or the offsets are not known. */
	__s32 tcp_name, tls_name;
	struct go_loc end[3];          /* whether to try again, error type, error data */
	struct go_loc batch_end[2][2]; /* error type, data: pipeline, transaction */
	struct go_loc reply[2][4];     /* redigo: reply type, data; error type, data */
};

struct rd_exe {
	struct rd_libexe lib[LIBS];
};

/* Index: executable. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_EXES);
	__type(key, __u32);
	__type(value, struct rd_exe);
} rd_exes SEC(".maps");

static __always_inline struct rd_libexe *lib_of(struct tr_who *w, __u32 lib)
{
	struct rd_exe *e = bpf_map_lookup_elem(&rd_exes, &w->proc->exe_id);

	return e ? &e->lib[lib] : NULL;
}

static __noinline int put_str(struct rd_op *op, __u32 i, __u64 ptr, __u64 len)
{
	if (i >= S_COUNT)
		return 0;
	return call_put(&op->ev.call, op->ev.tail, &op->ev.str[i], ptr, len, TAIL_CAP, STR_MAX);
}

/* Append the Go string whose header is at addr; false when it cannot be read. */
static __noinline int put_gostr(struct rd_op *op, __u32 i, __u64 addr)
{
	if (bpf_probe_read_user(&op->s, sizeof(op->s), (void *)addr)) {
		count_lost(probe_id, LOST_READ);
		return 0;
	}
	return put_str(op, i, op->s.ptr, op->s.len);
}

/* Append the value in the interface at addr as argument i. */
static __noinline int put_arg(struct rd_op *op, __u32 i, __u64 addr)
{
	__u8 kind;

	if (i >= MAX_ARGS || bpf_probe_read_user(op->iface, sizeof(op->iface), (void *)addr))
		return 0;
	if (!op->iface[0])
		return 0;
	kind = read_u8(op->iface[0] + TYPE_KIND) & KIND_MASK;
	op->ev.arg_kind[i] = kind;
	if (kind == KIND_STRING || kind == KIND_SLICE)
		return put_gostr(op, S_ARG0 + i, op->iface[1]);
	if (kind >= 2 && kind <= KIND_FLOAT)
		return put_str(op, S_ARG0 + i, op->iface[1], 8);
	return 0;
}

static __noinline int put_args(struct rd_op *op, __u64 args, __u32 n)
{
	for (__u32 i = 0; i < MAX_ARGS; i++) {
		if (i >= n)
			break;
		put_arg(op, i, args + i * 16);
	}
	return 0;
}

/* Read what command i (args: its []interface{}) is: its name and number of words. */
static __noinline int put_cmd(struct rd_op *op, __u32 i, __u64 args)
{
	__u64 first;

	if (i >= MAX_CMDS)
		return 0;
	if (bpf_probe_read_user(&op->s, sizeof(op->s), (void *)args)) {
		count_lost(probe_id, LOST_READ);
		return 0;
	}
	op->ev.n_args[i] = op->s.len;
	first = op->s.ptr;
	if (!op->s.len)
		return 1;
	if (cfg_values && !i && !(op->ev.call.flags & F_BATCH))
		put_args(op, first + 16, op->s.len - 1);
	if (bpf_probe_read_user(op->iface, sizeof(op->iface), (void *)first))
		return 0;
	if (!op->iface[0] || (read_u8(op->iface[0] + TYPE_KIND) & KIND_MASK) != KIND_STRING)
		return 1;
	return put_gostr(op, S_NAME0 + i, op->iface[1]);
}

static __noinline int put_error(struct rd_op *op, struct tr_goexe *ge, __u64 itab, __u64 data)
{
	op->ev.call.flags |= F_ERROR;
	err_chain(&op->ev.err, ge, op->ev.call.hdr.exe_id, itab, data);
	if (err_has_text(&op->ev.err))
		put_str(op, S_ERR, op->ev.err.raw[0], op->ev.err.raw[1]);
	return 0;
}

/* Whether a call at this depth is made by one that is open: a new connection greets
 * the server below the command that needed it. */
static __always_inline bool nested(struct tr_who *w, __u64 depth)
{
	struct rd_op *op = call_open(&rd_ops, w);

	return op && depth > op->depth && bpf_ktime_get_ns() - op->ev.call.start_ns < NESTED_NS;
}

/* The open operation that this place in the code is the end of, or NULL. */
static __always_inline struct rd_op *ending(struct tr_who *w, struct pt_regs *ctx)
{
	struct rd_op *op = call_open(&rd_ops, w);

	return op && go_depth(ctx) <= op->depth ? op : NULL;
}

/* The entry of a call that begins now; NULL when there is no room for it, or it is neither
 * to be recorded nor to be counted. */
static __noinline struct rd_op *begin(struct tr_who *w, __u64 g, __u64 context)
{
	struct rd_op *op;

	if (!w || !w->proc || !w->ge)
		return NULL;
	op = call_again(&rd_ops, &rd_zero, w, g, context, HEAD);
	if (op)
		op->tries = 0;
	return op;
}

static __always_inline void drop(struct tr_who *w, struct rd_op *op)
{
	call_away(&rd_ops, &w->key, &op->ev.call);
}

static __always_inline void finish(struct tr_who *w, struct rd_op *op)
{
	op->ev.call.end_ns = bpf_ktime_get_ns();
	call_emit(&op->ev.call, RD_CALL, HEAD, TAIL_CAP + STR_MAX);
	drop(w, op);
}

#endif
