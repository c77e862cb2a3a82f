/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * message.h - what is taken along of messages of the wire protocol.
 */
#ifndef MG_MESSAGE_H
#define MG_MESSAGE_H

#include "op.h"

static __always_inline __u32 u32_at(const __u8 *b)
{
	return b[0] | b[1] << 8 | b[2] << 16 | (__u32)b[3] << 24;
}

static __always_inline void put_u32(__u8 *b, __u32 v)
{
	b[0] = v;
	b[1] = v >> 8;
	b[2] = v >> 16;
	b[3] = v >> 24;
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

/* Documents of the batch with which the OP_MSG begins whose flags are at p:
 * { cursor: { firstBatch: [...] or nextBatch: [...] */
static __noinline int count_got(struct mg_op *op, __u64 p, __u64 len)
{
	__u8 *b = op->head;
	__u64 at;

	if (bpf_probe_read_user(b, 40, (void *)p) || b[4] != 0)
		return -1;
	if (b[9] != 3 || b[10] != 'c' || b[11] != 'u' || b[16] || b[21] != 4)
		return -1;
	if (b[22] == 'f' && !b[32])
		at = 33;
	else if (b[22] == 'n' && !b[31])
		at = 32;
	else
		return -1;
	b += at;
	if (u32_at(b) > len - at)
		return -1;
	return count_docs(p + at + 4, p + at + u32_at(b) - 1, 1);
}

static __always_inline bool is_message(const struct mg_op *op, __u64 len)
{
	__u32 opcode = u32_at(&op->head[12]);

	return u32_at(op->head) == len &&
	       (opcode == OP_MSG || opcode == OP_COMPRESSED || opcode == OP_QUERY);
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

/* Put into an entry what is kept of a command whose first bytes are in head. */
static __noinline int take_request(struct mg_op *op, __u64 wm, __u64 len)
{
	struct mongo_event *ev = &op->ev;

	ev->request_len = len;
	ev->sent = -1;
	ev->request.off = ev->request.len = ev->end.off = ev->end.len = 0;
	call_put(&ev->call, ev->tail, &ev->request, wm, len, REQUEST_CAP, REQUEST_MAX);
	if (len > REQUEST_MAX) {
		put_end(op, wm, len);
		ev->sent = count_sent(op, wm, len);
	}
	return 0;
}

static __noinline int take_reply(struct mg_op *op, __u64 wm, __u64 len)
{
	struct mongo_event *ev = &op->ev;
	__u8 *b = op->head;

	ev->reply_len = len;
	call_put(&ev->call, ev->tail, &ev->reply, wm, len, REPLY_CAP, REPLY_MAX);
	if (len > REPLY_MAX && !bpf_probe_read_user(b, 16, (void *)wm) && u32_at(&b[12]) == OP_MSG)
		ev->got = count_got(op, wm + HEADER_LEN, len - HEADER_LEN);
	return 0;
}

#endif
