/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * handon.h - how a client's request hands its trace on: announced by connection (conn.h), or
 * written into it by the goroutine that writes its headers (inject.h), which is not the
 * caller's.
 */
#ifndef NH_HANDON_H
#define NH_HANDON_H

#include "op.h"

/* What is next written to the buffer of the *persistConn at pc is the operation's
 * request, into which a header is to be written. */
static __always_inline void expect_write(struct nh_op *op, struct tr_gokey *key, struct nh_exe *e,
					 __u64 pc)
{
	__u64 goid = key->id, *known;

	if (!e->inject || !(call_of(op)->x.io.hand & HAND_MEMORY))
		return;
	if (call_of(op)->x.io.own_header) {
		count_prop(PROP_KEPT);
		return;
	}
	call_of(op)->conn = pc;
	call_of(op)->bw = read_u64(pc + e->pc_bw);
	if (!call_of(op)->bw)
		return;
	key->id = call_of(op)->bw;
	known = bpf_map_lookup_elem(&nh_reqs, key);
	if (known)
		*known = goid;
	call_of(op)->x.io.written = known || !bpf_map_update_elem(&nh_reqs, key, &goid, BPF_ANY);
	key->id = goid;
}

/* What is said of the operation to the other end. */
static __always_inline void io_ids(struct tr_goio *io, const struct nh_op *op)
{
	io->c.val.trace_id[0] = op->ev.trace_id[0];
	io->c.val.trace_id[1] = op->ev.trace_id[1];
	io->c.val.span_id = op->ev.span_id;
	io->c.val.trace_flags = op->ev.trace_flags;
}

/* Say which span the connection of the net.Conn at addr carries next; the ids are in
 * io. Afterwards io->c.key is the connection, if io->c.sk is set. */
static __noinline int announce(struct tr_goio *io, struct tr_goexe *ge, struct nh_exe *e,
			       __u64 addr, __u32 stream)
{
	int fd = fd_of_conn(io, ge, &e->net, addr);

	io->c.sk = 0;
	io->c.key.stream = stream;
	if (fd < 0) {
		count_prop(PROP_JOIN_UNKNOWN);
		return 0;
	}
	/* An SDK's header says more than we could: the server will have read it. */
	if (e->join && (io->hand & HAND_JOIN) && !io->own_header && !io->written)
		count_prop(conn_announce(&io->c, fd, stream) ? PROP_JOIN_SAID : PROP_JOIN_UNKNOWN);
	else
		conn_key(&io->c, fd, true);
	io->c.key.stream = stream;
	return 0;
}

/* Note the peer's address. */
static __always_inline void put_peer(struct nh_op *op, const struct tr_goio *io)
{
	if (!io->c.sk)
		return;
	__builtin_memcpy(op->ev.peer_ip, io->c.key.server, 16);
	op->ev.peer_ip_len = 16;
	op->ev.peer_port = io->c.key.server_port;
}

/* The template of new entries. */
const struct nh_writer nh_writer_zero = {};

/* The operation of the writer's caller, if it is still the one that was copied. */
static __always_inline struct nh_op *writer_op(struct nh_writer *w, struct tr_gokey *key)
{
	struct nh_op *op;
	__u64 writer = key->id;

	key->id = w->caller;
	op = bpf_map_lookup_elem(&nh_client, key);
	key->id = writer;
	return op && op->open && op->ev.start_ns == w->op_start_ns ? op : NULL;
}

/* Fill w, which is the running goroutine's, with the operation of goroutine caller; what is
 * its request (HTTP/2) or the buffer that it is written to (HTTP/1). False when there is no
 * such operation any more. */
static __noinline int writer_fill(struct nh_writer *w, struct tr_gokey *key, __u64 caller,
				  __u64 what)
{
	__u64 writer = key->id;
	struct nh_op *op;

	if (!w)
		return 0;
	key->id = caller;
	op = bpf_map_lookup_elem(&nh_client, key);
	key->id = writer;
	if (!op || !op->open ||
	    (op->ev.flags & F_H2 ? call_of(op)->h2req : call_of(op)->bw) != what)
		return 0;
	w->start_ns = bpf_ktime_get_ns();
	w->op_start_ns = op->ev.start_ns;
	w->epoch = op->epoch;
	w->caller = caller;
	w->hdr = call_of(op)->hdr;
	w->conn = call_of(op)->conn;
	w->exe_id = op->ev.hdr.exe_id;
	w->io.bias = call_of(op)->x.io.bias;
	w->io.own_header = call_of(op)->x.io.own_header;
	w->io.written = 0;
	w->io.hand = call_of(op)->x.io.hand;
	w->io.c.sk = 0;
	io_ids(&w->io, op);
	/* the same start before and after: what was copied is of one operation */
	return writer_op(w, key) == op;
}

/* Make the running goroutine, key, the writer of the operation of goroutine caller, whose
 * request is what. NULL when there is no such operation any more. */
static __noinline struct nh_writer *writer_new(struct tr_gokey *key, __u64 caller, __u64 what)
{
	struct nh_writer *w;

	if (bpf_map_update_elem(&nh_writers, key, &nh_writer_zero, BPF_ANY)) {
		count_lost(probe_id, LOST_MAP_FULL);
		return NULL;
	}
	w = bpf_map_lookup_elem(&nh_writers, key);
	if (w && writer_fill(w, key, caller, what))
		return w;
	bpf_map_delete_elem(&nh_writers, key);
	return NULL;
}

#endif
