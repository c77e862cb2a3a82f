/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * conn.h - a connection's entry, from its beginning to its end, whatever library's it is.
 */
#ifndef WS_CONN_H
#define WS_CONN_H

#include "op.h"

const struct ws_op ws_zero = {};
const struct hdr_scan scan_zero = {};
const struct tr_scope scope_zero = {};

static __noinline int count(__u32 what, __u64 add)
{
	__u64 *n = bpf_map_lookup_elem(&ws_counts, &what);

	if (n)
		__sync_fetch_and_add(n, add);
	return 0;
}

/* The handler's calls are from now on the connection's, not the upgrade's, and stay so
 * when the handler returns and leaves goroutines behind. */
static __noinline int scope_take(struct ws_op *op, struct tr_gokey *key)
{
	struct tr_call *c = &op->ev.call;
	struct tr_scope *s = bpf_map_lookup_elem(&tr_scopes, key);

	if (!s || s->epoch != c->epoch)
		return 0;
	s->span_id = c->span_id;
	s->trace_id[0] = c->trace_id[0];
	s->trace_id[1] = c->trace_id[1];
	s->end_ns = 0;
	s->trace_flags = c->trace_flags | SCOPE_HELD;
	return 0;
}

/* The peer, and for gorilla the socket whose end is the connection's. */
static __noinline int peer(struct ws_op *op, struct tr_who *w, struct ws_exe *e, __u64 addr,
			   bool net_conn)
{
	bool client;
	int fd;

	if (!op || !w || !w->ge || !e)
		return 0;
	client = op->ev.call.flags & WS_CLIENT;
	io_init(&op->io, w->proc);
	fd = fd_of_conn(&op->io, w->ge, net_conn ? &e->conn : &e->rwc, addr);
	if (fd < 0)
		return 0;
	/* fd_of_conn leaves the *netFD where it read the descriptor's number from */
	op->fd = op->io.s.ptr;
	if (op->io.c.val.tls)
		op->ev.call.flags |= WS_TLS;
	if (!conn_key(&op->io.c, fd, client))
		return 0;
	if (client) {
		__builtin_memcpy(op->ev.peer_ip, op->io.c.key.server, 16);
		op->ev.peer_port = op->io.c.key.server_port;
	} else {
		__builtin_memcpy(op->ev.peer_ip, op->io.c.key.client, 16);
		op->ev.peer_port = op->io.c.key.client_port;
	}
	return 1;
}

static __noinline int end(struct ws_op *op, struct tr_gokey *key)
{
	struct tr_call *c;
	struct tr_gokey other = {};
	struct tr_scope *s;
	__u64 *conn;
	__u32 client;

	if (!op || !key)
		return 0;
	c = &op->ev.call;
	client = c->flags & WS_CLIENT;
	count(COUNT_CLOSED + client, 1);
	count(COUNT_MSGS_IN + client, op->ev.msgs_in);
	count(COUNT_MSGS_OUT + client, op->ev.msgs_out);
	count(COUNT_BYTES_IN + client, op->ev.bytes_in);
	count(COUNT_BYTES_OUT + client, op->ev.bytes_out);
	other.tgid = key->tgid;
	other.id = c->goid;
	s = bpf_map_lookup_elem(&tr_scopes, &other);
	if (s && s->span_id == c->span_id) {
		s->end_ns = bpf_ktime_get_ns();
		s->trace_flags &= ~SCOPE_HELD;
	}
	if (op->fd) {
		other.id = op->fd;
		conn = bpf_map_lookup_elem(&ws_fds, &other);
		if (conn && *conn == op->conn) /* it may be another connection's by now */
			bpf_map_delete_elem(&ws_fds, &other);
	}
	if (cfg_count_all || c->trace_flags & TRACE_FLAG_SAMPLED)
		call_finish(&ws_conns, key, c, WS_CONN, offsetof(struct ws_event, tail), 7);
	else
		bpf_map_delete_elem(&ws_conns, key);
	return 0;
}

/* A new entry for the connection conn; w's key becomes its. */
static __always_inline struct ws_op *open_conn(struct pt_regs *ctx, struct tr_who *w, __u64 conn,
					       __u32 flags)
{
	__u64 goid = w->key.id;
	struct ws_op *op;

	w->key.id = conn;
	op = call_open(&ws_conns, w);
	if (op)
		end(op, &w->key); /* another connection was at this address: it is closed */
	op = call_new(&ws_conns, &ws_zero, w);
	if (!op)
		return NULL; /* lost, and counted as that: its end will not be seen either */
	op->ev.call.goid = goid;
	op->conn = conn;
	op->ev.call.flags |= flags;
	/* kept in any case: an unsampled one is counted */
	call_trace(&op->ev.call, w->ge, GO_G(ctx), 0);
	return op;
}

/* The connection's end is that of its socket. */
static __noinline int end_with_socket(struct ws_op *op, struct tr_gokey *key)
{
	if (!op || !key || !op->fd)
		return 0;
	key->id = op->fd;
	bpf_map_update_elem(&ws_fds, key, &op->conn, BPF_ANY);
	return 0;
}

/* Count it, and have the handler's calls be its children. */
static __noinline int opened(struct ws_op *op, struct tr_gokey *key)
{
	__u32 client;

	if (!op || !key)
		return 0;
	client = op->ev.call.flags & WS_CLIENT;
	count(COUNT_CONNECTED + client, 1);
	if (!client) {
		key->id = op->ev.call.goid;
		scope_take(op, key);
	}
	if (cfg_count_all)
		call_emit(&op->ev.call, WS_OPEN, sizeof(op->ev.call), 0);
	return 0;
}

#endif
