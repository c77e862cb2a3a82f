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

/* A reply: the len bytes at p, which a header is in front of unless they were decompressed;
 * then one is made. */
static __noinline int take_body(struct mg_op *op, __u32 opcode, __u64 p, __u64 len)
{
	struct mongo_event *ev = &op->ev;
	__u32 off = ev->call.tail_len, size = len + HEADER_LEN;
	__u8 *b = op->head;

	if (off >= REPLY_CAP) {
		ev->call.flags |= CALL_TAIL_FULL;
		return 0;
	}
	asm volatile("if %0 <= %1 goto +1; %0 = 0" : "+r"(off) : "i"(REPLY_CAP - 1));
	if (bpf_probe_read_user(b, HEADER_LEN, (void *)(p - HEADER_LEN)) || u32_at(b) != size ||
	    u32_at(&b[12]) != opcode) {
		__builtin_memset(b, 0, HEADER_LEN);
		put_u32(b, size);
		put_u32(&b[12], opcode);
		ev->call.flags |= F_NO_HEADER;
	}
	__builtin_memcpy(&ev->tail[off], b, HEADER_LEN);
	ev->call.tail_len = off + HEADER_LEN;
	ev->reply_len = size;
	if (!call_put(&ev->call, ev->tail, &ev->reply, p, len, REPLY_CAP + HEADER_LEN, REPLY_MAX))
		return 0;
	ev->reply.off = off;
	ev->reply.len += HEADER_LEN;
	if (len > REPLY_MAX && opcode == OP_MSG)
		ev->got = count_got(op, p, len);
	return 0;
}

/* Whether the len bytes at p are a message with its header. */
static __noinline int is_whole(struct mg_op *op, __u64 p, __u64 len)
{
	return len > HEADER_LEN && !bpf_probe_read_user(op->head, HEADER_LEN, (void *)p) &&
	       u32_at(op->head) == len;
}

/* The reply among decodeResult's arguments; no pointer is below the largest opcode:
 *   AX opcode, BX CX DI the bytes behind the header
 *   AX BX ctx, CX opcode, DI SI R8
 *   AX BX CX the message, v1 until 1.11.3 */
static __always_inline void take_decoded(struct mg_op *op, struct pt_regs *ctx)
{
	__u64 p = GO_ARG1(ctx), len = GO_ARG2(ctx);
	__u32 opcode = GO_ARG0(ctx);

	if (opcode > OP_MSG) {
		if (is_whole(op, GO_ARG0(ctx), GO_ARG1(ctx))) {
			opcode = u32_at(&op->head[12]);
			p = GO_ARG0(ctx) + HEADER_LEN;
			len = GO_ARG1(ctx) - HEADER_LEN;
		} else {
			opcode = GO_ARG2(ctx);
			p = GO_ARG3(ctx);
			len = go_reg(ctx, 4);
		}
	}
	take_body(op, opcode, p, len);
}

static __always_inline int decode_start(struct pt_regs *ctx, int major)
{
	struct mg_driver *d;
	struct mg_exe *e;
	struct mg_op *op;
	struct tr_who w;

	if (!who_is(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&mg_exes, &w.proc->exe_id);
	if (!e)
		return 0;
	d = &e->v[major];
	if (!d->decodes)
		d->decodes = 1;
	op = open_op(&w);
	if (!op)
		return 0; /* what ends all replies has been there */
	if (op->ev.call.flags & F_PACKED && d->ends)
		op->ev.call.flags |= F_SPARE_V1 << major;
	take_decoded(op, ctx);
	finish(op, &w.key);
	return 0;
}

static __always_inline int unpack_failed(struct pt_regs *ctx, int major)
{
	struct mg_driver *d;
	struct mg_exe *e;
	struct mg_op *op;
	struct tr_who w;

	if (!who_is(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&mg_exes, &w.proc->exe_id);
	op = open_op(&w);
	if (!e || !op)
		return 0;
	d = &e->v[major];
	fail(op, w.ge, go_loc_read(ctx, &d->out[3]), go_loc_read(ctx, &d->out[4]));
	finish(op, &w.key);
	return 0;
}

#endif
