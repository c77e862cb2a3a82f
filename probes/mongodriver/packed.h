/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * packed.h - commands and replies that are compressed. The beginning of such a message may
 * not say all, and of zstd's says nothing, so a command is looked at before it is compressed,
 * and a reply after it has been decompressed, in programs where user space has met a message
 * of which that is needed.
 */
#ifndef MG_PACKED_H
#define MG_PACKED_H

#include "message.h"

/* Whether the entry has what is written now, whose first bytes are in head, from before it
 * was compressed. */
static __always_inline bool is_plain(const struct mg_op *op)
{
	return op->ev.plain_id && u32_at(&op->head[4]) == op->ev.plain_id &&
	       u32_at(&op->head[12]) == OP_COMPRESSED;
}

static __noinline int is_packed(struct mg_op *op, __u64 wm)
{
	return !bpf_probe_read_user(op->head, 32, (void *)wm) &&
	       u32_at(&op->head[12]) == OP_COMPRESSED;
}

/* Keep a command that is going to be compressed. */
static __noinline int keep_plain(struct mg_op *op, __u64 wm, __u64 len)
{
	__u32 id;

	op->ev.plain_id = 0;
	if (bpf_probe_read_user(op->head, 32, (void *)wm) || !is_message(op, len))
		return 0;
	id = u32_at(&op->head[4]);
	op->ev.call.tail_len = ADDR_MAX; /* the address comes later, in front */
	take_request(op, wm, len);
	op->ev.plain_tail = op->ev.call.tail_len;
	op->ev.plain_id = id;
	return 0;
}

/* The len bytes at p are what the reply whose first bytes are in head has behind its
 * header, decompressed; the header is made as it would be without compression. */
static __noinline int take_unpacked(struct mg_op *op, __u64 p, __u64 len)
{
	struct mongo_event *ev = &op->ev;
	__u32 off = ev->call.tail_len, size = len + HEADER_LEN;
	__u8 *b = op->head;

	if (off >= REPLY_CAP) {
		ev->call.flags |= CALL_TAIL_FULL;
		return 0;
	}
	asm volatile("if %0 <= %1 goto +1; %0 = 0" : "+r"(off) : "i"(REPLY_CAP - 1));
	b[0] = size;
	b[1] = size >> 8;
	b[2] = size >> 16;
	b[3] = size >> 24;
	__builtin_memcpy(&b[12], &b[OPCODE_AT], 4);
	__builtin_memcpy(&ev->tail[off], b, HEADER_LEN);
	ev->call.tail_len = off + HEADER_LEN;
	ev->reply_len = size;
	if (!call_put(&ev->call, ev->tail, &ev->reply, p, len, REPLY_CAP + HEADER_LEN, REPLY_MAX))
		return 0;
	ev->reply.off = off;
	ev->reply.len += HEADER_LEN;
	if (len > REPLY_MAX && u32_at(&b[12]) == OP_MSG)
		ev->got = count_got(op, p, len);
	return 0;
}

static __always_inline int unpack_end(struct pt_regs *ctx, int major)
{
	struct mg_driver *d;
	struct mg_exe *e;
	struct mg_op *op;
	struct tr_who w;
	__u64 err;

	if (!who_runs(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&mg_exes, &w.proc->exe_id);
	if (!e)
		return 0;
	d = &e->v[major];
	if (!d->unpacks)
		d->unpacks = 1;
	op = open_op(&w);
	if (!op || !(op->ev.call.flags & F_PACKED))
		return 0;
	err = go_loc_read(ctx, &d->out[3]);
	if (err)
		fail(op, w.ge, err, go_loc_read(ctx, &d->out[4]));
	else
		take_unpacked(op, go_loc_read(ctx, &d->out[0]), go_loc_read(ctx, &d->out[1]));
	finish(op, &w.key);
	return 0;
}

#endif
