//go:build ignore
//  SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * mongodriver - commands of the official MongoDB driver for Go, v1 and v2, by the bytes
 * that it writes and reads; above TLS, below retries: every attempt is an operation.
 *   start   in (*connection).writeWireMessage, at the call of write
 *   end     in (*connection).readWireMessage, the branch after read
 *   or      in writeWireMessage, at transformNetworkError: the write has failed
 *   or      in (*Operation).moreToComeRoundTrip, after the write: no reply is wanted
 * and, attached when user space has met what it cannot read, or not count, compressed:
 *   pack    in (*Connection).CompressWireMessage, at the call of CompressPayload
 *   end     in Operation.readWireMessage, at the call of decodeResult, for all replies: the
 *           branch after read is then taken off, and errors have ends of their own
 * and in (*pool).checkOut, before and after a caller waits for a connection; and at the
 * beginning of (*connection).connect.
 * A driver's goroutine writes and reads one command at a time, so the goroutine's g is the
 * key. Taken along are the first bytes of the command and of its reply, as they are on
 * the wire; user space parses them. What lies beyond is only counted (documents).
 *
 * Lost by design: the number of documents past MAX_DOCS; waits that no command of the
 * goroutine's follows, those of commands that are not recorded, and those that more goroutines
 * at a time begin than are kept. A wait after which nothing is written is the goroutine's next
 * command's.
 * Minimum kernel: 5.10. Maps: mg_ops, mg_exes; tr_*.
 */
#include "packed.h"

/* Read whose connection c is; what is there of the last command's is the same pool's if
 * known. */
static __noinline int read_conn(struct mg_op *op, const struct mg_driver *d, __u64 c, __u32 known)
{
	struct mongo_event *ev = &op->ev;
	__u64 made_ns = d->made_ns, pool = 0;
	struct go_str s;

	if (d->pool != OFF_NONE)
		pool = read_u64(c + d->pool);
	if (!known || !pool || pool != ev->pool) {
		ev->addr.off = ev->addr.len = 0;
		call_put_gostr(&ev->call, ev->tail, &ev->addr, c + d->addr, &s, 1, ADDR_MAX);
	}
	ev->pool = pool;
	ev->conn = c;
	ev->made_ns = ev->addr.len ? made_ns : 0;
	return 0;
}

/* Whose connection c is. All of a pool have its address, and where a connection or a pool was
 * none can be made without made_ns: until then what the entry has of its last command holds
 * if that was of the same connection or pool. The program that sets it is put on before those
 * of commands and taken off after them. */
static __always_inline void put_conn(struct mg_op *op, const struct mg_driver *d, __u64 c)
{
	struct mongo_event *ev = &op->ev;
	bool known = ev->made_ns && ev->made_ns == d->made_ns;

	if (!known || ev->conn != c)
		read_conn(op, d, c, known);
	ev->call.tail_len = ev->addr.len;
}

/* Fill an entry from the connection c and what is written to it. 0, or what does not look
 * as expected at the first look at an executable's driver. */
static __noinline int fill(struct mg_op *op, struct mg_driver *d, __u64 c, __u64 wm, __u64 len)
{
	if ((!d->sane || op->ev.plain_id || len > REQUEST_MAX) &&
	    bpf_probe_read_user(op->head, 32, (void *)wm))
		count_lost(probe_id, LOST_READ);
	put_conn(op, d, c);
	if (!d->sane) {
		if (!is_message(op, len))
			return CHECK_MESSAGE;
		if (!op->ev.addr.len)
			return CHECK_ADDRESS;
		d->sane = 1;
	}
	op->ev.got = -1;
	if (is_plain(op))
		op->ev.call.tail_len = op->ev.plain_tail;
	else
		take_request(op, wm, len);
	op->ev.plain_id = 0;
	return 0;
}

/* AX c, BX CX ctx, DI SI wm */
static __always_inline int write_start(struct pt_regs *ctx, int major)
{
	struct mg_driver *d;
	struct mg_exe *e;
	struct mg_op *op;
	struct tr_who w;
	__u32 bad;

	if (!who_is(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&mg_exes, &w.proc->exe_id);
	if (!e)
		return 0;
	d = &e->v[major];
	op = begin(&w, GO_ARG2(ctx));
	if (!op)
		return 0;
	bad = fill(op, d, GO_ARG0(ctx), GO_ARG3(ctx), go_reg(ctx, 4));
	if (bad) {
		call_unsane(&op->ev.call, bad);
		call_away(&mg_ops, &w.key, &op->ev.call);
	}
	return 0;
}

static __always_inline int read_end(struct pt_regs *ctx, int major)
{
	struct mg_driver *d;
	struct mg_exe *e;
	struct mg_op *op;
	struct tr_who w;
	__u64 wm, len, err;

	if (!who_is(&w, ctx))
		return 0;
	op = open_op(&w);
	if (!op)
		return 0; /* a server that streams its state to the driver's monitor */
	e = bpf_map_lookup_elem(&mg_exes, &w.proc->exe_id);
	if (!e)
		return 0;
	d = &e->v[major];
	err = go_loc_read(ctx, &d->end[5]);
	if (err) {
		fail(op, w.ge, err, go_loc_read(ctx, &d->end[6]));
	} else {
		wm = go_loc_read(ctx, &d->end[0]);
		len = go_loc_read(ctx, &d->end[1]);
		if (d->decodes && len > REPLY_MAX && is_packed(op, wm)) {
			op->ev.call.flags |= F_PACKED;
			op->ev.call.end_ns = bpf_ktime_get_ns();
			return 0;
		}
		take_reply(op, wm, len);
	}
	finish(op, &w.key);
	return 0;
}

/* What checkOut's select chose: the compiler numbers what is received from the last case to
 * the first (walk/select.go), and that the connection is there is the first of two. */
#define CHOSE_READY 1

static __always_inline int waited(struct pt_regs *ctx, int major)
{
	struct mg_exe *e;
	struct mg_op *op;
	struct tr_who w;
	__u64 from;

	if (!who_is(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&mg_exes, &w.proc->exe_id);
	op = bpf_map_lookup_elem(&mg_ops, &w.key);
	if (!e || !op || op->ev.wait_from <= WAIT_OVER)
		return 0;
	from = op->ev.wait_from;
	op->ev.wait_from = 0;
	if ((__u32)go_loc_read(ctx, &e->v[major].chosen) != CHOSE_READY)
		return 0; /* the caller's context was over */
	op->ev.wait_from = WAIT_OVER;
	op->ev.waited_ns = bpf_ktime_get_ns() - from;
	return 0;
}

/* in func (c *connection) writeWireMessage(ctx context.Context, wm []byte) error, at the
 * call of func (c *connection) write(ctx context.Context, wm []byte) error */
SEC("uprobe")
int mg_write_v1(struct pt_regs *ctx)
{
	return write_start(ctx, 0);
}

SEC("uprobe")
int mg_write_v2(struct pt_regs *ctx)
{
	return write_start(ctx, 1);
}

/* in func (c *connection) readWireMessage(ctx context.Context) ([]byte, error), after
 * func (c *connection) read(ctx context.Context) ([]byte, string, error) */
SEC("uprobe")
int mg_read_v1(struct pt_regs *ctx)
{
	return read_end(ctx, 0);
}

SEC("uprobe")
int mg_read_v2(struct pt_regs *ctx)
{
	return read_end(ctx, 1);
}

/* in writeWireMessage, and where replies end at decodeResult in readWireMessage, at the call of
 * func transformNetworkError(ctx context.Context, originalError error, used bool) error
 * AX BX ctx, CX DI the error */
SEC("uprobe")
int mg_write_failed(struct pt_regs *ctx)
{
	struct mg_op *op;
	struct tr_who w;

	if (!who_is(&w, ctx))
		return 0;
	op = open_op(&w);
	if (!op)
		return 0;
	fail(op, w.ge, GO_ARG2(ctx), GO_ARG3(ctx));
	finish(op, &w.key);
	return 0;
}

/* in func (op *Operation) moreToComeRoundTrip(ctx, conn, wm) ([]byte, error), at the call
 * of bsoncore.AppendInt32Element with which it makes up a reply */
SEC("uprobe")
int mg_no_reply(struct pt_regs *ctx)
{
	struct mg_op *op;
	struct tr_who w;

	if (!who_is(&w, ctx))
		return 0;
	op = open_op(&w);
	if (!op)
		return 0;
	op->ev.call.flags |= F_NO_REPLY;
	finish(op, &w.key);
	return 0;
}

/* in func (p *pool) checkOut(ctx context.Context) (*connection, error), at the call of
 * runtime.selectgo, which those come to for whom no connection is idle */
SEC("uprobe")
int mg_wait(struct pt_regs *ctx)
{
	struct mg_op *op;
	struct tr_who w;

	if (!who_is(&w, ctx))
		return 0;
	op = next_op(&w, true);
	if (!op)
		return 0;
	/* In place of one before: who got a connection would have written a command. */
	op->ev.wait_from = bpf_ktime_get_ns();
	return 0;
}

/* after it */
SEC("uprobe")
int mg_waited_v1(struct pt_regs *ctx)
{
	return waited(ctx, 0);
}

SEC("uprobe")
int mg_waited_v2(struct pt_regs *ctx)
{
	return waited(ctx, 1);
}

static __always_inline int connects(struct pt_regs *ctx, int major)
{
	struct mg_exe *e;
	struct tr_who w;

	if (!who_is(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&mg_exes, &w.proc->exe_id);
	if (e)
		e->v[major].made_ns = bpf_ktime_get_ns();
	return 0;
}

/* func (c *connection) connect(ctx context.Context) error, before it dials */
SEC("uprobe")
int mg_connect_v1(struct pt_regs *ctx)
{
	return connects(ctx, 0);
}

SEC("uprobe")
int mg_connect_v2(struct pt_regs *ctx)
{
	return connects(ctx, 1);
}

/* in func (c *Connection) CompressWireMessage(src, dst []byte) ([]byte, error), at the call of
 * func CompressPayload(in []byte, opts CompressionOpts) ([]byte, error)
 * AX BX CX in: src behind its header. src's buffer may have another message in it when this
 * one is written. */
SEC("uprobe")
int mg_pack(struct pt_regs *ctx)
{
	struct mg_op *op;
	struct tr_who w;

	if (!who_is(&w, ctx))
		return 0;
	op = next_op(&w, false);
	if (op)
		keep_plain(op, GO_ARG0(ctx) - HEADER_LEN, GO_ARG1(ctx) + HEADER_LEN);
	return 0;
}

/* in func (op Operation) readWireMessage, at the call of
 * func (op Operation) decodeResult(opcode wiremessage.OpCode, wm []byte) (bsoncore.Document, error)
 * whose arguments were others: take_decoded */
SEC("uprobe")
int mg_decode_v1(struct pt_regs *ctx)
{
	return decode_start(ctx, 0);
}

SEC("uprobe")
int mg_decode_v2(struct pt_regs *ctx)
{
	return decode_start(ctx, 1);
}

/* in func (Operation) decompressWireMessage, where it goes when there is an error after
 * func DecompressPayload(in []byte, opts CompressionOpts) ([]byte, error) */
SEC("uprobe")
int mg_unpack_failed_v1(struct pt_regs *ctx)
{
	return unpack_failed(ctx, 0);
}

SEC("uprobe")
int mg_unpack_failed_v2(struct pt_regs *ctx)
{
	return unpack_failed(ctx, 1);
}

char LICENSE[] SEC("license") = "GPL";

/* Keep the enums that user space shares in the object's BTF. */
const enum mongo_event_type *keep_type __attribute__((unused));
const enum mg_flag *keep_flag __attribute__((unused));
const enum mg_check *keep_check __attribute__((unused));
