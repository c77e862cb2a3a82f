//go:build ignore
/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Kernel mode: one Traceparent line is put into a plaintext HTTP/1 request on its way
 * through the kernel, so that a server on another node continues the trace where the
 * program's own memory must not be written.
 *
 * pg_msg runs for every send on a socket in pg_socks, with the socket locked, before
 * the bytes get their place in the stream. It changes a send only if all of this holds:
 *   - a watched client announced a request for exactly this connection (tr_conns), in
 *     plain text, and the send begins at exactly the byte at which the client stood;
 *   - the bytes begin with an HTTP/1 request line;
 *   - the header's end is in the same send, and no line of it is a traceparent;
 *   - the line goes out or nothing does: no byte waits unsent before it, and it ends
 *     within the first segment. tcp_bpf_sendmsg tells the program how much was taken by
 *     subtracting what is left of the changed message, which is right only if the cut is
 *     behind the line.
 * Then it adds 70 bytes and joins the pieces again, so that the send leaves in the same
 * number of segments. In any doubt the send passes as it is, and is counted.
 *
 * Sockets get into the map when they have carried an announced request (user space,
 * from the entry's process and descriptor), or at connect when a watched process
 * connects to an address that has been announced before (pg_sock). So the first request
 * on the first connection to an address goes out as it is.
 *
 * Kernel: 5.17 (bpf_loop). Maps: tr_conns and tr_procs are shared; pg_* are ours.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

#include "conn.h"
#include "procs.h"

#define MAX_SOCKS   32768
#define MAX_DESTS   4096
#define MAX_SCAN    8192 /* bytes of a send within which the header must end */
#define MAX_METHOD  24
#define LINE_LEN    70 /* Traceparent: 00-<32>-<16>-<2>\r\n */
#define MIN_REQUEST 16 /* "A / HTTP/1.1\r\n\r\n" */
#define NAME_LEN    11 /* traceparent */

/* What became of a send on a socket in the map; indexes of pg_counts. */
enum pg_count {
	PG_PUSHED = 0,
	PG_NOT_ANNOUNCED, /* bodies and everything else that nobody announced */
	PG_NOT_HTTP,      /* not an HTTP/1 request */
	PG_KEPT,          /* it has a traceparent already */
	PG_UNPROVEN,      /* the header's end is not in the send */
	PG_BUSY,          /* bytes before it wait to be sent */
	PG_LONG_LINE,     /* the request line does not fit in a segment */
	PG_NO_MEMORY,     /* the kernel had none for it */
	PG_AT_CONNECT,    /* sockets that pg_sock put into the map */
	PG_NOT_ADDED,     /* sockets that it could not */
	PG_COUNTS,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct sock___pg {
	int sk_wmem_queued, sk_sndbuf;
};

struct tcp_sock___pg {
	__u32 write_seq, snd_nxt, mss_cache;
	__u8 is_mptcp : 1;
};
#pragma clang attribute pop

/* The sockets that pg_msg runs for. Key: socket cookie. Inserted by pg_sock and by user
 * space; a closed socket leaves by itself. Gone with the agent, which gives the sockets
 * their own functions back. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, MAX_SOCKS);
	__type(key, __u64);
	__type(value, __u64);
} pg_socks SEC(".maps");

struct pg_dest {
	__u32 addr[4]; /* as in struct tr_connkey */
	__u32 netns;
	__u32 port; /* host byte order */
};

/* Addresses that plaintext HTTP/1 requests were announced for. Inserted by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_DESTS);
	__type(key, struct pg_dest);
	__type(value, __u8);
} pg_dests SEC(".maps");

/* Sockets that are wanted as soon as they are connected; freed with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u8);
} pg_wanted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PG_COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} pg_counts SEC(".maps");

static __always_inline void count(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&pg_counts, &what);

	if (n)
		__sync_fetch_and_add(n, 1);
}

static __always_inline bool is_mptcp(struct tcp_sock___pg *tp)
{
	if (!bpf_core_field_exists(tp->is_mptcp))
		return false;
	return BPF_CORE_READ_BITFIELD_PROBED(tp, is_mptcp);
}

/* A search for the end of the header, in steps of at most eight bytes. */
struct pg_scan {
	struct sk_msg_md *msg;
	__u32 pos;
	__u32 first; /* where the line after the request line begins */
	__u32 found; /* enum pg_count, PG_PUSHED when there is no traceparent */
};

/* Whether the line at p may be a traceparent in some letter case. OR-ing 0x20 also maps
 * a few other bytes to letters, which errs to the safe side. */
static __always_inline bool is_traceparent(const void *p)
{
	const __u64 lower = 0x2020202020202020ULL;

	return (*(__u64 *)p | lower) == 0x7261706563617274ULL /* "tracepar" */ &&
	       (*(__u64 *)(p + NAME_LEN - 8) | lower) == 0x746e657261706563ULL /* "ceparent" */;
}

/* Look at the line that begins at pos; 1 ends the search. */
static __always_inline long line_at(struct pg_scan *s, void *data, void *end, __u32 pos)
{
	void *p = data + pos;

	if (!s->first)
		s->first = pos;
	if (p + 2 > end)
		return 1;
	if (*(__u8 *)p == '\n' || (*(__u8 *)p == '\r' && *(__u8 *)(p + 1) == '\n')) {
		s->found = PG_PUSHED;
		return 1;
	}
	if (p + NAME_LEN <= end && is_traceparent(p)) {
		s->found = PG_KEPT;
		return 1;
	}
	return 0;
}

static long scan_step(__u32 i, void *arg)
{
	struct pg_scan *s = arg;
	void *data = s->msg->data, *end = s->msg->data_end;
	__u32 pos = s->pos, k = 0;
	__u64 w;

	if (pos >= MAX_SCAN - 8)
		return 1;
	if (data + pos + 8 > end) {
		/* the last few bytes, one at a time */
		if (data + pos + 1 > end)
			return 1;
		s->pos = pos + 1;
		return *(__u8 *)(data + pos) == '\n' ? line_at(s, data, end, pos + 1) : 0;
	}
	w = *(__u64 *)(data + pos) ^ 0x0a0a0a0a0a0a0a0aULL;
	w = (w - 0x0101010101010101ULL) & ~w & 0x8080808080808080ULL;
	if (!w) {
		s->pos = pos + 8;
		return 0;
	}
	/* the lowest marked byte is the first '\n' */
	if (!(w & 0xffffffff)) {
		k += 4;
		w >>= 32;
	}
	if (!(w & 0xffff)) {
		k += 2;
		w >>= 16;
	}
	if (!(w & 0xff))
		k += 1;
	pos += k + 1;
	s->pos = pos;
	return line_at(s, data, end, pos);
}

/* METHOD SP */
static __always_inline bool begins_with_method(struct sk_msg_md *msg)
{
	void *data = msg->data, *end = msg->data_end;

	for (int i = 0; i < MAX_METHOD; i++) {
		__u8 c;

		if (data + i + 2 > end)
			return false;
		c = *(__u8 *)(data + i);
		if (c == ' ')
			return i > 0 && *(__u8 *)(data + i + 1) > ' ';
		if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' || c == '_'))
			return false;
	}
	return false;
}

/* " HTTP/1.x\r\n" up to the first header line */
static __always_inline bool ends_with_version(struct sk_msg_md *msg, __u32 first)
{
	void *data = msg->data, *end = msg->data_end, *p;

	if (first < MIN_REQUEST - 2 || first >= MAX_SCAN)
		return false;
	p = data + (first - 11);
	if (p + 11 > end)
		return false;
	return *(__u64 *)p == 0x2e312f5054544820ULL /* " HTTP/1." */ &&
	       (*(__u8 *)(p + 8) == '0' || *(__u8 *)(p + 8) == '1') && *(__u8 *)(p + 9) == '\r' &&
	       *(__u8 *)(p + 10) == '\n';
}

static __always_inline __u8 hex(__u8 v)
{
	return v < 10 ? '0' + v : 'a' - 10 + v;
}

static __always_inline void hex8(__u8 *dst, __u64 v)
{
	for (int i = 0; i < 8; i++) {
		dst[2 * i] = hex(v >> (8 * i + 4) & 15);
		dst[2 * i + 1] = hex(v >> (8 * i) & 15);
	}
}

static __always_inline void write_line(__u8 *p, const struct tr_conn *v)
{
	static const char begin[] = "Traceparent: 00-";

	for (int i = 0; i < 16; i++)
		p[i] = begin[i];
	hex8(p + 16, v->trace_id[0]);
	hex8(p + 32, v->trace_id[1]);
	p[48] = '-';
	hex8(p + 49, v->span_id);
	p[65] = '-';
	p[66] = '0';
	p[67] = '0' + (v->trace_flags & 1);
	p[68] = '\r';
	p[69] = '\n';
}

/* Add the line at byte first of the send; the whole send is linear before and after. */
static __always_inline __u32 push(struct sk_msg_md *msg, const struct tr_conn *v, __u32 first,
				  __u32 linear)
{
	void *p;

	if (bpf_msg_push_data(msg, first, LINE_LEN, 0))
		return PG_NO_MEMORY;
	/* The piece has bytes of nobody until the line is written: from here on either it
	 * is written or it goes away again. */
	if (!bpf_msg_pull_data(msg, 0, linear + LINE_LEN, 0)) {
		p = msg->data + first;
		if (p + LINE_LEN <= msg->data_end) {
			write_line(p, v);
			return PG_PUSHED;
		}
	}
	bpf_msg_pop_data(msg, first, LINE_LEN, 0);
	return PG_NO_MEMORY;
}

/* Whether the line leaves together with all that is before it; see the top. */
static __always_inline __u32 leaves_whole(struct tcp_sock___pg *tp, __u32 first)
{
	struct sock___pg *sk = (void *)tp;

	if (BPF_CORE_READ(tp, snd_nxt) != BPF_CORE_READ(tp, write_seq) ||
	    BPF_CORE_READ(sk, sk_wmem_queued) > BPF_CORE_READ(sk, sk_sndbuf) >> 1)
		return PG_BUSY;
	if (first + LINE_LEN > BPF_CORE_READ(tp, mss_cache))
		return PG_LONG_LINE;
	return PG_PUSHED;
}

static __always_inline __u32 request(struct sk_msg_md *msg, struct tcp_sock___pg *tp,
				     const struct tr_conn *v)
{
	struct pg_scan s = { .msg = msg, .found = PG_UNPROVEN };
	__u32 linear = msg->size, first, why;

	if (linear < MIN_REQUEST)
		return PG_NOT_HTTP;
	if (linear > MAX_SCAN)
		linear = MAX_SCAN;
	if (bpf_msg_pull_data(msg, 0, linear, 0))
		return PG_NO_MEMORY;
	if (!begins_with_method(msg))
		return PG_NOT_HTTP;
	bpf_loop(MAX_SCAN, scan_step, &s, 0);
	first = s.first;
	if (!first)
		return PG_UNPROVEN;
	if (!ends_with_version(msg, first))
		return PG_NOT_HTTP;
	if (s.found != PG_PUSHED)
		return s.found;
	why = leaves_whole(tp, first);
	if (why != PG_PUSHED)
		return why;
	return push(msg, v, first, linear);
}

/* tcp_bpf_sendmsg: sk_psock_msg_verdict(sk, psock, msg) */
SEC("sk_msg")
int pg_msg(struct sk_msg_md *msg)
{
	struct tcp_sock___pg *tp = (void *)bpf_skc_to_tcp_sock(msg->sk);
	struct conn_sock c = {};
	struct tr_conn *v;

	if (!tp || !conn_key_of(&c, (void *)tp, true))
		return SK_PASS;
	v = bpf_map_lookup_elem(&tr_conns, &c.key);
	if (!v) {
		count(PG_NOT_ANNOUNCED);
		return SK_PASS;
	}
	v->seen = 1;
	if (v->tls || !v->kernel || v->seq != BPF_CORE_READ(tp, write_seq) ||
	    bpf_ktime_get_ns() - v->said_ns > JOIN_MAX_AGE_NS)
		count(PG_NOT_ANNOUNCED);
	else
		count(request(msg, tp, v));
	return SK_PASS;
}

/* In the process that connects: remember the socket if it goes where HTTP was spoken. */
static __always_inline void connecting(struct bpf_sock *sk)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 tgid = BPF_CORE_READ(task, tgid);
	struct conn_sock c = {};
	struct pg_dest dest = {};
	struct tr_proc *proc;

	proc = bpf_map_lookup_elem(&tr_procs, &tgid);
	if (!proc || !(proc->hand & HAND_KERNEL))
		return;
	if (!conn_key_of(&c, (void *)bpf_skc_to_tcp_sock(sk), true))
		return;
	__builtin_memcpy(dest.addr, c.key.server, sizeof(dest.addr));
	dest.netns = c.key.netns;
	dest.port = c.key.server_port;
	if (bpf_map_lookup_elem(&pg_dests, &dest))
		bpf_sk_storage_get(&pg_wanted, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
}

static __always_inline void connected(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct tcp_sock___pg *tp;
	__u64 cookie;

	if (!bpf_sk_storage_get(&pg_wanted, sk, NULL, 0))
		return;
	tp = (void *)bpf_skc_to_tcp_sock(sk);
	cookie = bpf_get_socket_cookie(ops);
	if (tp && !is_mptcp(tp) && !bpf_sock_hash_update(ops, &pg_socks, &cookie, BPF_NOEXIST))
		count(PG_AT_CONNECT);
	else
		count(PG_NOT_ADDED);
}

/* tcp_connect and tcp_finish_connect: tcp_call_bpf(sk, op, ...) */
SEC("sockops")
int pg_sock(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (!sk)
		return 1;
	if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		connecting(sk);
	else if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		connected(ops, sk);
	return 1;
}

char LICENSE[] SEC("license") = "GPL";

const enum pg_count *keep_count __attribute__((unused));
