/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * conn.h - joining both ends of a connection on this node without a changed byte.
 *
 * A client says, before it sends a request, which span it belongs to, under the
 * connection's addresses and ports as the kernel's socket has them; a server that
 * gets a request without a traceparent looks there. That is no guess, because
 *   - both ends must name exactly the same four values, on loopback in the same
 *     network namespace, and for HTTP/2 the same stream;
 *   - the TCP sequence numbers must agree in both directions (conn_agrees): where the
 *     client stood when it announced must be a byte of this connection that the server
 *     has read, and what the client had read by then one that the server has written.
 *     Each direction begins at a number of 32 bits that the kernel draws from a secret,
 *     so a reused port, or the same addresses in an unrelated network, fails here;
 *   - an announcement serves once.
 *
 * Address translation in between (a Kubernetes service address) leaves the server with
 * other addresses than the client, but does not touch the sequence numbers: tr_nat finds
 * the client's addresses by the pair of numbers at which both directions began, 64 bits
 * that both ends know and nobody else, and by the client's port. A proxy makes a
 * connection of its own, with other numbers. Where the client's port is translated as
 * well, or on loopback: no join.
 */
#ifndef TR_CONN_H
#define TR_CONN_H

#include <bpf/bpf_core_read.h>
#include "ktypes.h"

#define MAX_CONNS       32768
#define MAX_NAT         16384
#define JOIN_WINDOW     (1U << 24) /* bytes: the largest header net/http reads, with room */
#define JOIN_MAX_AGE_NS (120ULL * 1000000000ULL)
#define NAT_AGAIN_NS    1000000000ULL /* a connection that rests may leave tr_nat */
#define AF_INET         2
#define AF_INET6        10
#define IPPROTO_TCP     6
#define S_IFMT          0170000
#define S_IFSOCK        0140000

struct tr_connkey {
	__u32 client[4]; /* IPv4 as ::ffff:a.b.c.d, network byte order */
	__u32 server[4];
	__u16 client_port, server_port; /* host byte order */
	__u32 netns;                    /* inode of the namespace for loopback, else 0 */
	__u32 stream;                   /* HTTP/2 stream id, 0 for HTTP/1 */
};

struct tr_conn {
	__u64 trace_id[2];
	__u64 span_id;
	__u64 said_ns;
	__u32 trace_flags;
	__u32 seq;      /* the client's next byte when it said so */
	__u32 used;     /* a server has taken it */
	__u8 tls;       /* what goes over the connection is encrypted */
	__u8 seen;      /* kernel mode: the connection is in its socket map */
	__u8 kernel;    /* HAND_KERNEL of the process */
	__u8 nat;       /* the connection is in tr_nat */
	__u32 tgid, fd; /* whose socket it is; the number is good only while it is open */
	__u32 rcv;      /* the server's next byte that the client had not read when it said so */
	__u32 pad;
	__u64 sk; /* the client's struct sock */
};

/* Inserted by the client's side of a probe, read by the server's. An HTTP/1
 * connection has one entry that is written in place; a stream's is deleted when taken.
 * LRU: what no watched server takes goes in time. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CONNS);
	__type(key, struct tr_connkey);
	__type(value, struct tr_conn);
} tr_conns SEC(".maps");

/* A connection, whatever its addresses are translated to. */
struct tr_isn {
	__u32 client, server; /* the sequence number of each end's SYN */
	__u32 client_port;
};

/* The addresses that the client's socket has, stream 0. Inserted by the client's side,
 * once per connection that is not loopback; LRU. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_NAT);
	__type(key, struct tr_isn);
	__type(value, struct tr_connkey);
} tr_nat SEC(".maps");

/* Client ports that something was announced for; they are never taken back. A server
 * need not look at its socket when its peer's port is not among them: most peers are
 * not watched, and looking costs as much as all the rest of a request. A byte each: an
 * atomic OR needs Linux 5.12. */
struct tr_saidports {
	__u8 said[65536];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tr_saidports);
} tr_said SEC(".maps");

static __always_inline void said_set(__u16 port)
{
	__u32 zero = 0;
	struct tr_saidports *p = bpf_map_lookup_elem(&tr_said, &zero);

	if (p && !p->said[port]) /* other processors read it */
		p->said[port] = 1;
}

static __always_inline bool said_any(__u16 port)
{
	__u32 zero = 0;
	struct tr_saidports *p = bpf_map_lookup_elem(&tr_said, &zero);

	return p && p->said[port];
}

/* What is read of a socket. */
struct conn_sock {
	__u64 sk;
	struct tr_connkey key; /* as seen from the end that connected */
	struct tr_isn isn;
	struct tr_conn val;
	struct {
		__u32 read_to, rcv_nxt, una, wrote_to;
		__u64 received, acked;
	} at; /* where both directions are; here to keep frames small */
};

/* The struct sock of file descriptor fd of the current task, 0 when it is no socket. */
static __noinline __u64 sock_of_fd(__u32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct files_struct *files = BPF_CORE_READ(task, files);
	struct fdtable *fdt = BPF_CORE_READ(files, fdt);
	struct file *file = NULL;
	struct file **fds;

	if (!fdt || fd >= BPF_CORE_READ(fdt, max_fds))
		return 0;
	fds = BPF_CORE_READ(fdt, fd);
	bpf_probe_read_kernel(&file, sizeof(file), fds + fd);
	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	struct socket *so = BPF_CORE_READ(file, private_data);

	return (__u64)BPF_CORE_READ(so, sk);
}

static __always_inline void addr4(__u32 dst[4], __u32 addr)
{
	dst[0] = dst[1] = 0;
	dst[2] = bpf_htonl(0xffff);
	dst[3] = addr;
}

static __always_inline bool is_loopback(const __u32 a[4])
{
	if (a[0] == 0 && a[1] == 0 && a[2] == bpf_htonl(0xffff))
		return (a[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return a[0] == 0 && a[1] == 0 && a[2] == 0 && a[3] == bpf_htonl(1);
}

/* Fill c->key from a TCP socket; local_is_client says which end it is. */
static __always_inline int conn_key_of(struct conn_sock *c, struct sock *sk, bool local_is_client)
{
	__u32 *local = local_is_client ? c->key.client : c->key.server;
	__u32 *remote = local_is_client ? c->key.server : c->key.client;
	__u16 family, lport, rport;

	c->sk = 0;
	/* A socket of multipath TCP has no sequence numbers of its own. */
	if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family == AF_INET) {
		addr4(local, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		addr4(remote, BPF_CORE_READ(sk, __sk_common.skc_daddr));
	} else if (family == AF_INET6) {
		bpf_core_read(local, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_core_read(remote, 16, &sk->__sk_common.skc_v6_daddr);
	} else {
		return 0;
	}
	lport = BPF_CORE_READ(sk, __sk_common.skc_num);
	rport = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (!lport || !rport)
		return 0;
	c->key.client_port = local_is_client ? lport : rport;
	c->key.server_port = local_is_client ? rport : lport;
	c->key.netns = 0;
	if (is_loopback(remote))
		c->key.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	c->key.stream = 0;
	c->sk = (__u64)sk;
	return 1;
}

/* The same of the socket of file descriptor fd. */
static __noinline int conn_key(struct conn_sock *c, __u32 fd, bool local_is_client)
{
	return conn_key_of(c, (void *)sock_of_fd(fd), local_is_client);
}

#define READ_TCP(dst, tp, field) bpf_core_read(&(dst), sizeof(dst), &(tp)->field)

/* Read where a connection in use is, in an order that errs to what it has carried more. */
static __noinline int conn_where(struct conn_sock *c)
{
	struct tcp_sock *tp = (void *)c->sk;

	READ_TCP(c->at.read_to, tp, copied_seq);
	READ_TCP(c->at.rcv_nxt, tp, rcv_nxt);
	READ_TCP(c->at.received, tp, bytes_received);
	READ_TCP(c->at.una, tp, snd_una);
	READ_TCP(c->at.wrote_to, tp, write_seq);
	READ_TCP(c->at.acked, tp, bytes_acked);
	return 0;
}

/* Where both directions began. The kernel changes a position and the count of bytes up to
 * it one after the other, so a difference is taken only if it was twice the same. */
static __noinline int conn_isn(struct conn_sock *c, bool local_is_client)
{
	__u32 local = 0, remote = 0;

	for (int i = 0; i < 4; i++) {
		conn_where(c);
		__u32 l = c->at.una - (__u32)c->at.acked;
		__u32 r = c->at.rcv_nxt - (__u32)c->at.received - 1;

		/* The end that connected counts its SYN as a byte, the other one does not. */
		if (!local_is_client)
			l--;
		if (i && l == local && r == remote) {
			c->isn.client = local_is_client ? l : r;
			c->isn.server = local_is_client ? r : l;
			c->isn.client_port = c->key.client_port;
			return 1;
		}
		local = l;
		remote = r;
	}
	return 0;
}

/* Client: let the server find the connection by where it began. */
static __noinline int conn_remember(struct conn_sock *c)
{
	struct tr_connkey *as;
	__u32 stream = c->key.stream;

	if (!conn_isn(c, true))
		return 0; /* tried again with the next request */
	c->key.stream = 0;
	as = bpf_map_lookup_elem(&tr_nat, &c->isn);
	if (!as || as->server_port != c->key.server_port || as->server[3] != c->key.server[3])
		bpf_map_update_elem(&tr_nat, &c->isn, &c->key, BPF_ANY);
	c->key.stream = stream;
	return 1;
}

/* Client: put c->val under c->key. What the same connection's last request said is written
 * over, which costs a fraction of an LRU map's update; its server has had that request,
 * or never will. Should the entry be another connection's by now, the sequence numbers in it
 * are of no use to that one's server. */
static __noinline int conn_say(struct conn_sock *c)
{
	struct tr_conn *v = bpf_map_lookup_elem(&tr_conns, &c->key);
	bool same = v && v->sk == c->val.sk && c->val.seq - v->seq < JOIN_WINDOW;

	if (!c->key.netns)
		c->val.nat = (same && v->nat && c->val.said_ns - v->said_ns < NAT_AGAIN_NS) ||
			     conn_remember(c);
	if (!same)
		return !bpf_map_update_elem(&tr_conns, &c->key, &c->val, BPF_ANY);
	v->used = c->val.used = 1; /* nobody takes what is half written */
	barrier();
	*v = c->val;
	barrier();
	v->used = 0;
	return 1;
}

/* Client: the connection of fd carries this span's request next. The caller has set
 * the ids, the flags and tls in c->val. */
static __always_inline bool conn_announce(struct conn_sock *c, __u32 fd, __u32 stream)
{
	if (!conn_key(c, fd, true))
		return false;
	struct tcp_sock *tp = (void *)c->sk;

	c->key.stream = stream;
	c->val.said_ns = bpf_ktime_get_ns();
	READ_TCP(c->val.seq, tp, write_seq);
	READ_TCP(c->val.rcv, tp, copied_seq);
	c->val.used = 0;
	c->val.seen = 0;
	c->val.nat = 0;
	c->val.pad = 0;
	c->val.sk = c->sk;
	c->val.tgid = bpf_get_current_pid_tgid() >> 32;
	c->val.fd = fd;
	said_set(c->key.client_port);
	return conn_say(c);
}

/* Whether what was announced, c->val, is of this connection and still to be taken. */
static __noinline int conn_agrees(struct conn_sock *c)
{
	__u32 age;

	if (c->val.used || bpf_ktime_get_ns() - c->val.said_ns > JOIN_MAX_AGE_NS)
		return 0;
	conn_where(c);
	age = c->at.read_to - c->val.seq;
	if (!age || age > JOIN_WINDOW ||
	    (__u64)age + (__u32)(c->at.rcv_nxt - c->at.read_to) > c->at.received)
		return 0;
	return (__u32)(c->at.wrote_to - c->val.rcv) <=
	       c->at.acked + (__u32)(c->at.wrote_to - c->at.una);
}

/* Take what was announced under c->key. The map is LRU: an entry may become another key's
 * while it is copied, so that it still is this key's is looked at afterwards. */
static __noinline int conn_match(struct conn_sock *c)
{
	struct tr_conn *v = bpf_map_lookup_elem(&tr_conns, &c->key);

	if (!v)
		return 0;
	c->val = *v;
	if (!conn_agrees(c))
		return 0;
	v = bpf_map_lookup_elem(&tr_conns, &c->key);
	if (!v || v->used || v->said_ns != c->val.said_ns || v->span_id != c->val.span_id)
		return 0;
	v->used = 1;
	return 1;
}

/* Server: the same by where the connection began. */
static __noinline int conn_translated(struct conn_sock *c)
{
	struct tr_connkey *as;
	__u32 stream = c->key.stream;

	if (c->key.netns || !conn_isn(c, false))
		return 0;
	as = bpf_map_lookup_elem(&tr_nat, &c->isn);
	if (!as)
		return 0;
	c->key = *as;
	c->key.stream = stream;
	return 1;
}

/* Server: the span whose request came in over fd, in c->val; false if nobody said. */
static __noinline __attribute__((unused)) int conn_take(struct conn_sock *c, __u32 fd, __u32 stream)
{
	if (!conn_key(c, fd, false))
		return 0;
	c->key.stream = stream;
	if (!conn_match(c) && (!conn_translated(c) || !conn_match(c)))
		return 0;
	if (stream)
		bpf_map_delete_elem(&tr_conns, &c->key);
	return 1;
}

#endif
