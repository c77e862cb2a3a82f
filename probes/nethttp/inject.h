/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * inject.h - memory mode: put one traceparent header into what net/http is about
 * to send. Only where the kernel allows bpf_probe_write_user; the programs that
 * call it are left out elsewhere.
 *
 * HTTP/1: in (*Request).write, at its call of Header.writeSubset, the request line
 * and net/http's own headers are in the connection's bufio.Writer and the program's
 * headers follow. A line appended to the buffer there is a header line like others.
 * HTTP/2: in (*ClientConn).writeHeaders, at its call of Flush, the HEADERS frame is
 * what the connection's bufio.Writer holds. A literal field without indexing
 * appended there belongs to the header block once the frame's length says so, and
 * leaves the compression state alone.
 *
 * Before a byte is written: all keys of the header map have been seen and none is
 * "traceparent" in any letter case; the buffer is the one of this connection and ends
 * with what it must end with; there is room. Any doubt: skip and count. Written are the
 * bytes behind the buffer's content, which nobody reads, and then, in one word, its
 * length; in between for HTTP/2 the length of the frame.
 *
 * What is not written is announced by connection (conn.h). HTTP/2 announces first, and
 * takes it back when the header is written.
 */
#ifndef NH_INJECT_H
#define NH_INJECT_H

#include "../../bpf/lib/inject.h"
#include "client.h"

#define LINE_LEN 70     /* "Traceparent: " value "\r\n" */
#define CRLF     0x0a0d /* as a little-endian word */
/* A block this small cannot, with a limit of at least this much, be brought over the
 * peer's SETTINGS_MAX_HEADER_LIST_SIZE by one field more. */
#define H2_MAX_BLOCK      4096
#define H2_MIN_LIST_LIMIT (256 << 10)

/* Whether the header map surely has no traceparent; counts why not. */
static __noinline int proven_absent(struct nh_writer *w, struct tr_goexe *ge, __u64 map)
{
	struct hdr_scan *sc = &w->scan;
	__u64 count;

	scan_reset(sc, 1ULL << (sizeof("traceparent") - 1)); /* other keys' bytes are not read */
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

/* The buffer of the *bufio.Writer at bw, if it has not failed. */
static __noinline int buf_of(struct nh_writer *w, struct nh_exe *e, __u64 bw)
{
	struct nh_buf *b = &w->buf;
	__u64 len;

	if (bpf_probe_read_user(w->scan.word, 16, (void *)(bw + e->bw_buf))) /* pointer, length */
		w->scan.word[0] = 0;
	b->addr = w->scan.word[0];
	len = w->scan.word[1];
	b->n_addr = bw + e->bw_n;
	b->n = len + 1; /* stays when the read fails */
	bpf_probe_read_user(&b->n, 8, (void *)b->n_addr);
	if (!bw || !b->addr || read_u64(bw) /* its error */ || b->n > len || len > MAX_BUF) {
		count_prop(PROP_UNKNOWN);
		return 0;
	}
	b->room = len - b->n;
	return 1;
}

/* The n bytes in w->tp go behind the buffer's content, then the content is longer. */
static __noinline int append(struct nh_writer *w, __u32 n)
{
	w->grown = w->buf.n + n;
	if (n > LINE_LEN ||
	    bpf_probe_write_user((void *)(w->buf.addr + w->buf.n), w->tp, n & 127) ||
	    bpf_probe_write_user((void *)w->buf.n_addr, &w->grown, sizeof(w->grown))) {
		count_prop(PROP_FAILED);
		return 0;
	}
	count_prop(PROP_WRITTEN);
	return 1;
}

/* bw is the *bufio.Writer that the request is written to. */
static __noinline int h1_inject(struct nh_writer *w, struct tr_goexe *ge, struct nh_exe *e,
				__u64 bw)
{
	if (!buf_of(w, e, bw) || !proven_absent(w, ge, w->hdr))
		return 0;
	if (w->buf.n < 2 || (__u16)read_u32(w->buf.addr + w->buf.n - 2) != CRLF) {
		/* not behind a line: it has just been flushed, or is not what we think */
		count_prop(PROP_UNKNOWN);
		return 0;
	}
	if (w->buf.room < LINE_LEN) {
		count_prop(PROP_NO_ROOM);
		return 0;
	}
	__builtin_memcpy(w->tp, "Traceparent: ", 13);
	put_value(w->tp + 13, &w->io.c.val);
	w->tp[68] = '\r';
	w->tp[69] = '\n';
	return append(w, LINE_LEN);
}

/* The running goroutine, key, is in (*Request).write for the operation of goroutine caller,
 * before its headers: AX the header map, CX the *bufio.Writer. */
static __noinline int h1_write(struct nh_writer *w, struct tr_gokey *key, struct tr_goexe *ge,
			       __u64 caller, struct pt_regs *ctx)
{
	struct nh_exe *e;
	struct nh_op *op;

	if (!writer_fill(w, key, caller, GO_ARG2(ctx))) {
		count_prop(PROP_UNKNOWN); /* an attempt that has ended */
		return 0;
	}
	e = bpf_map_lookup_elem(&nh_exes, &w->exe_id);
	if (!e)
		return 0;
	if (w->hdr != GO_ARG0(ctx) || read_u64(w->conn + e->pc_bw) != GO_ARG2(ctx)) {
		/* other headers, or another writer than the connection's */
		count_prop(PROP_UNKNOWN);
		announce(&w->io, ge, e, w->conn + e->pc_conn, 0);
	} else if (!h1_inject(w, ge, e, GO_ARG2(ctx))) {
		announce(&w->io, ge, e, w->conn + e->pc_conn, 0);
	}
	op = writer_op(w, key);
	if (op && call_of(op)->bw == GO_ARG2(ctx))
		call_of(op)->bw = 0; /* it has been written */
	return 0;
}

/* Whether the buffer is the HEADERS frame of the writer's stream and nothing else. It
 * cannot be the end of a longer one: all that is written before is flushed before, and
 * what is longer than an empty buffer goes past it. */
static __noinline int is_our_frame(struct nh_writer *w)
{
	if (!w->buf.n || w->buf.n > H2_MAX_BLOCK) {
		count_prop(PROP_NO_ROOM); /* sent already, or too long to be sure below */
		return 0;
	}
	if (!is_headers_frame(w->buf.addr, w->buf.n, w->io.c.key.stream)) {
		count_prop(PROP_UNKNOWN);
		return 0;
	}
	return 1;
}

/* bw is the connection's *bufio.Writer, about to be flushed. */
static __noinline int h2_inject(struct nh_writer *w, struct tr_goexe *ge, __u64 bw, bool xnet)
{
	struct nh_exe *e = bpf_map_lookup_elem(&nh_exes, &w->exe_id);
	struct nh_h2 *h2;

	if (!e)
		return 0;
	h2 = xnet ? &e->xh2 : &e->h2;
	if (!buf_of(w, e, bw) || !is_our_frame(w) || !proven_absent(w, ge, w->hdr))
		return 0;
	if (w->buf.room < HPACK_LEN || read_u64(w->conn + h2->cc_max_list) < H2_MIN_LIST_LIMIT) {
		count_prop(PROP_NO_ROOM);
		return 0;
	}
	put_hpack(w->tp, &w->io.c.val);
	/* The frame's length must not change without the buffer's: see first that this one
	 * can be written, and take the other back when it cannot after all. */
	if (bpf_probe_write_user((void *)w->buf.n_addr, &w->buf.n, sizeof(w->buf.n)) ||
	    put_frame_len(w->buf.addr, w->tp + 72, w->buf.n + HPACK_LEN)) {
		count_prop(PROP_FAILED);
		return 0;
	}
	if (append(w, HPACK_LEN))
		return 1;
	put_frame_len(w->buf.addr, w->tp + 72, w->buf.n);
	return 0;
}

/* The header says it: the server need not be told by connection. */
static __always_inline void unsay(struct nh_writer *w)
{
	if (w->io.c.sk)
		bpf_map_delete_elem(&tr_conns, &w->io.c.key);
}

/* In (*ClientConn).writeHeaders, at the call of Flush; AX the *bufio.Writer. */
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
		return 0; /* trailers, or a call that is not written into */
	if (!note_current(w->start_ns, w->epoch, proc))
		count_prop(PROP_UNKNOWN);
	else if (h2_inject(w, ge, GO_ARG0(ctx), xnet))
		unsay(w);
	bpf_map_delete_elem(&nh_writers, &key);
	return 0;
}

#endif
