/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * body.h - records of JSON bodies, for metrics that are made of their fields. Off, and dead
 * code to the verifier, unless a rule asks for some. What is in the program's buffers when an
 * operation's programs run goes to the ring as a record of its own, ahead of the operation's,
 * which user space finds by goroutine and start: internal/httpbody.
 */
#ifndef TR_BODY_H
#define TR_BODY_H

#include "event.h"
#include "read.h"

/* event_hdr.type of these records, in every probe that has them. */
#define BODY_RECORD 254

enum tr_body_kind {
	BODY_REQUEST = 1, /* HTTP/1: its beginning, as it is on the wire */
	BODY_REST,        /* HTTP/1: of a request, what follows that */
	BODY_RESPONSE,    /* HTTP/1: as it is on the wire, with its head */
	BODY_PIECE,       /* of a request, in order, what the handler gets */
	BODY_ANSWER,      /* of a response, in order, what the handler gives */
	BODY_AT = 16,     /* shift of the offset of a piece, which is above its kind */
};

enum tr_body_want {
	WANT_REQUEST = 1 << 0,
	WANT_RESPONSE = 1 << 1,
};

const volatile __u32 cfg_body = 0; /* enum tr_body_want */

/* net/http's buffers have this size, unless a program sets another. */
#define BODY_MAX 4096

/* Mirrored by internal/httpbody. */
struct tr_body {
	struct event_hdr hdr;
	__u64 goid;
	__u64 start_ns; /* of the operation */
	__s64 size;     /* of the whole body; -1: not known */
	__u32 kind;     /* and offset, see BODY_AT */
	__u32 len;      /* of raw */
	__u8 raw[BODY_MAX];
};

/* Of whose body a record is: pointers into the operation's entry, which are followed late, so
 * that a program's stack does not hold what they lead to. */
struct tr_body_of {
	const struct event_hdr *hdr; /* of the operation's record */
	const __u64 *goid;
	const __u64 *start_ns;
	const __s64 *size; /* of the whole body */
};

/* room is a constant: the ring gives no other. */
static __always_inline int body_output(const struct tr_body_of *of, __u32 kind, __u64 addr,
				       __u32 len, __u32 room)
{
	struct tr_body *b;

	b = bpf_ringbuf_reserve(&tr_events, __builtin_offsetof(struct tr_body, raw) + room, 0);
	if (!b)
		return 0;
	b->hdr.probe_id = of->hdr->probe_id;
	b->hdr.type = BODY_RECORD;
	b->hdr.pad = 0;
	b->hdr.len = __builtin_offsetof(struct tr_body, raw) + room;
	b->hdr.tgid = of->hdr->tgid;
	b->hdr.exe_id = of->hdr->exe_id;
	b->hdr.proc_start_ns = of->hdr->proc_start_ns;
	b->goid = *of->goid;
	b->start_ns = *of->start_ns;
	b->size = *of->size;
	b->kind = kind;
	b->len = len;
	if (len && bpf_probe_read_user(b->raw, len, (void *)addr))
		b->len = 0;
	bpf_ringbuf_submit(b, event_flags(bpf_ktime_get_ns()));
	return 1;
}

/* A record of the len bytes at addr, at most BODY_MAX. A probe calls it in one function of
 * its own: it is long. */
static __always_inline int body_record(const struct tr_body_of *of, __u32 kind, __u64 addr,
				       __u64 len)
{
	__u32 n = len;
	int put;

	if (len > BODY_MAX)
		return 0;
	/* verifier(all): bounds in a form it keeps through spills */
	if (n <= 511) {
		asm volatile("%0 &= 511" : "+r"(n));
		put = body_output(of, kind, addr, n, 512);
	} else if (n <= 2047) {
		asm volatile("%0 &= 2047" : "+r"(n));
		put = body_output(of, kind, addr, n, 2048);
	} else {
		asm volatile("if %0 <= 4096 goto +1; %0 = 0" : "+r"(n));
		_Static_assert(BODY_MAX == 4096, "bound above");
		put = body_output(of, kind, addr, n, BODY_MAX);
	}
	if (!put)
		count_lost(of->hdr->probe_id, LOST_RING_FULL);
	return put;
}

/* The beginning of a media type, in any letter case. */
#define MEDIA_LEN 16

/* Whether a media type of len bytes is JSON's; word holds its first 16, next the one behind. */
static __always_inline bool media_json(const __u64 *word, __u64 len, __u8 next)
{
	const __u64 lower = 0x2020202020202020ULL;

	return len >= MEDIA_LEN && (word[0] | lower) == 0x746163696c707061ULL /* "applicat" */ &&
	       (word[1] | lower) == 0x6e6f736a2f6e6f69ULL /* "ion/json" */ &&
	       (len == MEDIA_LEN || next == ';' || next == ' ');
}

#endif
