//go:build ignore
//  SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * mongodriver - commands of the official MongoDB driver for Go, v1 and v2, by the bytes
 * that it writes and reads; above TLS, below retries: every attempt is an operation.
 *   start   in (*connection).writeWireMessage, at the call of write
 *   end     in (*connection).readWireMessage, the branch after read
 *   or      in writeWireMessage, at transformNetworkError: the write has failed
 *   or      in (*Operation).moreToComeRoundTrip, after the write: no reply is wanted
 * A driver's goroutine writes and reads one command at a time, so the goroutine is the
 * key. Taken along are the first bytes of the command and of its reply, as they are on
 * the wire; user space parses them. What lies beyond is only counted (documents).
 *
 * Lost by design: the number of documents past MAX_DOCS.
 * Minimum kernel: 5.10. Maps: mg_ops, mg_exes; tr_*.
 */
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
#define REPLY_CAP   (END_CAP + END_MAX) /* or the text of an error */
#define TAIL_MAX    (REPLY_CAP + REPLY_MAX)
#define MAX_DOCS    1000

/* https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/ */
#define HEADER_LEN    16
#define OP_REPLY      1
#define OP_QUERY      2004
#define OP_COMPRESSED 2012
#define OP_MSG        2013
#define MSG_BODY      21 /* header, flags, kind 0 */

enum mongo_event_type {
	MG_COMMAND = 1,
};

enum mg_flag {
	F_NO_REPLY = 1 << 0, /* the command asks for none */
	F_FAILED = 1 << 1,   /* err holds the network's error */
};

enum mg_check {
	CHECK_MESSAGE = 2, /* what is written is no message of the wire protocol */
	CHECK_ADDRESS = 3, /* connection.addr */
};

struct mongo_event {
	struct tr_call call;
	struct tr_errs err;
	__u32 request_len, reply_len; /* of the whole messages, bytes */
	/* Documents in a command's sequence and in a reply's batch, counted only of
	 * messages that are longer than what is taken along; -1 unknown. */
	__s32 sent, got;
	struct tr_str addr, request, end, reply, text;
	__u32 pad;
	__u64 pool; /* *topology.pool of the connection, 0 if not known */
	__u8 tail[TAIL_MAX];
};

struct mg_op {
	struct mongo_event ev;
	__u8 head[64]; /* scratch: first bytes of a message */
};

/* One major version's part. */
struct mg_driver {
	__u16 addr; /* connection.addr */
	__u16 pool; /* connection.pool, OFF_NONE if not known */
	__u8 sane;  /* set here */
	__u8 pad[3];
	struct go_loc end[7]; /* bytes, length, capacity, text (2), error (2) */
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

/* Commands in flight. Key: tgid, goid. Inserted when a command is written; closed when
 * its reply is read or the connection fails, and kept for the goroutine's next command,
 * because inserting and deleting are dear, unless the map is half full. Deleted by the
 * agent when the process exits, or when a closed one has not been used for a while. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct mg_op);
} mg_ops SEC(".maps");

/* The template of new entries. */
const struct mg_op mg_zero = {};

/* The entry of a command that is written now; NULL when there is no room for it, or it is
 * neither to be recorded nor to be counted. */
static __noinline struct mg_op *begin(struct tr_who *w, __u64 g, __u64 context)
{
	if (!w || !w->proc || !w->ge)
		return NULL;
	return call_again(&mg_ops, &mg_zero, w, g, context, offsetof(struct mongo_event, tail));
}

static __always_inline struct mg_op *open_op(struct tr_who *w)
{
	return call_open(&mg_ops, w);
}

/* How many documents are at p up to end, one behind the other or, keyed, as elements of
 * an array; -1 when it is not documents only, or more than MAX_DOCS. */
static __noinline int count_docs(__u64 p, __u64 end, __u32 keyed)
{
	for (int i = 0; i <= MAX_DOCS; i++) {
		__u32 key = 0, len = 0;

		if (p >= end)
			return i;
		if (keyed) /* type, digits of the index, NUL */
			key = i < 10 ? 3 : i < 100 ? 4 : i < 1000 ? 5 : 6;
		if (bpf_probe_read_user(&len, sizeof(len), (void *)(p + key)))
			return -1;
		if (len < 5 || len > end - p)
			return -1;
		p += key + len;
	}
	return -1;
}

static __always_inline __u32 u32_at(const __u8 *b)
{
	return b[0] | b[1] << 8 | b[2] << 16 | (__u32)b[3] << 24;
}

/* Documents of the sequence behind the body of the OP_MSG at wm. */
static __noinline int count_sent(struct mg_op *op, __u64 wm, __u64 len)
{
	__u32 body = u32_at(&op->head[MSG_BODY]);
	__u64 at = wm + MSG_BODY + body, end;
	__u8 *b = op->head;

	if (u32_at(&op->head[12]) != OP_MSG || body > len - MSG_BODY)
		return -1;
	if (bpf_probe_read_user(b, 16, (void *)at) || b[0] != 1)
		return -1;
	end = at + 1 + u32_at(&b[1]);
	if (end > wm + len)
		return -1;
	at += 5;
	switch (b[5]) {
	case 'd': /* documents, deletes */
		at += b[6] == 'o' ? 10 : 8;
		break;
	case 'u': /* updates */
		at += 8;
		break;
	case 'o': /* ops of bulkWrite */
		at += 4;
		break;
	default:
		return -1;
	}
	return count_docs(at, end, 0);
}

/* Documents of the batch with which the reply at wm begins:
 * { cursor: { firstBatch: [...] or nextBatch: [...] */
static __noinline int count_got(struct mg_op *op, __u64 wm, __u64 len)
{
	__u8 *b = op->head;
	__u64 at;

	if (bpf_probe_read_user(b, 56, (void *)wm) || u32_at(&b[12]) != OP_MSG || b[20] != 0)
		return -1;
	if (b[25] != 3 || b[26] != 'c' || b[27] != 'u' || b[32] || b[37] != 4)
		return -1;
	if (b[38] == 'f' && !b[48])
		at = 49;
	else if (b[38] == 'n' && !b[47])
		at = 48;
	else
		return -1;
	b += at;
	if (u32_at(b) > len - at)
		return -1;
	return count_docs(wm + at + 4, wm + at + u32_at(b) - 1, 1);
}

static __always_inline bool is_message(const struct mg_op *op, __u64 len)
{
	__u32 opcode = u32_at(&op->head[12]);

	return u32_at(op->head) == len &&
	       (opcode == OP_MSG || opcode == OP_COMPRESSED || opcode == OP_QUERY);
}

static __always_inline void finish(struct mg_op *op, struct tr_gokey *key)
{
	op->ev.call.end_ns = bpf_ktime_get_ns();
	call_emit(&op->ev.call, MG_COMMAND, offsetof(struct mongo_event, tail), TAIL_MAX);
	call_away(&mg_ops, key, &op->ev.call);
}

static __noinline int fail(struct mg_op *op, struct tr_goexe *ge, __u64 itab, __u64 data)
{
	op->ev.call.flags |= F_FAILED;
	err_chain(&op->ev.err, ge, op->ev.call.hdr.exe_id, itab, data);
	if (err_has_text(&op->ev.err))
		call_put(&op->ev.call, op->ev.tail, &op->ev.text, op->ev.err.raw[0],
			 op->ev.err.raw[1], REPLY_CAP, TEXT_MAX);
	return 0;
}

/* The last bytes of a body that is longer than what is taken along: there, behind what
 * the program said, the driver puts the database. */
static __always_inline void put_end(struct mg_op *op, __u64 wm, __u64 len)
{
	__u64 end = (__u64)MSG_BODY + u32_at(&op->head[MSG_BODY]);

	if (u32_at(&op->head[12]) == OP_MSG && end > REQUEST_MAX && end <= len)
		call_put(&op->ev.call, op->ev.tail, &op->ev.end, wm + end - END_MAX, END_MAX,
			 END_CAP, END_MAX);
}

/* The scratch is where an error would be: in a line of memory that is written anyway. */
static __always_inline void put_addr(struct mg_op *op, __u64 addr)
{
	struct go_str *s = (struct go_str *)op->ev.err.raw;

	call_put_gostr(&op->ev.call, op->ev.tail, &op->ev.addr, addr, s, 1, ADDR_MAX);
	s->ptr = s->len = 0;
}

/* Fill an entry from the connection c and what is written to it. 0, or what does not look
 * as expected at the first look at an executable's driver. */
static __noinline int fill(struct mg_op *op, struct mg_driver *d, __u64 c, __u64 wm, __u64 len)
{
	if ((!d->sane || len > REQUEST_MAX) && bpf_probe_read_user(op->head, 32, (void *)wm))
		count_lost(probe_id, LOST_READ);
	put_addr(op, c + d->addr);
	if (!d->sane) {
		if (!is_message(op, len))
			return CHECK_MESSAGE;
		if (!op->ev.addr.len)
			return CHECK_ADDRESS;
		d->sane = 1;
	}
	if (d->pool != OFF_NONE)
		op->ev.pool = read_u64(c + d->pool);
	op->ev.request_len = len;
	op->ev.sent = op->ev.got = -1;
	call_put(&op->ev.call, op->ev.tail, &op->ev.request, wm, len, REQUEST_CAP, REQUEST_MAX);
	if (len > REQUEST_MAX) {
		put_end(op, wm, len);
		op->ev.sent = count_sent(op, wm, len);
	}
	return 0;
}

/* AX c, BX CX ctx, DI SI wm */
static __always_inline int write_start(struct pt_regs *ctx, int major)
{
	struct mg_exe *e;
	struct mg_op *op;
	struct tr_who w;
	__u32 bad;

	if (!who_runs(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&mg_exes, &w.proc->exe_id);
	if (!e)
		return 0;
	op = begin(&w, GO_G(ctx), GO_ARG2(ctx));
	if (!op)
		return 0;
	bad = fill(op, &e->v[major], GO_ARG0(ctx), GO_ARG3(ctx), go_reg(ctx, 4));
	if (bad) {
		call_unsane(&op->ev.call, bad);
		call_away(&mg_ops, &w.key, &op->ev.call);
	}
	return 0;
}

static __always_inline int read_end(struct pt_regs *ctx, int major)
{
	struct mg_exe *e;
	struct mg_op *op;
	struct tr_who w;
	__u64 wm, len, err;

	if (!who_runs(&w, ctx))
		return 0;
	op = open_op(&w);
	if (!op)
		return 0; /* a server that streams its state to the driver's monitor */
	e = bpf_map_lookup_elem(&mg_exes, &w.proc->exe_id);
	if (!e)
		return 0;
	err = go_loc_read(ctx, &e->v[major].end[5]);
	if (err) {
		fail(op, w.ge, err, go_loc_read(ctx, &e->v[major].end[6]));
	} else {
		wm = go_loc_read(ctx, &e->v[major].end[0]);
		len = go_loc_read(ctx, &e->v[major].end[1]);
		op->ev.reply_len = len;
		call_put(&op->ev.call, op->ev.tail, &op->ev.reply, wm, len, REPLY_CAP, REPLY_MAX);
		if (len > REPLY_MAX)
			op->ev.got = count_got(op, wm, len);
	}
	finish(op, &w.key);
	return 0;
}

/* in func (c *connection) writeWireMessage(ctx context.Context, wm []byte) error, at the
 * call of func (c *connection) write(ctx context.Context, wm []byte) error */
SEC("uprobe")
int mg_write_v1(struct pt_regs *ctx)
{
	return write_start(ctx, 0);
}

SEC("uprobe")
int mg_write_v2(struct pt_regs *ctx)
{
	return write_start(ctx, 1);
}

/* in func (c *connection) readWireMessage(ctx context.Context) ([]byte, error), after
 * func (c *connection) read(ctx context.Context) ([]byte, string, error) */
SEC("uprobe")
int mg_read_v1(struct pt_regs *ctx)
{
	return read_end(ctx, 0);
}

SEC("uprobe")
int mg_read_v2(struct pt_regs *ctx)
{
	return read_end(ctx, 1);
}

/* in writeWireMessage, at the call of
 * func transformNetworkError(ctx context.Context, originalError error, used bool) error
 * AX BX ctx, CX DI the error */
SEC("uprobe")
int mg_write_failed(struct pt_regs *ctx)
{
	struct mg_op *op;
	struct tr_who w;

	if (!who_runs(&w, ctx))
		return 0;
	op = open_op(&w);
	if (!op)
		return 0;
	fail(op, w.ge, GO_ARG2(ctx), GO_ARG3(ctx));
	finish(op, &w.key);
	return 0;
}

/* in func (op *Operation) moreToComeRoundTrip(ctx, conn, wm) ([]byte, error), at the call
 * of bsoncore.AppendInt32Element with which it makes up a reply */
SEC("uprobe")
int mg_no_reply(struct pt_regs *ctx)
{
	struct mg_op *op;
	struct tr_who w;

	if (!who_runs(&w, ctx))
		return 0;
	op = open_op(&w);
	if (!op)
		return 0;
	op->ev.call.flags |= F_NO_REPLY;
	finish(op, &w.key);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";

/* Keep the enums that user space shares in the object's BTF. */
const enum mongo_event_type *keep_type __attribute__((unused));
const enum mg_flag *keep_flag __attribute__((unused));
const enum mg_check *keep_check __attribute__((unused));
