/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * op.h - one HTTP operation in flight, server or client. The map value holds the
 * record: it is filled in place at the start, completed at the end and copied
 * to the ring buffer once. A uprobe program can be preempted, so what does not fit on
 * its small stack is in its goroutine's own entry, which is touched by nobody else, or
 * in a scratch that no other program uses meanwhile.
 */
#ifndef NH_OP_H
#define NH_OP_H

#include "exe.h"
#include "../../bpf/lib/event.h"
#include "../../bpf/lib/goconn.h"
#include "../../bpf/lib/goerr.h"
#include "../../bpf/lib/gokin.h"
#include "../../bpf/lib/headers.h"
#include "../../bpf/lib/tracectx.h"

#define TAIL_MAX 1536 /* bytes of strings in one record */
#define STR_MAX  511  /* bytes of one string; longer ones are cut and marked */
#define REQ_MAX  512  /* bytes of http.Request that are read */

const volatile __u16 probe_id = 1;

enum nethttp_event_type {
	NH_SERVER = 1,
	NH_CLIENT = 2,
	NH_UNSANE = 3,  /* head only: status holds what failed, enum nh_check */
	NH_COUNTED = 5, /* struct nethttp_counted */
};

enum nh_check {
	CHECK_G = 1,       /* g.m.curg does not lead back to g */
	CHECK_METHOD = 2,  /* request method is not a token */
	CHECK_URL = 3,     /* no URL */
	CHECK_CONTEXT = 4, /* no context */
	CHECK_LATER = 5,   /* no verdict: this request is not recorded, the next one decides */
};

enum nh_flag {
	F_REMOTE_PARENT = 1 << 0,
	F_PANIC = 1 << 1,    /* ended by a panic that nobody recovered */
	F_GOEXIT = 1 << 2,   /* ended by runtime.Goexit */
	F_HIJACKED = 1 << 3, /* the handler took the connection over */
	F_ERROR = 1 << 4,    /* client: err holds the error */
	F_TLS = 1 << 5,
	F_H2 = 1 << 6,
	F_USERINFO = 1 << 7,   /* the URL has a user part; it is not read */
	F_CUT = 1 << 8,        /* some string was longer than STR_MAX */
	F_TAIL_FULL = 1 << 9,  /* some string did not fit in the record */
	F_SAW_PANIC = 1 << 10, /* str PANIC_MSG / panic_type are set */
	F_WROTE_HEADER = 1 << 11,
	F_CONN_ERROR = 1 << 12,      /* client: no connection was had */
	F_MUX_COPY = 1 << 13,        /* ServeMux saw a copy of the request */
	F_MUX_SAME = 1 << 14,        /* ServeMux saw the request itself */
	F_JOINED = 1 << 16,          /* server: the parent was found by connection */
	F_RAW_PATH = 1 << 15,        /* client: the path is given as it is encoded */
	F_ROUTED = 1 << 17,          /* server: the route is a router's, not ServeMux's */
	F_GOT_CONN = 1 << 18,        /* client: a connection was had */
	F_NEW_CONN = 1 << 19,        /* client: and nobody had it before; dial is set */
	F_ANSWERED = 1 << 20,        /* the response's headers were looked at */
	F_LOOKED_REQUEST = 1 << 21,  /* its body was looked at, had it been JSON */
	F_LOOKED_RESPONSE = 1 << 22, /* the same of the response */
	F_ROUTE_ECHO = 1 << 24, /* server: echo v4's, which may give the path where it has none */
};

/* Strings of a record, in str[]. */
enum nh_str {
	S_METHOD = 0,
	S_URI,  /* server: RequestURI; client: URL.Path, or URL.RawPath (F_RAW_PATH) */
	S_HOST, /* server: Request.Host; client: URL.Host */
	S_PEER, /* server: RemoteAddr */
	S_ROUTE,
	S_SCHEME, /* client */
	S_QUERY,  /* client */
	S_PANIC_MSG,
	S_ERR_MSG,
	S_USER_AGENT, /* from here on: request headers, values of tr_hdrs */
	S_TRACEPARENT,
	S_TRACESTATE,
	S_FORWARDED_FOR,
	S_FORWARDED,
	S_UPGRADE,
	S_CAPTURE0,                 /* configured ones */
	S_ANSWER0 = S_CAPTURE0 + 6, /* configured response headers */
	S_ANSWERS = 4,
	S_COUNT = S_ANSWER0 + S_ANSWERS,
	HDR_CONTENT_TYPE = S_COUNT, /* headers that are looked at and not recorded */
	HDR_CONTENT_LENGTH,
	HDR_COUNT,
};
_Static_assert(HDR_COUNT <= MAX_HDR_SLOTS, "a header's slot is its string number");

struct nh_span {
	__u16 off, len; /* in tail */
};

/* How a connection was made. */
struct nh_made {
	__u64 start_ns;          /* CLOCK_MONOTONIC */
	__u32 dial_us;           /* 0: not known */
	__u32 tls_at_us, tls_us; /* after the start; 0: no TLS */
	__u32 pad;
};

struct nethttp_event {
	struct event_hdr hdr;
	__u64 trace_id[2];
	__u64 span_id;
	__u64 parent_id;
	__u64 start_ns; /* CLOCK_MONOTONIC */
	__u64 end_ns;
	__u64 goid;
	__s64 req_size; /* -1 unknown */
	__s64 resp_size;
	__s32 status; /* 0 none */
	__u32 flags;
	__u8 trace_flags;
	__u8 proto_major;
	__u8 proto_minor;
	__u8 peer_ip_len; /* 0, 4 or 16 */
	__u8 resend;      /* client: how many attempts of the same call came before */
	__u8 pad0[3];
	__u32 tail_len;
	struct nh_span str[S_COUNT];
	/* from here on: what few server requests have */
	struct tr_errtype panic_type;
	__u64 panic_raw[2];
	__u32 peer_port;
	__u8 peer_ip[16];
	__u32 pad1;
	struct tr_errs err;
	struct nh_made dial;
	__u8 tail[TAIL_MAX + STR_MAX + 1];
};

/* The record of a server request that is counted only. Its strings are cut where no
 * metric tells them apart any more. */
struct nethttp_counted {
	struct event_hdr hdr;
	__u64 start_ns;
	__u64 end_ns;
	__s64 req_size;
	__s64 resp_size;
	__u64 method; /* its first 8 bytes; no known method has as many */
	__s32 status;
	__u32 flags;
	__u8 proto_major;
	__u8 proto_minor;
	__u16 route_len;
	__u32 pad;
	__u8 route[STR_MAX + 1];
};

/* What a program needs only while it runs. */
struct nh_scratch {
	__u32 users;      /* programs that use it or try to: see scratch_get */
	__u32 parent_len; /* of the traceparent header, 0 = none */
	struct tr_goio io;
	struct traceparent parent;
	__u8 tp[80];            /* a traceparent header as it was read */
	__u8 obj[REQ_MAX + 16]; /* a copy of the request structure, or the response's */
	struct hdr_scan scan;
	struct nethttp_counted counted;
};

/* The map's value: what is private to the programs, then the record. */
struct nh_op {
	__u64 start_ns; /* as in the record */
	__u64 req;      /* *http.Request */
	__u64 rw;       /* the ResponseWriter's data pointer; client: *persistConn, for body.h */
	__u64 mux_req;  /* the request that ServeMux routed */
	__u64 uri_ptr;  /* RequestURI's bytes: tells a copy of this request */
	__u64 method;   /* server, counted only: as in nethttp_counted */
	__s64 req_size; /* server, lite: as in the record */
	__u64 peer_ptr; /* server: RemoteAddr whose bytes are at the tail's beginning, */
	__u32 peer_len; /* from an earlier request on the connection */
	__u16 peer_port;
	__u16 open;       /* 0: the entry waits for the goroutine's next request */
	__u32 epoch;      /* tr_proc.epoch at the start */
	__u8 xnet;        /* server: HTTP/2 is golang.org/x/net's */
	__u8 lite;        /* server: see lite.h */
	__u8 lite_flags;  /* enum nh_flag of a lite one */
	__u8 proto_minor; /* the same */
	__u8 direct;      /* so many next requests are not tried as lite ones */
	__u8 pad[7];
	__u64 shared_ns;   /* when the goroutine's scope was shared, 0: it is not */
	struct go_str s;   /* scratch */
	__u64 ctx;         /* data pointer of the request's context.Context */
	__s64 body_size;   /* of the body that is recorded next */
	__u16 body_left;   /* server: how much of the request's body was not there at the start, */
	__u16 body_w;      /* and where the buffer ended */
	__u32 h2_next;     /* server, HTTP/2: how much of the body's first chunk was read */
	__u64 h2_chunk;    /* that chunk */
	__u64 h2_pipe;     /* the request's *pipe; 0: its body is not looked at any more */
	__u64 trace_id[2]; /* drawn for the request by lite.h, or 0 */
	struct nethttp_event ev;
};

/* The same of a client's call. */
struct nh_call {
	struct nh_op op;
	__u64 conn;  /* *persistConn or *ClientConn */
	__u64 h2req; /* the request that HTTP/2 was given */
	__u64 hdr;   /* the request's header map */
	__u64 url;   /* the request's *url.URL */
	__u64 bw;    /* the connection's *bufio.Writer, a key in nh_reqs; or 0 */
	__u64 g;     /* the calling goroutine's g */
	struct nh_scratch x;
};

/* Operations in flight. Key: tgid, goid. Inserted at the start; deleted at the
 * end, by the agent when the process exits, and when found to be abandoned. An entry may
 * be kept for the goroutine's next operation, with open = 0. Not LRU: a full map refuses
 * the newest, and counts it. User space sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct nh_op);
} nh_server SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct nh_call);
} nh_client SEC(".maps");

/* Entries that programs inserted in nh_server less those they deleted, and those
 * that user space deleted; the same of nh_client. Past cfg_keep none is kept for a next
 * request or call. */
__u64 nh_entries = 0, nh_calls = 0;
volatile __u64 nh_forgotten = 0, nh_calls_forgotten = 0;
const volatile __u64 cfg_keep = 2048;

/* The template of new entries. */
const struct nh_call nh_zero = {};

/* HTTP/1 requests that wait to be written. Key: tgid, *bufio.Writer of the connection,
 * which carries one request at a time. Value: goid of the operation in nh_client, 0 when
 * the headers are written or the operation has ended: the connection's next request finds
 * the entry again. LRU: what is found in it must be shown to be the operation's. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct tr_gokey);
	__type(value, __u64);
} nh_reqs SEC(".maps");

/* A goroutine that writes a request's headers for the one that called: what it needs
 * of the operation, copied, because the call may end at any moment and its entry be
 * another's. Of HTTP/1 in the processor's scratch, of HTTP/2 in nh_writers. Key: tgid, goid
 * of the writer. Inserted when the writing begins, deleted when the header is written; user
 * space ages out those of writes that failed before. No LRU map: an entry must not become
 * another's while its goroutine writes. */
struct nh_writer {
	__u64 start_ns;    /* of the note */
	__u64 op_start_ns; /* of the operation */
	__u64 caller;      /* goid of the operation in nh_client */
	__u64 hdr;         /* the request's header map */
	__u64 conn;        /* *persistConn or *ClientConn */
	__u32 exe_id;
	__u32 epoch; /* tr_proc.epoch */
	struct tr_goio io;
	struct nh_buf { /* where it is written: a bufio.Writer of the target */
		__u64 addr;
		__u64 n, room; /* how much is in it, and what is free behind that */
		__u64 n_addr;  /* of the word that holds n */
	} buf;
	__u64 grown; /* n with the header */
	__u8 tp[80]; /* a traceparent header as it is written; from 72 on a frame's length */
	struct hdr_scan scan;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct nh_writer);
} nh_writers SEC(".maps");

/* Scratch of programs that run for so many connections that a copy in
 * each one's entry would never be in a processor's cache. A program can be preempted,
 * and another one run on the same processor: each takes one that nobody uses. */
#define SCRATCHES 4

/* A writer of HTTP/1 has all that it needs in one program. */
struct nh_slot {
	struct nh_scratch x;
	struct nh_writer w;
};

struct nh_scratches {
	__u32 zero; /* hides from the verifier which one is taken: it follows one path, not four */
	__u32 pad;
	struct nh_slot slot[SCRATCHES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nh_scratches);
} nh_scratch SEC(".maps");

/* The scratch that this program may use until scratch_put; NULL when there is none. A program that
 * finds a number other than its own 1 leaves it alone: of two that interrupt each other none or one
 * gets it. Atomics that fetch need Linux 5.12. */
static __always_inline struct nh_scratch *scratch_get(void)
{
	__u32 zero = 0;
	struct nh_scratches *all = bpf_map_lookup_elem(&nh_scratch, &zero);

	if (!all)
		return NULL;
	for (__u32 i = 0; i < SCRATCHES; i++) {
		__u32 at = i + (all->zero & (SCRATCHES - 1));
		struct nh_scratch *x;

		asm volatile("%0 &= 3" : "+r"(at));
		_Static_assert(SCRATCHES == 4, "mask above");
		x = &all->slot[at].x;
		__sync_fetch_and_add(&x->users, 1);
		if (*(volatile __u32 *)&x->users == 1)
			return x;
		__sync_fetch_and_add(&x->users, -1);
	}
	return NULL;
}

static __always_inline void scratch_put(struct nh_scratch *x)
{
	__sync_fetch_and_add(&x->users, -1);
}

static __always_inline struct nh_writer *scratch_writer(struct nh_scratch *x)
{
	return &((struct nh_slot *)x)->w;
}

/* What became of each attempt to hand on a trace. */
enum nh_prop {
	PROP_JOIN_SAID = 0, /* client: announced by connection */
	PROP_JOIN_UNKNOWN,  /* client: the connection is of no known type */
	PROP_JOINED,        /* server: found by connection */
	PROP_WRITTEN,       /* client: header written */
	PROP_KEPT,          /* client: the program's own traceparent was kept */
	PROP_UNPROVEN,      /* client: too many headers to prove that there is none */
	PROP_NO_ROOM,       /* client: no room in the buffer */
	PROP_UNKNOWN,       /* client: the buffer does not look as expected */
	PROP_FAILED,        /* client: the write was refused */
	PROP_COUNT,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROP_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} nh_props SEC(".maps");

static __always_inline void count_prop(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&nh_props, &what);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/* Append len bytes at ptr of the target to the tail as string i. */
static __noinline int put_str(struct nh_op *op, __u32 i, __u64 ptr, __u64 len)
{
	__u32 off = op->ev.tail_len, n = len;

	if (!ptr || !len || i >= S_COUNT)
		return 0;
	if (len > STR_MAX) {
		n = STR_MAX;
		op->ev.flags |= F_CUT;
	}
	if (off > TAIL_MAX - 1) {
		op->ev.flags |= F_TAIL_FULL;
		return 0;
	}
	/* verifier(all): bounds in a form it keeps through spills */
	asm volatile("%0 &= 511" : "+r"(n));
	asm volatile("if %0 <= 1535 goto +1; %0 = 0" : "+r"(off));
	_Static_assert(STR_MAX == 511 && TAIL_MAX == 1536, "masks above");
	if (bpf_probe_read_user(&op->ev.tail[off], n, (void *)ptr)) {
		if (i != S_ERR_MSG && i != S_PANIC_MSG)
			count_lost(probe_id, LOST_READ);
		return 0;
	}
	op->ev.str[i].off = off;
	op->ev.str[i].len = n;
	op->ev.tail_len = off + n;
	return 0;
}

/* Append the Go string whose header is in the copied structure at off. */
static __always_inline void put_field(struct nh_op *op, struct nh_scratch *x, __u32 i, __u16 off)
{
	struct go_str *v = (struct go_str *)&x->obj[off & (REQ_MAX - 1)];

	put_str(op, i, v->ptr, v->len);
}

static __always_inline __u64 obj_u64(struct nh_scratch *x, __u16 off)
{
	return *(__u64 *)&x->obj[off & (REQ_MAX - 1)];
}

/* Append the Go string whose header is at addr. */
static __always_inline void put_gostr(struct nh_op *op, __u32 i, __u64 addr)
{
	struct go_str *v = &op->s;

	v->ptr = v->len = 0;
	bpf_probe_read_user(v, sizeof(*v), (void *)addr);
	put_str(op, i, v->ptr, v->len);
}

static __always_inline void emit(struct nh_op *op, __u8 type)
{
	__u32 tail = op->ev.tail_len;

	/* verifier(all): as above; put_str keeps tail_len below TAIL_MAX + STR_MAX */
	asm volatile("if %0 <= 2047 goto +1; %0 = 0" : "+r"(tail));
	_Static_assert(TAIL_MAX + STR_MAX == 2047, "bound above");
	tail += __builtin_offsetof(struct nethttp_event, tail);
	op->ev.hdr.type = type;
	op->ev.hdr.len = tail;
	if (event_output(&op->ev, tail))
		count_lost(probe_id, LOST_RING_FULL);
}

/* The whole entry of an operation in nh_client. */
static __always_inline struct nh_call *call_of(struct nh_op *op)
{
	return (struct nh_call *)op;
}

/* The head of an operation that begins now, in an entry whose record is zero. */
static __always_inline void op_begin(struct nh_op *op, struct tr_gokey *key, struct tr_proc *proc)
{
	op->ev.hdr.probe_id = probe_id;
	op->ev.hdr.tgid = key->tgid;
	op->ev.hdr.exe_id = proc->exe_id;
	op->ev.hdr.proc_start_ns = proc->start_ns;
	op->ev.goid = key->id;
	op->start_ns = op->ev.start_ns = bpf_ktime_get_ns();
	op->epoch = proc->epoch;
	op->open = 1;
}

/* A new entry; NULL and counted when the map is full. */
static __always_inline struct nh_op *op_insert(void *map, struct tr_gokey *key)
{
	if (bpf_map_update_elem(map, key, &nh_zero, BPF_ANY)) {
		count_lost(probe_id, LOST_MAP_FULL);
		return NULL;
	}
	return bpf_map_lookup_elem(map, key);
}

/* Whether c may be in a token, such as a method (RFC 9110, 5.6.2). */
static __always_inline bool is_tchar(__u8 c)
{
	__u64 set = c & 0x40 ? 0x57ffffffc7fffffeULL : 0x03ff6cfa00000000ULL;

	return !(c & 0x80) && set >> (c & 0x3f) & 1;
}

/* The executable looks unlike what the offsets say: tell user space, which
 * refuses it. No span comes of this call. */
static __always_inline void unsane(struct nh_op *op, enum nh_check what)
{
	if (what == CHECK_LATER) {
		count_lost(probe_id, LOST_READ);
		return;
	}
	op->ev.status = what;
	op->ev.tail_len = 0;
	count_lost(probe_id, LOST_UNSANE);
	emit(op, NH_UNSANE);
}

/* Record a chain of errors from the words itab, data of an error interface. */
static __always_inline void put_error(struct nh_op *op, struct tr_goexe *ge, __u64 itab, __u64 data)
{
	op->ev.flags |= F_ERROR;
	err_chain(&op->ev.err, ge, op->ev.hdr.exe_id, itab, data);
	if (err_has_text(&op->ev.err))
		put_str(op, S_ERR_MSG, op->ev.err.raw[0], op->ev.err.raw[1]);
}

#endif
