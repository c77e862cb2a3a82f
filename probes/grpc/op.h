/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * op.h - one RPC in flight, at the server or at the client. The map value is the
 * record and the scratch space (see bpf/lib/call.h).
 */
#ifndef GR_OP_H
#define GR_OP_H

#include "../../bpf/lib/call.h"
#include "../../bpf/lib/goconn.h"
#include "../../bpf/lib/goerr.h"
#include "../../bpf/lib/headers.h"

#define TAIL_CAP     1024 /* a string begins below */
#define STR_MAX      511  /* bytes of one string; longer ones are cut and marked */
#define STATUS_WORDS 8    /* of google.rpc.Status */
#define CAPTURES     8    /* captured words of a closure that are looked at */

enum grpc_event_type {
	GR_SERVER = 1,
	GR_CLIENT = 2,
};

enum gr_check {
	CHECK_STREAM = 2, /* no transport stream, or not its number */
	CHECK_METHOD = 3, /* the method is no string */
	CHECK_TARGET = 4, /* nor the target */
};

enum gr_flag {
	F_REMOTE_PARENT = 1 << 0,
	F_JOINED = 1 << 1,     /* server: the parent was found by connection */
	F_STATUS = 1 << 2,     /* status[] is set */
	F_ERROR = 1 << 3,      /* errs is set: an error that is no status */
	F_SAW_PANIC = 1 << 4,  /* panic_type and S_PANIC are set */
	F_PANIC = 1 << 5,      /* ended by a panic that nobody recovered */
	F_GOEXIT = 1 << 6,     /* ended by runtime.Goexit */
	F_UNSENT = 1 << 7,     /* server: the response could not be sent */
	F_HTTP = 1 << 8,       /* server: over net/http's server */
	F_STREAMING = 1 << 9,  /* client: no unary call */
	F_NO_STREAM = 1 << 10, /* client: no stream was had */
};

/* Strings of a record, in str[]; also the slots of the metadata that is looked for. */
enum gr_str {
	S_METHOD = 0, /* /package.Service/Method */
	S_TARGET,     /* client: the target; server: :authority */
	S_MESSAGE,    /* the status's message, or the text of another error */
	S_TRACEPARENT,
	S_TRACESTATE,
	S_PANIC,
	S_COUNT,
};
_Static_assert(S_COUNT <= MAX_HDR_SLOTS, "a key's slot is its string number");

struct grpc_event {
	struct tr_call call;
	__u64 status[STATUS_WORDS]; /* the beginning of google.rpc.Status */
	struct tr_errs errs;
	struct tr_errtype panic_type;
	__u64 panic_raw[2];
	__u8 peer_ip[16];
	__u32 peer_port;
	__u8 peer_ip_len; /* 0, 4 or 16 */
	__u8 pad[3];
	struct tr_str str[S_COUNT];
	__u8 tail[TAIL_CAP + STR_MAX + 1];
};

/* A server's RPC: the record, then what is private to the programs. */
struct gr_op {
	struct grpc_event ev;
	__u64 stream;    /* *transport.ServerStream, or *transport.Stream */
	__u64 transport; /* *http2Server, 0 for another one */
	__u64 ctx;       /* data pointer of the context that grpc cancels at the end */
	__u32 parent_len;
	__u32 id; /* of the HTTP/2 stream */
	__u64 w[6];
	__u8 tp[80];
	struct traceparent parent;
	struct tr_goio io;
	struct hdr_scan scan;
};

/* A client's RPC. */
struct gr_rpc {
	struct grpc_event ev;
	__u64 method; /* the method's bytes: tells one call from another */
	__u64 ctx;    /* data pointer of the context that the program gave */
	__u64 w[CAPTURES];
	struct tr_goio io;
};

/* Everything the programs must know of one executable; written by user space. */
struct gr_exe {
	__u8 server_sane, client_sane;  /* set here */
	__u8 server_ptr, client_ptr;    /* ServerStream, ClientStream begin with a *Stream */
	__u8 take_stream, take_at;      /* captured words of the quota closure, from 1; set here */
	__u8 join;                      /* 1: connections are joined */
	__u8 streams;                   /* 1: the end of a streaming call can be seen */
	__u16 st_id, st_method, st_ctx; /* transport.Stream */
	__u16 client_ct;                /* of ClientStream, or of Stream: the *http2Client */
	__u16 srv_conn, srv_addr;       /* http2Server: net.Conn, the peer's net.Addr */
	__u16 cli_conn, cli_next;       /* http2Client: net.Conn, the next stream's number */
	__u16 cs_hdr, cs_ctx;           /* clientStream: *CallHdr, context */
	__u16 hdr_method;               /* CallHdr.Method */
	__u16 cc_target;                /* ClientConn.target */
	__u16 status_s;                 /* internal/status.Status.s */
	__u16 hf;                       /* of headerFrame or clientHeaders: the fields to send */
	__u16 cli_max;                  /* http2Client: *uint32, the limit of a header list */
	__u16 loopy_framer;             /* loopyWriter: *framer */
	__u16 framer_writer;            /* framer: *bufWriter */
	__u16 bw_buf;                   /* bufWriter: its buffer, a slice or, since 1.84, ... */
	__u8 bw_handle;                 /* ... 1: a pointer to one */
	__u8 inject;                    /* 1: headers are written */
	__u16 bw_offset, bw_batch, bw_err;
	__u8 take_hdr; /* captured word of the quota closure, from 1; set here */
	__u8 pad1[3];
	__u16 attempt_cs;         /* csAttempt: *clientStream */
	__s32 md_name;            /* nameOff of metadata.mdIncomingKey */
	__s32 err_name;           /* of *internal/status.Error */
	__s32 h2_name, addr_name; /* of *transport.http2Server, *net.TCPAddr */
	__s32 value_name;         /* of *context.valueCtx */
	__u64 h2_itab, addr_itab; /* link-time, once seen; set here */
	struct tr_goconn net;
	struct go_loc unsent[2]; /* error type, error data */
	struct go_loc no_call[2], no_stream[2], no_attempt[2], no_addrs[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_EXES);
	__type(key, __u32);
	__type(value, struct gr_exe);
} gr_exes SEC(".maps");

/* RPCs that are being served. Key: tgid, goid of the handler's goroutine. Inserted at
 * the start, deleted when the status is written, or what stands for it. User space sets
 * the size; a full map refuses the newest and counts it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct gr_op);
} gr_server SEC(".maps");

/* Calls of a goroutine: unary ones until their end, streaming ones until there is a
 * stream. Key: tgid, goid. A streaming call may fail before anything is made of it that
 * has an end: its entry is overwritten by the goroutine's next call, or user space ages
 * it out. User space sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct gr_rpc);
} gr_calls SEC(".maps");

/* Streaming calls, which any goroutine may end. Key: tgid, data pointer of the context
 * that grpc makes for the call and holds until its end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct gr_rpc);
} gr_streams SEC(".maps");

/* The templates of new entries. */
const struct gr_op gr_zero = {};
const struct gr_rpc gr_rpc_zero = {};

/* What became of each attempt to hand on a trace; cut out of nethttp's metric. */
enum gr_prop {
	PROP_SAID = 0,    /* client: announced by connection */
	PROP_UNKNOWN,     /* client: the connection is of no known type */
	PROP_JOINED,      /* server: found by connection */
	PROP_WRITTEN,     /* client: header written */
	PROP_KEPT,        /* client: the program's own traceparent was kept */
	PROP_UNPROVEN,    /* client: too much metadata to prove that there is none */
	PROP_NO_ROOM,     /* client: no room in the buffer, or under the server's limit */
	PROP_UNKNOWN_BUF, /* client: the buffer does not look as expected */
	PROP_FAILED,      /* client: the write was refused */
	PROP_COUNT,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROP_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} gr_props SEC(".maps");

static __always_inline void count_prop(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&gr_props, &what);

	if (n)
		__sync_fetch_and_add(n, 1);
}

static __noinline int put_str(struct grpc_event *ev, __u32 i, __u64 ptr, __u64 len)
{
	if (!ev || i >= S_COUNT)
		return 0;
	call_put(&ev->call, ev->tail, &ev->str[i], ptr, len, TAIL_CAP, STR_MAX);
	return 0;
}

/* The Go string whose header is at addr; s is the entry's scratch. */
static __always_inline void put_gostr(struct grpc_event *ev, __u32 i, __u64 addr, struct go_str *s)
{
	s->ptr = s->len = 0;
	bpf_probe_read_user(s, sizeof(*s), (void *)addr);
	put_str(ev, i, s->ptr, s->len);
}

/* Note what a *internal/status.Status says. In google.rpc.Status the message is the
 * second field, or the fifth in what old generators made, where the third and fourth
 * are nil but for messages of another version. */
static __noinline int put_status(struct grpc_event *ev, struct gr_exe *e, __u64 st)
{
	__u64 sp;

	if (!ev || !e || !st)
		return 0;
	sp = read_u64(st + e->status_s);
	if (!sp) {
		ev->call.flags |= F_STATUS; /* a nil one is OK */
		return 0;
	}
	if (bpf_probe_read_user(ev->status, sizeof(ev->status), (void *)sp)) {
		count_lost(probe_id, LOST_READ);
		return 0;
	}
	ev->call.flags |= F_STATUS;
	if (ev->status[2])
		put_str(ev, S_MESSAGE, ev->status[2], ev->status[3]);
	else if (!ev->status[4])
		put_str(ev, S_MESSAGE, ev->status[6], ev->status[7]);
	return 0;
}

/* Note an error from the words itab, data of its interface. */
static __noinline int put_error(struct grpc_event *ev, struct gr_exe *e, struct tr_goexe *ge,
				__u64 itab, __u64 data)
{
	__u32 last;

	if (!ev || !e || !ge || !itab)
		return 0;
	err_chain(&ev->errs, ge, ev->call.hdr.exe_id, itab, data);
	last = ev->errs.n - 1;
	/* verifier(all): a bound that it keeps; what is behind type[] is ours, too */
	asm volatile("%0 &= 7" : "+r"(last));
	/* internal/status.Error has but one field, the *Status */
	if (ev->errs.n && e->err_name && ev->errs.type[last].type_name == e->err_name)
		return put_status(ev, e, ev->errs.raw[0]);
	ev->call.flags |= F_ERROR;
	if (err_has_text(&ev->errs))
		put_str(ev, S_MESSAGE, ev->errs.raw[0], ev->errs.raw[1]);
	return 0;
}

static __always_inline void finish(void *map, struct tr_gokey *key, struct grpc_event *ev,
				   __u8 type)
{
	ev->call.end_ns = bpf_ktime_get_ns();
	if ((ev->call.trace_flags & TRACE_FLAG_SAMPLED) || cfg_count_all)
		call_emit(&ev->call, type, __builtin_offsetof(struct grpc_event, tail),
			  TAIL_CAP + STR_MAX);
	bpf_map_delete_elem(map, key);
}

#endif
