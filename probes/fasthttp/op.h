/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * op.h - a request in flight, its record, and what must be known of an executable.
 */
#ifndef FH_OP_H
#define FH_OP_H

#include "../../bpf/lib/call.h"
#include "../../bpf/lib/goconn.h"
#include "../../bpf/lib/headers.h"

#define CAP     1536 /* bytes of strings in one record */
#define STR_MAX 511  /* bytes of one string */
#define KV_MAX  64   /* bytes of argsKV, at most */
#define BATCH   8    /* headers that are read at once */

enum fh_type {
	FH_SERVER = 1,
};

enum fh_check {
	FH_CHECK_METHOD = 2, /* the method is not a token */
};

enum fh_flag {
	FH_TLS = 1 << 0,
	FH_REMOTE_PARENT = 1 << 1,
	FH_HTTP10 = 1 << 2,
};

enum fh_str {
	FS_METHOD,
	FS_URI,
	FS_HOST,
	FS_USER_AGENT,
	FS_ROUTE,
	FS_TRACESTATE,
	FS_FORWARDED_FOR,
	FS_FORWARDED,
	FS_CAPTURE0,                  /* configured request headers */
	FS_ANSWER0 = FS_CAPTURE0 + 6, /* and response headers */
	FS_ANSWERS = 4,
	FS_COUNT = FS_ANSWER0 + FS_ANSWERS,
};

/* Slots of cfg_hdrs: string FS_CAPTURE0 + slot, unless cfg_answers says otherwise. */
#define CAPTURES (FS_ANSWER0 - FS_CAPTURE0)
#define SLOTS    (FS_COUNT - FS_CAPTURE0)

const volatile __u64 cfg_answer_lens = 0;         /* as cfg_hdr_lens, of response headers */
const volatile __u8 cfg_answers[FS_ANSWERS] = {}; /* their slots + 1, 0: none */

struct fh_event {
	struct tr_call call;
	__s64 req_size;  /* -1 chunked, -2 none said */
	__s64 resp_size; /* -1 unknown */
	__s32 status;
	__u32 peer_port;
	__u8 peer_ip[16]; /* all zero: unknown */
	struct tr_str str[FS_COUNT];
	__u8 tail[CAP + STR_MAX];
};

struct fh_op {
	struct fh_event ev;
	/* private */
	__u64 req;  /* *Request */
	__u64 conn; /* data pointer of the connection's net.Conn */
	__u64 trace_len;
	struct go_str key; /* of the header in work */
	struct go_str val;
	__u64 word[3];
	__u64 answered;             /* headers are the response's */
	__u64 lens;                 /* of configured headers that are looked for, as cfg_hdr_lens */
	struct go_str found[SLOTS]; /* values of configured headers */
	__s64 body_size;            /* of the body that is recorded next */
	struct go_str s;
	struct tr_goio io;
	struct traceparent parent;
	__u8 tp[80];
	__u64 kv[(BATCH * KV_MAX + 64) / 8]; /* headers: of words, as slices lie */
};

struct fh_exe {
	__u8 sane; /* set here */
	__u8 join;
	__u16 ctx_req, ctx_resp, ctx_conn;
	__u16 req_tls;
	/* from the beginning of Request */
	__u16 method, uri, host, agent, hdrs, clen, no_http11;
	__u16 kv_key, kv_value, kv_size;
	__u16 req_ctype, req_stream, req_body, req_raw;
	/* from the beginning of Response */
	__u16 stream, body, raw, status, resp_clen, resp_ctype, resp_hdrs;
	__u16 fiber2_route, fiber2_use, fiber2_path; /* Ctx.route, Route.use, Route.Path */
	__u16 fiber3_route, fiber3_use, fiber3_path;
	struct tr_goconn conn;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_EXES);
	__type(key, __u32);
	__type(value, struct fh_exe);
} fh_exes SEC(".maps");

/* Requests in flight. Key: tgid, goid. Deleted at the end, or, of a body that is refused
 * without an end that is seen, by the goroutine's next one, or aged out by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct fh_op);
} fh_ops SEC(".maps");

const struct fh_op fh_zero = {};
const struct tr_scope scope_zero = {};

static __noinline int put(struct fh_op *op, __u32 i, __u64 ptr, __u64 len)
{
	if (!op || i >= FS_COUNT)
		return 0;
	return call_put(&op->ev.call, op->ev.tail, &op->ev.str[i], ptr, len, CAP, STR_MAX);
}

/* Append the string or []byte whose first two words are at addr. */
static __noinline int put_at(struct fh_op *op, __u32 i, __u64 addr)
{
	if (!op)
		return 0;
	op->s.ptr = op->s.len = 0;
	bpf_probe_read_user(&op->s, sizeof(op->s), (void *)addr);
	return put(op, i, op->s.ptr, op->s.len);
}

#endif
