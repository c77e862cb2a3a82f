/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * inject.h - memory mode: put one traceparent header into what net/http is about
 * to send. Only where the kernel allows bpf_probe_write_user; the programs that
 * call it are left out elsewhere.
 *
 * HTTP/1: in (*Request).write, at its call of Header.writeSubset, the request line
 * and net/http's own headers are in the connection's bufio.Writer and the program's
 * headers follow. A line appended to the buffer there is a header line like others.
 * HTTP/2: in (*Framer).WriteHeaders, at its call of endWrite, the frame is complete
 * but for its length, which endWrite takes from the slice: a literal field without
 * indexing appended there belongs to the header block and leaves the compression
 * state alone.
 *
 * Before a byte is written: all keys of the header map have been seen and none is
 * "traceparent" in any letter case; the buffer is the one of this connection; there
 * is room. Any doubt: skip and count. Written are the bytes behind the buffer's
 * content, which nobody reads, and then, in one word, its length.
 */
#ifndef NH_INJECT_H
#define NH_INJECT_H

#include "client.h"

#define LINE_LEN       70 /* "Traceparent: " value "\r\n" */
#define HPACK_LEN      69 /* 0x00, length, "traceparent", length, value */
#define H2_HEADERS     1
#define H2_END_HEADERS 0x04
#define H2_PADDED      0x08
#define H2_HEADER_LEN  9
/* A block this small cannot, with a limit of at least this much, be brought over the
 * peer's SETTINGS_MAX_HEADER_LIST_SIZE by one field more. */
#define H2_MAX_BLOCK      4096
#define H2_MIN_LIST_LIMIT (256 << 10)

static __always_inline __u8 hex_char(__u8 v)
{
	return v < 10 ? '0' + v : 'a' + v - 10;
}

static __always_inline void put_hex(__u8 *dst, const __u8 *src, int n)
{
	for (int i = 0; i < n; i++) {
		dst[2 * i] = hex_char(src[i] >> 4);
		dst[2 * i + 1] = hex_char(src[i] & 15);
	}
}

/* The 55 bytes of the header's value. */
static __noinline int put_value(__u8 *p, const struct tr_conn *ids)
{
	p[0] = p[1] = '0';
	p[2] = p[35] = p[52] = '-';
	put_hex(p + 3, (const __u8 *)ids->trace_id, 16);
	put_hex(p + 36, (const __u8 *)&ids->span_id, 8);
	put_hex(p + 53, (const __u8 *)&ids->trace_flags, 1); /* its low byte */
	return 0;
}

/* Whether the header map surely has no traceparent; counts why not. */
static __noinline int proven_absent(struct nh_writer *w, struct tr_goexe *ge, __u64 map)
{
	struct hdr_scan *sc = &w->scan;
	__u64 count;

	sc->base = sc->old = sc->cur = 0;
	sc->n = sc->n_old = sc->group = sc->more = sc->fold = sc->seen = 0;
	sc->copy[(8 + SLOTS_SIZE) / 8] = 0;
	/* hmap.count is the first word */
	if (!map ||
	    bpf_probe_read_user(&sc->word[0], 8, (void *)(map + (ge->swiss ? ge->map_used : 0)))) {
		count_prop(PROP_UNKNOWN);
		return 0;
	}
	count = sc->word[0];
	scan_headers(ge, sc, map);
	if (sc->fold) {
		count_prop(PROP_KEPT);
		return 0;
	}
	/* A map that grows, a read that failed, a layout that is another: keys are missing. */
	if (sc->more || sc->seen < count) {
		count_prop(PROP_UNPROVEN);
		return 0;
	}
	return 1;
}

/* Append n bytes at src to the slice {ptr, len, cap or room} of the target, whose
 * length is the word at len_addr. */
static __noinline int append_user(__u64 to, __u64 len_addr, __u64 len, const void *src, __u32 n)
{
	__u64 grown = len + n;

	if (n > LINE_LEN || bpf_probe_write_user((void *)(to + len), src, n & 127) ||
	    bpf_probe_write_user((void *)len_addr, &grown, sizeof(grown))) {
		count_prop(PROP_FAILED);
		return 0;
	}
	count_prop(PROP_WRITTEN);
	return 1;
}

/* bw is the *bufio.Writer that the request is written to. */
static __noinline int h1_inject(struct nh_writer *w, struct tr_goexe *ge, __u64 bw)
{
	struct nh_exe *e = bpf_map_lookup_elem(&nh_exes, &w->exe_id);
	__u64 ptr, len, n;

	if (!e || !bw)
		return 0;
	if (read_u64(w->conn + e->pc_bw) != bw || read_u64(bw)) {
		/* another writer than the connection's, or one that has failed */
		count_prop(PROP_UNKNOWN);
		return 0;
	}
	if (!proven_absent(w, ge, w->hdr))
		return 0;
	ptr = read_u64(bw + e->bw_buf);
	len = read_u64(bw + e->bw_buf + 8);
	n = read_u64(bw + e->bw_n);
	/* the request line at least is in front of us, or the buffer was just flushed */
	if (!ptr || n > len || len > (1 << 24)) {
		count_prop(PROP_UNKNOWN);
		return 0;
	}
	if (len - n < LINE_LEN) {
		count_prop(PROP_NO_ROOM);
		return 0;
	}
	__builtin_memcpy(w->tp, "Traceparent: ", 13);
	put_value(w->tp + 13, &w->io.c.val);
	w->tp[68] = '\r';
	w->tp[69] = '\n';
	return append_user(ptr, bw + e->bw_n, n, w->tp, LINE_LEN);
}

/* fr is the *Framer with the complete HEADERS frame. */
static __noinline int h2_inject(struct nh_writer *w, struct tr_goexe *ge, __u64 fr, bool xnet)
{
	struct nh_exe *e = bpf_map_lookup_elem(&nh_exes, &w->exe_id);
	struct nh_h2 *h2;
	__u64 ptr, len, cap, head;

	if (!e)
		return 0;
	h2 = xnet ? &e->xh2 : &e->h2;
	if (!proven_absent(w, ge, w->hdr))
		return 0;
	ptr = read_u64(fr + h2->fr_wbuf);
	len = read_u64(fr + h2->fr_wbuf + 8);
	cap = read_u64(fr + h2->fr_wbuf + 16);
	head = read_u64(ptr); /* length 3, type 1, flags 1, first bytes of the stream's number */
	if (!ptr || len < H2_HEADER_LEN || len > cap || cap > (1 << 24) ||
	    (head >> 24 & 0xff) != H2_HEADERS || !(head >> 32 & H2_END_HEADERS) ||
	    (head >> 32 & H2_PADDED) || bpf_ntohl(read_u32(ptr + 5)) != w->io.c.key.stream) {
		count_prop(PROP_UNKNOWN);
		return 0;
	}
	if (cap - len < HPACK_LEN || len > H2_MAX_BLOCK ||
	    read_u64(w->conn + h2->cc_max_list) < H2_MIN_LIST_LIMIT) {
		count_prop(PROP_NO_ROOM);
		return 0;
	}
	w->tp[0] = 0; /* literal without indexing, new name */
	w->tp[1] = 11;
	__builtin_memcpy(w->tp + 2, "traceparent", 11);
	w->tp[13] = TRACEPARENT_LEN;
	put_value(w->tp + 14, &w->io.c.val);
	return append_user(ptr, fr + h2->fr_wbuf + 8, len, w->tp, HPACK_LEN);
}

/* In (*Framer).WriteHeaders, at the call of endWrite; AX the Framer. */
static __always_inline int h2_write(struct pt_regs *ctx, bool xnet)
{
	struct tr_gokey key = {};
	struct tr_proc *proc = watched(&key);
	struct tr_goexe *ge;
	struct nh_writer *w;

	if (!proc)
		return 0;
	ge = bpf_map_lookup_elem(&tr_goexes, &proc->exe_id);
	if (!ge)
		return 0;
	key.id = read_u64(GO_G(ctx) + ge->g_goid);
	w = bpf_map_lookup_elem(&nh_writers, &key);
	if (!w)
		return 0;
	h2_inject(w, ge, GO_ARG0(ctx), xnet);
	bpf_map_delete_elem(&nh_writers, &key);
	return 0;
}

#endif
