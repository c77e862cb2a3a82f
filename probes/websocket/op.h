/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * op.h - one open WebSocket connection, and what is known of an executable.
 */
#ifndef WS_OP_H
#define WS_OP_H

#include "../../bpf/lib/call.h"
#include "../../bpf/lib/goconn.h"
#include "../../bpf/lib/headers.h"

#define OP_CLOSE   8
#define OP_CONTROL 8 /* this bit of an opcode */

enum ws_type {
	WS_CONN = 1,
	WS_OPEN = 2,  /* a head only: a connection is open, for metrics */
	WS_TAKEN = 3, /* a head only: its end must be looked for */
};

enum ws_flag {
	WS_CLIENT = 1 << 0,
	WS_TLS = 1 << 1,
	WS_RAW = 1 << 2,    /* of no known library: bytes are the socket's, there are no messages */
	WS_UNSEEN = 1 << 3, /* when it was closed is not known */
};

struct ws_event {
	struct tr_call call;
	__u64 msgs_in, bytes_in;
	__u64 msgs_out, bytes_out;
	__u32 close_code; /* 0: no close frame was written */
	__u32 peer_port;
	__u8 peer_ip[16];
	__u8 tail[8]; /* there are no strings */
};

struct ws_op {
	struct ws_event ev;
	__u64 fd;    /* *netFD, 0 if not known */
	__u64 conn;  /* *Conn */
	__u64 known; /* 1: so is the peer */
	struct go_str s;
	struct tr_goio io;
	__u8 head[16];   /* of a frame */
	__u64 sysfd, sk; /* WS_RAW: the descriptor, the kernel's socket */
	__u64 in, out;   /* WS_RAW: bytes of the socket when it was taken over */
	__u64 in_now, out_now;
};

struct ws_exe {
	__u16 g_conn, g_read_length, g_reader;         /* gorilla's Conn */
	__u16 c_rwc, c_reader_conn, c_payload;         /* coder's Conn, msgReader.c, header */
	__u16 n_rwc, n_reader_conn, n_payload;         /* the same of nhooyr.io */
	__u16 res_conn, res_req, req_header, conn_rwc; /* net/http's response, Request, conn */
	__u16 take; /* 1: connections that are taken over are watched: by no known library */
	struct go_loc begin[6]; /* by enum ws_begin */
	struct tr_goconn conn;
	struct tr_goconn rwc; /* the same through io.ReadWriteCloser, which has itabs of its own */
};

enum ws_begin {
	BEGIN_GORILLA_SERVER,
	BEGIN_GORILLA_CLIENT,
	BEGIN_CODER_SERVER,
	BEGIN_CODER_CLIENT,
	BEGIN_NHOOYR_SERVER,
	BEGIN_NHOOYR_CLIENT,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_EXES);
	__type(key, __u32);
	__type(value, struct ws_exe);
} ws_exes SEC(".maps");

/* Open connections. Key: tgid, *Conn. Deleted at the end, and by the agent when the
 * process exits. User space sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct ws_op);
} ws_conns SEC(".maps");

/* Which connection a socket carries. Key: tgid, *netFD; value: *Conn. As above. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, __u64);
} ws_fds SEC(".maps");

/* What it takes to look at a request's headers. Key: tgid, goid; for the time of one run. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct tr_gokey);
	__type(value, struct hdr_scan);
} ws_scans SEC(".maps");

enum ws_count {
	COUNT_CONNECTED, /* and, one further, of clients; so with all */
	COUNT_CLOSED = 2,
	COUNT_MSGS_IN = 4,
	COUNT_MSGS_OUT = 6,
	COUNT_BYTES_IN = 8,
	COUNT_BYTES_OUT = 10,
	COUNTS = 12,
};

/* Of all connections, sampled or not; messages and bytes when their connection ends. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} ws_counts SEC(".maps");

#endif
