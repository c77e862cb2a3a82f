/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * op.h - a command in flight: its record, the map of them, its end.
 */
#ifndef MG_OP_H
#define MG_OP_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "../../bpf/lib/call.h"
#include "../../bpf/lib/goerr.h"

#define ADDR_MAX    127
#define REQUEST_MAX 1023
#define REPLY_MAX   1023
#define TEXT_MAX    127
#define END_MAX     127
/* Where a string of the tail begins at the latest, and one further. */
#define REQUEST_CAP (ADDR_MAX + 1)
#define END_CAP     (REQUEST_CAP + REQUEST_MAX)
#define REPLY_CAP   (END_CAP + END_MAX) /* or an error, and its text behind it */
#define ERRS_LEN    sizeof(struct tr_errs)
#define TAIL_MAX    (REPLY_CAP + HEADER_LEN + REPLY_MAX)
#define MAX_DOCS    1000

/* https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/ */
#define HEADER_LEN    16
#define OP_REPLY      1
#define OP_QUERY      2004
#define OP_COMPRESSED 2012
#define OP_MSG        2013
#define MSG_BODY      21 /* header, flags, kind 0 */

_Static_assert(ERRS_LEN + TEXT_MAX <= HEADER_LEN + REPLY_MAX,
	       "an error and its text in a reply's place");

enum mongo_event_type {
	MG_COMMAND = 1,
};

enum mg_flag {
	F_NO_REPLY = 1 << 0, /* the command asks for none */
	F_FAILED = 1 << 1,   /* errs holds the network's error */
	F_PACKED = 1 << 2,   /* the reply has come and is to be decompressed */
	/* The end behind read is not needed any more, of this major version. */
	F_SPARE_V1 = 1 << 3,
	F_SPARE_V2 = 1 << 4,
	F_NO_HEADER = 1 << 5, /* the reply's header is made up: whose reply it is is not said */
};

enum mg_check {
	CHECK_MESSAGE = 2, /* what is written is no message of the wire protocol */
	CHECK_ADDRESS = 3, /* connection.addr */
};

#define WAIT_OVER 1

struct mongo_event {
	struct tr_call call;
	__u32 reply_len; /* of the whole message, bytes */
	__s32 got;       /* like sent, in a reply's batch */
	struct tr_str reply, text;
	struct tr_str errs; /* struct tr_errs */
	/* From here on nothing is cleared when an entry is used again: it holds for the next
	 * command, or may have been written before that was compressed. */
	struct tr_str addr; /* at the tail's beginning */
	__u64 pool;         /* *topology.pool of the connection, 0 if not known */
	__u64 waited_ns;
	__u32 waits; /* 1: the goroutine has waited for the command's connection, waited_ns */
	__u32 request_len;
	/* Documents in a command's sequence, counted only of messages that are longer than
	 * what is taken along; -1 unknown. */
	__s32 sent;
	struct tr_str request, end;
	/* What follows says nothing to user space. It is here and not behind the tail because
	 * each further page of memory that a command touches costs some 100 ns.
	 * The command that the entry has from before it was compressed: its request id, 0 if
	 * there is none, and where it ends in the tail. */
	__u32 plain_id, plain_tail;
	__u32 epoch; /* tr_proc.epoch of all that is kept */
	/* Whose addr and pool are there: *topology.connection, as of which mg_driver.made_ns. */
	__u64 made_ns, conn;
	/* When a wait for a connection has begun, 0 if there is none, or WAIT_OVER: it is over,
	 * and the next command's. */
	__u64 wait_from;
	__u64 goid; /* whose wait and command before compression are there */
	__u8 tail[TAIL_MAX];
};

struct mg_op {
	struct mongo_event ev;
	union {                /* scratch */
		__u8 head[64]; /* first bytes of a message */
		struct tr_errs errs;
	};
};

/* One major version's part. */
struct mg_driver {
	__u16 addr; /* connection.addr */
	__u16 pool; /* connection.pool, OFF_NONE if not known */
	__u8 ends;  /* what does not come to decodeResult has ends of its own */
	/* Set here. */
	__u8 sane;
	__u8 decodes; /* the program at decodeResult is there */
	__u8 pad;
	/* When a connection was made last, or the agent has put a program where they are made;
	 * 0: none is there. */
	__u64 made_ns;
	struct go_loc end[7]; /* bytes, length, capacity, text (2), error (2) */
	struct go_loc out[5]; /* of DecompressPayload: bytes, length, capacity, error (2) */
	struct go_loc chosen; /* of checkOut's select: the index of the case */
};

struct mg_exe {
	struct mg_driver v[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_EXES);
	__type(key, __u32);
	__type(value, struct mg_exe);
} mg_exes SEC(".maps");

/* Commands in flight. Key: tgid, *runtime.g: the goroutine's id would have to be read. A g is
 * used again, but whose program reads a reply has written a command before on the same goroutine,
 * and so begun the entry anew. Inserted when a command is written; closed when its reply is read
 * or the connection fails, and kept for the g's next command, because inserting and deleting are
 * dear, unless the map is half full. Deleted by the agent when the process exits, or when a
 * closed one has not been used for a while. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct mg_op);
} mg_ops SEC(".maps");

/* The template of new entries. */
const struct mg_op mg_zero = {};

/* who_runs, but for the goroutine's id, in whose place is its g. */
static __noinline int who_is(struct tr_who *w, struct pt_regs *ctx)
{
	w->key.tgid = 0;
	w->key.id = 0;
	w->proc = watched(&w->key);
	if (!w->proc)
		return 0;
	w->ge = bpf_map_lookup_elem(&tr_goexes, &w->proc->exe_id);
	if (!w->ge)
		return 0;
	w->key.id = GO_G(ctx);
	return 1;
}

/* What an entry keeps for a goroutine's next command is for no other goroutine that has the same
 * g now, and nothing is for another program of the process. */
static __always_inline void take_over(struct mongo_event *ev, __u64 goid, __u32 epoch)
{
	if (ev->epoch != epoch) {
		ev->epoch = epoch;
		ev->made_ns = ev->goid = 0;
	}
	if (ev->goid != goid) {
		ev->goid = goid;
		ev->wait_from = 0;
		ev->plain_id = 0;
	}
}

/* The entry of a command that is written now; NULL when there is no room for it, or it is
 * neither to be recorded nor to be counted. It is that of the g's last command, if there is
 * one: call_again. */
static __noinline struct mg_op *begin(struct tr_who *w, __u64 context)
{
	struct mg_op *op;
	struct tr_call *c;

	if (!w || !w->proc || !w->ge)
		return NULL;
	op = bpf_map_lookup_elem(&mg_ops, &w->key);
	if (op) {
		c = &op->ev.call;
		if (c->open && c->epoch == w->proc->epoch)
			count_lost(probe_id, LOST_UNENDED);
		__builtin_memset(c, 0, offsetof(struct mongo_event, addr));
		call_fill(c, w);
	} else {
		op = call_new(&mg_ops, &mg_zero, w);
		if (!op)
			return NULL;
		c = &op->ev.call;
		__sync_fetch_and_add(&call_entries, 1);
	}
	c->goid = go_id(w->ge, w->key.id);
	take_over(&op->ev, c->goid, c->epoch);
	op->ev.waits = op->ev.wait_from == WAIT_OVER;
	op->ev.wait_from = 0;
	if (!c->goid)
		call_unsane(c, CALL_CHECK_G);
	else if (call_trace(c, w->ge, w->key.id, context) || cfg_count_all)
		return op;
	call_away(&mg_ops, &w->key, c);
	return NULL;
}

static __always_inline struct mg_op *open_op(struct tr_who *w)
{
	return call_open(&mg_ops, w);
}

/* The entry of the goroutine's next command. If that may be long in coming, or never comes,
 * a new one takes only of the room for those that are kept: of a command that is under way
 * it shall take none. */
static __noinline struct mg_op *next_op(struct tr_who *w, bool spare)
{
	struct mg_op *op;

	if (!w || !w->proc || !w->ge)
		return NULL;
	op = bpf_map_lookup_elem(&mg_ops, &w->key);
	if (op) {
		struct tr_call *c = &op->ev.call;

		/* The g's last command has not come to its end: nothing of this one is its. */
		if (c->open && c->epoch == w->proc->epoch)
			count_lost(probe_id, LOST_UNENDED);
		c->open = 0;
		c->epoch = w->proc->epoch;
		goto out;
	}
	if (spare && (__s64)(call_entries - call_forgotten) > (__s64)cfg_keep)
		return NULL;
	if (bpf_map_update_elem(&mg_ops, &w->key, &mg_zero, BPF_NOEXIST))
		return NULL; /* what is written will say so */
	__sync_fetch_and_add(&call_entries, 1);
	op = bpf_map_lookup_elem(&mg_ops, &w->key);
	if (!op)
		return NULL;
	call_fill(&op->ev.call, w);
	op->ev.call.open = 0;
out:
	take_over(&op->ev, go_id(w->ge, w->key.id), w->proc->epoch);
	return op;
}

static __always_inline void finish(struct mg_op *op, struct tr_gokey *key)
{
	if (!op->ev.call.end_ns)
		op->ev.call.end_ns = bpf_ktime_get_ns();
	call_emit(&op->ev.call, MG_COMMAND, offsetof(struct mongo_event, tail), TAIL_MAX);
	call_away(&mg_ops, key, &op->ev.call);
}

static __noinline int fail(struct mg_op *op, struct tr_goexe *ge, __u64 itab, __u64 data)
{
	struct mongo_event *ev = &op->ev;
	__u32 off = ev->call.tail_len;

	ev->call.flags |= F_FAILED;
	__builtin_memset(&op->errs, 0, sizeof(op->errs));
	err_chain(&op->errs, ge, ev->call.hdr.exe_id, itab, data);
	if (off >= REPLY_CAP)
		return 0;
	/* verifier(all): a bound that it keeps through spills */
	asm volatile("if %0 <= %1 goto +1; %0 = 0" : "+r"(off) : "i"(REPLY_CAP - 1));
	/* Not an assignment: the tail is not aligned. */
	if (bpf_probe_read_kernel(&ev->tail[off], ERRS_LEN, &op->errs))
		return 0;
	ev->errs.off = off;
	ev->errs.len = ERRS_LEN;
	ev->call.tail_len = off + ERRS_LEN;
	if (err_has_text(&op->errs))
		call_put(&ev->call, ev->tail, &ev->text, op->errs.raw[0], op->errs.raw[1],
			 REPLY_CAP + ERRS_LEN, TEXT_MAX);
	return 0;
}

#endif
