/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * inject.h - memory mode: put one traceparent into the metadata of a call that grpc is
 * about to send. Only where the kernel allows bpf_probe_write_user; the programs that
 * call it are left out elsewhere.
 *
 *   expect  in the quota closure, in the caller's goroutine: which header fields the
 *           stream will have, a []hpack.HeaderField that nothing else refers to and that
 *           does not change any more
 *   begin   in the one goroutine that writes to the connection, before it encodes exactly
 *           that slice for exactly that stream: all names have been seen and none is
 *           "traceparent" in any letter case, and the field more stays under the limit
 *           that the server set for a header list
 *   end     behind the encoding: the connection's bufWriter ends with one HEADERS frame,
 *           of that stream, whole, which begins where the buffer ended before
 * What is appended there belongs to the header block once the frame's length says so. The
 * goroutine is stopped at the probe, and nobody else touches the buffer. Any doubt: skip
 * and count. Written are the bytes behind the buffer's content, which nobody reads, the
 * frame's length, then, in one word, the buffer's.
 */
#ifndef GR_INJECT_H
#define GR_INJECT_H

#include "../../bpf/lib/inject.h"
#include "op.h"

#define MAX_FIELDS  64
#define FIELD_SIZE  40 /* hpack.HeaderField { Name, Value string; Sensitive bool } */
#define FIELD_EXTRA 32 /* what a field counts besides its bytes: RFC 9113, 6.5.2 */
#define OWN_SIZE    (11 + TRACEPARENT_LEN + FIELD_EXTRA)
/* Of a server that sets no limit: the least that one is known to have unsaid, grpc's own
 * (GRPC_GO_EXPERIMENTAL_ENABLE_8KB_DEFAULT_HEADER_LIST_SIZE). */
#define UNSAID_LIMIT 8192
/* RFC 9113: the least that a peer may set. */
#define H2_MAX_FRAME 16384

/* A header block that is to be sent. The ids are copied: the call may end before. */
struct gr_write {
	__u64 start_ns;
	__u32 epoch; /* tr_proc.epoch */
	__u32 announced;
	struct tr_conn ids;
	struct tr_connkey key; /* under which the call is announced */
	__u32 stream;
	__u32 limit;   /* of the header list's size */
	__u64 writer;  /* *bufWriter */
	__u64 at;      /* where in its buffer the frame begins */
	__u64 buf[2];  /* the buffer */
	__u64 n;       /* how much is in it */
	__u64 size;    /* of the header list */
	__u64 word[4]; /* a field's name and value */
	__u8 tp[80];   /* the field that is written; from 72 on the frame's length */
};

/* Key: tgid, and the address of the fields; from when they are encoded on the goid of the
 * goroutine that does it, which no address is as small as. Inserted before that goroutine
 * learns of them, deleted when they are written; user space ages out what never is. No
 * LRU map: an entry must not become another's while its goroutine writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct gr_write);
} gr_writes SEC(".maps");

const struct gr_write gr_write_zero = {};

/* Whether the fields at addr begin as those of a call do. */
static __noinline int are_fields(__u64 addr)
{
	__u64 name = read_u64(addr);

	return addr >= 4096 && read_u64(addr + 8) == 7 &&
	       read_u32(name) == 0x74656d3a /* ":met" */ &&
	       read_u32(name + 3) == 0x646f6874 /* "thod" */;
}

/* The header fields of the frame that is one of the closure's captured words, in op->w,
 * or its argument, an interface, as up to 1.62; 0 if they are not. */
static __noinline __u64 find_fields(struct gr_rpc *op, struct gr_exe *e, __u64 arg)
{
	__u64 hf;

	if (!op || !e)
		return 0;
	for (__u32 i = 0; i <= CAPTURES; i++) {
		if (e->take_hdr && e->take_hdr != i + 1)
			continue;
		hf = i < CAPTURES ? op->w[i & (CAPTURES - 1)] : arg;
		if (hf < 4096)
			continue;
		hf = read_u64(hf + e->hf);
		if (are_fields(hf)) {
			e->take_hdr = i + 1;
			return hf;
		}
	}
	return 0;
}

/* Note what will be written for the call; called with the lock that is held until the
 * fields are queued, after the call was announced. */
static __noinline int write_expect(struct gr_rpc *op, struct gr_exe *e, __u64 transport, __u64 arg)
{
	struct tr_gokey key = {};
	struct gr_write *wr;
	__u64 limit;

	if (!op || !e)
		return 0;
	key.tgid = op->ev.call.hdr.tgid;
	key.id = find_fields(op, e, arg);
	if (!key.id || bpf_probe_read_user(&limit, 8, (void *)(transport + e->cli_max))) {
		count_prop(PROP_UNKNOWN_BUF);
		return 0;
	}
	if (bpf_map_update_elem(&gr_writes, &key, &gr_write_zero, BPF_ANY)) {
		count_prop(PROP_NO_ROOM);
		return 0;
	}
	wr = bpf_map_lookup_elem(&gr_writes, &key);
	if (!wr)
		return 0;
	wr->ids.trace_id[0] = op->ev.call.trace_id[0];
	wr->ids.trace_id[1] = op->ev.call.trace_id[1];
	wr->ids.span_id = op->ev.call.span_id;
	wr->ids.trace_flags = op->ev.call.trace_flags;
	wr->limit = limit ? read_u32(limit) : UNSAID_LIMIT;
	wr->start_ns = bpf_ktime_get_ns();
	wr->epoch = op->ev.call.epoch;
	wr->announced = op->io.c.sk != 0;
	wr->key = op->io.c.key;
	wr->stream = wr->key.stream = read_u32(transport + e->cli_next);
	return 0;
}

/* Whether the n fields at addr surely hold no traceparent; adds up their size. */
static __noinline int fields_lack(struct gr_write *wr, __u64 addr, __u64 n)
{
	__u64 *w;

	if (!wr)
		return 0;
	w = wr->word;
	wr->size = 0;
	for (__u32 i = 0; i < MAX_FIELDS; i++) {
		if (i >= n)
			return 1;
		if (bpf_probe_read_user(w, sizeof(wr->word), (void *)(addr + i * FIELD_SIZE)))
			break;
		wr->size += (w[1] & 0xffffff) + (w[3] & 0xffffff) + FIELD_EXTRA;
		if (w[1] == 11 && tr_is_traceparent(w[0])) {
			count_prop(PROP_KEPT);
			return 0;
		}
	}
	count_prop(PROP_UNPROVEN);
	return 0;
}

/* The goroutine with that key encodes the block for the loopyWriter at loopy. */
static __noinline int write_enter(struct gr_write *wr, struct gr_exe *e, struct tr_gokey *key,
				  __u64 loopy)
{
	if (!wr || !e || !key)
		return 0;
	wr->writer = read_u64(read_u64(loopy + e->loopy_framer) + e->framer_writer);
	wr->at = MAX_BUF; /* stays when the read fails */
	bpf_probe_read_user(&wr->at, 8, (void *)(wr->writer + e->bw_offset));
	if (bpf_map_update_elem(&gr_writes, key, wr, BPF_ANY))
		count_prop(PROP_NO_ROOM);
	return 0;
}

static __noinline int write_begins(struct pt_regs *ctx, struct tr_who *w)
{
	struct gr_write *wr;
	struct gr_exe *e;

	e = bpf_map_lookup_elem(&gr_exes, &w->proc->exe_id);
	w->key.id = GO_ARG3(ctx);
	wr = bpf_map_lookup_elem(&gr_writes, &w->key);
	if (!e || !wr)
		return 0;
	if (!note_current(wr->start_ns, wr->epoch, w->proc) || wr->stream != (__u32)GO_ARG1(ctx) ||
	    !are_fields(w->key.id)) {
		count_prop(PROP_UNKNOWN_BUF);
	} else if (fields_lack(wr, w->key.id, go_reg(ctx, 4))) {
		w->key.id = go_id(w->ge, GO_G(ctx));
		write_enter(wr, e, &w->key, GO_ARG0(ctx));
		w->key.id = GO_ARG3(ctx);
	}
	bpf_map_delete_elem(&gr_writes, &w->key);
	return 0;
}

/* Read the bufWriter; 0 if it does not end with the whole frame of the stream. */
static __noinline int ends_with_frame(struct gr_write *wr, struct gr_exe *e)
{
	__u64 at;

	if (!wr || !e)
		return 0;
	at = wr->writer + e->bw_buf;
	if (e->bw_handle)
		at = read_u64(at);
	wr->n = 0; /* stays when the read fails */
	bpf_probe_read_user(&wr->n, 8, (void *)(wr->writer + e->bw_offset));
	if (!at || bpf_probe_read_user(wr->buf, 16, (void *)at) || !wr->buf[0] ||
	    wr->buf[1] > MAX_BUF || wr->n > wr->buf[1] || read_u64(wr->writer + e->bw_err)) {
		count_prop(PROP_UNKNOWN_BUF);
		return 0;
	}
	/* it was flushed in between, or the block is in several frames */
	if (wr->n <= wr->at || wr->n - wr->at > H2_MAX_FRAME - HPACK_LEN) {
		count_prop(PROP_NO_ROOM);
		return 0;
	}
	if (!is_headers_frame(wr->buf[0] + wr->at, wr->n - wr->at, wr->stream)) {
		count_prop(PROP_UNKNOWN_BUF);
		return 0;
	}
	return 1;
}

static __noinline int write_field(struct gr_write *wr, struct gr_exe *e)
{
	void *n_addr;
	__u64 batch;

	if (!wr || !e || !ends_with_frame(wr, e))
		return 0;
	/* the buffer is flushed when the batch is full: below it stays */
	batch = read_u64(wr->writer + e->bw_batch);
	if (wr->n + HPACK_LEN >= batch || wr->n + HPACK_LEN > wr->buf[1] ||
	    wr->size + OWN_SIZE > wr->limit) {
		count_prop(PROP_NO_ROOM);
		return 0;
	}
	put_hpack(wr->tp, &wr->ids);
	n_addr = (void *)(wr->writer + e->bw_offset);
	/* The frame's length must not change without the buffer's: see first that this one
	 * can be written, and take the other back when it cannot after all. */
	if (bpf_probe_write_user((void *)(wr->buf[0] + wr->n), wr->tp, HPACK_LEN) ||
	    bpf_probe_write_user(n_addr, &wr->n, 8) ||
	    put_frame_len(wr->buf[0] + wr->at, wr->tp + 72, wr->n - wr->at + HPACK_LEN)) {
		count_prop(PROP_FAILED);
		return 0;
	}
	wr->n += HPACK_LEN;
	if (bpf_probe_write_user(n_addr, &wr->n, 8)) {
		put_frame_len(wr->buf[0] + wr->at, wr->tp + 72, wr->n - HPACK_LEN - wr->at);
		count_prop(PROP_FAILED);
		return 0;
	}
	count_prop(PROP_WRITTEN);
	return 1;
}

static __always_inline int write_ends(struct pt_regs *ctx)
{
	struct tr_who w;
	struct gr_write *wr;

	if (!who_runs(&w, ctx))
		return 0;
	wr = bpf_map_lookup_elem(&gr_writes, &w.key);
	if (!wr)
		return 0; /* a call that is not written into */
	/* what the header says need not be told by connection */
	if (!note_current(wr->start_ns, wr->epoch, w.proc))
		count_prop(PROP_UNKNOWN_BUF);
	else if (write_field(wr, bpf_map_lookup_elem(&gr_exes, &w.proc->exe_id)) && wr->announced)
		bpf_map_delete_elem(&tr_conns, &wr->key);
	bpf_map_delete_elem(&gr_writes, &w.key);
	return 0;
}

#endif
