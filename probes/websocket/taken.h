/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * taken.h - connections that a server takes over from net/http for a WebSocket, of programs
 * with none of the libraries that are known. What goes over them is not looked at: bytes
 * are the socket's, as the kernel counts them.
 */
#ifndef WS_TAKEN_H
#define WS_TAKEN_H

#include "conn.h"

/* States of a socket, include/net/tcp_states.h, in which a FIN has come or gone. */
#define FIN_RECEIVED (1U << 8 | 1U << 9 | 1U << 11)           /* CLOSE_WAIT, LAST_ACK, CLOSING */
#define FIN_SENT     (1U << 4 | 1U << 5 | 1U << 9 | 1U << 11) /* FIN_WAIT1 and 2, and those */

/* How much the program has received and sent over the socket in op->io.c. */
static __noinline int socket_bytes(struct ws_op *op)
{
	struct sock *sk;
	__u8 state;

	if (!op)
		return 0;
	sk = (void *)op->io.c.sk;
	conn_where(&op->io.c);
	op->in_now = op->io.c.at.received - (__u32)(op->io.c.at.rcv_nxt - op->io.c.at.read_to);
	op->out_now = op->io.c.at.acked + (__u32)(op->io.c.at.wrote_to - op->io.c.at.una);
	/* A FIN counts as a byte: the peer's once it was read, our own once it was sent. */
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if ((1U << state & FIN_RECEIVED) && op->io.c.at.read_to == op->io.c.at.rcv_nxt)
		op->in_now--;
	if (1U << state & FIN_SENT)
		op->out_now--;
	return 0;
}

/* Whether the request of the response at addr asks for a WebSocket; w's key is the
 * goroutine's. */
static __noinline int asks_websocket(struct tr_who *w, struct ws_exe *e, __u64 addr)
{
	struct hdr_scan *sc;
	int yes = 0;

	if (!w || !w->ge || !e || bpf_map_update_elem(&ws_scans, &w->key, &scan_zero, BPF_ANY))
		return 0;
	sc = bpf_map_lookup_elem(&ws_scans, &w->key);
	if (!sc)
		return 0;
	scan_reset(sc, 1ULL << 7); /* Upgrade */
	scan_headers(w->ge, sc, read_u64(read_u64(addr + e->res_req) + e->req_header));
	if (hdr_values(sc, 0) == 1 &&
	    !bpf_probe_read_user(sc->word, STR_SIZE, (void *)sc->at[0].ptr) && sc->word[1] == 9)
		yes = (read_u64(sc->word[0]) | 0x2020202020202020ULL) ==
		      0x656b636f73626577ULL /* "websocke" */;
	bpf_map_delete_elem(&ws_scans, &w->key);
	return yes;
}

static __noinline int taken(struct pt_regs *ctx, struct tr_who *w)
{
	struct ws_exe *e = bpf_map_lookup_elem(&ws_exes, &w->proc->exe_id);
	struct ws_op *op;
	__u64 addr;

	if (!e || !e->take || !w->key.id || !asks_websocket(w, e, GO_ARG0(ctx)))
		return 0;
	addr = read_u64(GO_ARG0(ctx) + e->res_conn) + e->conn_rwc;
	op = open_conn(ctx, w, read_u64(addr + 8), WS_RAW);
	if (!op)
		return 0;
	op->known = peer(op, w, e, addr, true);
	if (!op->fd) {
		bpf_map_delete_elem(&ws_conns, &w->key); /* its end would not be seen */
		return 0;
	}
	op->sysfd = op->io.s.len; /* where fd_of_conn has read it */
	if (op->known)
		socket_bytes(op);
	op->sk = op->io.c.sk;
	op->in = op->in_now;
	op->out = op->out_now;
	end_with_socket(op, &w->key);
	opened(op, &w->key);
	call_emit(&op->ev.call, WS_TAKEN, sizeof(op->ev.call), 0);
	return 0;
}

/* The socket is still open. */
static __noinline int raw_end(struct ws_op *op)
{
	if (!op || !op->known)
		return 0;
	if (!conn_key(&op->io.c, op->sysfd, false) || op->io.c.sk != op->sk) {
		/* closed before closes were looked at, and its structures used again */
		op->ev.call.flags |= WS_UNSEEN;
		return 0;
	}
	socket_bytes(op);
	op->ev.bytes_in = op->in_now - op->in;
	op->ev.bytes_out = op->out_now - op->out;
	return 0;
}

#endif
