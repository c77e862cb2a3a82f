//go:build ignore
//  SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * websocket - connections of gorilla/websocket and coder/websocket (once
 * nhooyr.io/websocket), server and client: one operation from upgrade to close.
 *
 * Hits: one per connection and end, one per message read, one per frame written; a
 * message is one frame unless it is larger than the program's write buffer.
 *   begin   after newConn, in the functions that call it
 *   read    gorilla: (*Conn).NextReader, which says what the message before it was;
 *           coder: (*msgReader).reset
 *   write   gorilla: (*Conn).write, WriteControl; coder: (*Conn).writeFrame
 *   end     gorilla, whose Close the compiler puts into its callers: (*net.netFD).Close;
 *           coder: (*Conn).close
 *
 *   other libraries, or none: begin (*response).Hijack of net/http, for a request that asks
 *           for a WebSocket; end (*net.netFD).Close, attached once there is such a connection
 *
 * Lost by design: of a message that coder receives in several frames only the first
 * one's bytes count; connections that are never closed.
 * Minimum kernel: 5.10. Maps: ws_conns, ws_fds, ws_scans, ws_exes,
 * ws_counts; tr_*.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "taken.h"

static __always_inline int begin(struct pt_regs *ctx, __u32 where, bool client)
{
	struct tr_who w;
	struct ws_exe *e;
	struct ws_op *op;
	__u64 conn;

	if (!who_runs(&w, ctx))
		return 0;
	e = bpf_map_lookup_elem(&ws_exes, &w.proc->exe_id);
	if (!e || !w.key.id)
		return 0;
	conn = go_loc_read(ctx, &e->begin[where]);
	if (!conn)
		return 0;
	op = open_conn(ctx, &w, conn, client ? WS_CLIENT : 0);
	if (!op)
		return 0;
	/* kept: a result that nobody reads is not set, and may be a pointer then */
	op->known = peer(op, &w, e,
			 conn + (where <= BEGIN_GORILLA_CLIENT ? e->g_conn
				 : where <= BEGIN_CODER_CLIENT ? e->c_rwc
							       : e->n_rwc),
			 where <= BEGIN_GORILLA_CLIENT);
	if (where <= BEGIN_GORILLA_CLIENT)
		end_with_socket(op, &w.key);
	return opened(op, &w.key);
}

/* func (w *response) Hijack() (rwc net.Conn, buf *bufio.ReadWriter, err error)   AX w */
SEC("uprobe")
int ws_taken(struct pt_regs *ctx)
{
	struct tr_who w;

	return who_runs(&w, ctx) ? taken(ctx, &w) : 0;
}

/* in func (u *Upgrader) Upgrade(...) of gorilla, after newConn */
SEC("uprobe")
int ws_g_server(struct pt_regs *ctx)
{
	return begin(ctx, BEGIN_GORILLA_SERVER, false);
}

/* in func (d *Dialer) DialContext(...) of gorilla, after newConn */
SEC("uprobe")
int ws_g_client(struct pt_regs *ctx)
{
	return begin(ctx, BEGIN_GORILLA_CLIENT, true);
}

/* in func accept(...) of coder, after newConn */
SEC("uprobe")
int ws_c_server(struct pt_regs *ctx)
{
	return begin(ctx, BEGIN_CODER_SERVER, false);
}

/* in func dial(...) of coder, after newConn */
SEC("uprobe")
int ws_c_client(struct pt_regs *ctx)
{
	return begin(ctx, BEGIN_CODER_CLIENT, true);
}

SEC("uprobe")
int ws_n_server(struct pt_regs *ctx)
{
	return begin(ctx, BEGIN_NHOOYR_SERVER, false);
}

SEC("uprobe")
int ws_n_client(struct pt_regs *ctx)
{
	return begin(ctx, BEGIN_NHOOYR_CLIENT, true);
}

/* The open connection of the *Conn at conn. */
static __always_inline struct ws_op *conn_op(struct tr_who *w, __u64 conn)
{
	w->key.tgid = 0;
	w->proc = watched(&w->key);
	if (!w->proc)
		return NULL;
	w->key.id = conn;
	return call_open(&ws_conns, w);
}

/* What the message before the one that is now asked for was. */
static __always_inline void gorilla_read(struct ws_op *op, struct ws_exe *e)
{
	if (!read_u64(op->conn + e->g_reader))
		return; /* there was none: the first call, or one that failed */
	op->ev.msgs_in++;
	op->ev.bytes_in += read_u64(op->conn + e->g_read_length);
}

/* func (c *Conn) NextReader() (messageType int, r io.Reader, err error)   AX c */
SEC("uprobe")
int ws_g_read(struct pt_regs *ctx)
{
	struct tr_who w;
	struct ws_op *op = conn_op(&w, GO_ARG0(ctx));
	struct ws_exe *e;

	if (!op)
		return 0;
	e = bpf_map_lookup_elem(&ws_exes, &w.proc->exe_id);
	if (e)
		gorilla_read(op, e);
	return 0;
}

/* func (c *Conn) write(frameType int, deadline time.Time, buf0, buf1 []byte) error
 * AX c, BX frameType, CX DI SI deadline, R8 R9 R10 buf0, which begins with the frame's
 * header: https://www.rfc-editor.org/rfc/rfc6455#section-5.2 */
SEC("uprobe")
int ws_g_write(struct pt_regs *ctx)
{
	struct tr_who w;
	struct ws_op *op = conn_op(&w, GO_ARG0(ctx));
	__u64 n;
	__u8 opcode;

	if (!op || go_reg(ctx, 6) < 2)
		return 0;
	/* the buffer has room for the longest header and more */
	if (bpf_probe_read_user(op->head, 14, (void *)go_reg(ctx, 5)))
		return 0;
	opcode = op->head[0] & 0x0f;
	n = op->head[1] & 0x7f;
	if (opcode == OP_CLOSE && n >= 2) {
		bool masked = op->head[1] & 0x80;
		__u16 code = op->head[masked ? 6 : 2] << 8 | op->head[masked ? 7 : 3];

		if (masked)
			code ^= op->head[2] << 8 | op->head[3];
		op->ev.close_code = code;
	}
	if (opcode & OP_CONTROL)
		return 0;
	if (n == 126)
		n = op->head[2] << 8 | op->head[3];
	else if (n == 127)
		n = bpf_be64_to_cpu(*(__u64 *)&op->head[2]) & ~(1ULL << 63);
	op->ev.bytes_out += n;
	if (op->head[0] & 0x80)
		op->ev.msgs_out++;
	return 0;
}

static __always_inline void close_code(struct ws_op *op, __u64 ptr, __u64 len)
{
	if (len < 2 || op->ev.close_code || bpf_probe_read_user(op->head, 2, (void *)ptr))
		return;
	op->ev.close_code = op->head[0] << 8 | op->head[1];
}

/* func (c *Conn) WriteControl(messageType int, data []byte, deadline time.Time) error
 * AX c, BX messageType, CX DI SI data */
SEC("uprobe")
int ws_g_control(struct pt_regs *ctx)
{
	struct tr_who w;
	struct ws_op *op;

	if (GO_ARG1(ctx) != OP_CLOSE)
		return 0;
	op = conn_op(&w, GO_ARG0(ctx));
	if (op)
		close_code(op, GO_ARG2(ctx), GO_ARG3(ctx));
	return 0;
}

/* func (fd *netFD) Close() error   AX fd. Runs for every connection of the program. */
SEC("uprobe")
int ws_fd_close(struct pt_regs *ctx)
{
	struct tr_who w;
	struct ws_exe *e;
	struct ws_op *op;
	__u64 *conn;

	w.key.tgid = 0;
	w.proc = watched(&w.key);
	if (!w.proc)
		return 0;
	w.key.id = GO_ARG0(ctx);
	conn = bpf_map_lookup_elem(&ws_fds, &w.key);
	if (!conn)
		return 0;
	w.key.id = *conn;
	op = call_open(&ws_conns, &w);
	e = bpf_map_lookup_elem(&ws_exes, &w.proc->exe_id);
	if (!op || !e)
		return 0;
	if (op->ev.call.flags & WS_RAW)
		raw_end(op);
	else
		gorilla_read(op, e);
	end(op, &w.key);
	return 0;
}

/* func (mr *msgReader) reset(ctx context.Context, h header)   AX mr; h is on the stack,
 * being more words than there are registers left */
static __always_inline int coder_read(struct pt_regs *ctx, bool old)
{
	struct tr_who w;
	struct ws_exe *e;
	struct ws_op *op;
	__s64 n;

	w.key.tgid = 0;
	w.proc = watched(&w.key);
	if (!w.proc)
		return 0;
	e = bpf_map_lookup_elem(&ws_exes, &w.proc->exe_id);
	if (!e)
		return 0;
	w.key.id = read_u64(GO_ARG0(ctx) + (old ? e->n_reader_conn : e->c_reader_conn));
	op = call_open(&ws_conns, &w);
	if (!op)
		return 0;
	n = read_u64(GO_SP(ctx) + 8 + (old ? e->n_payload : e->c_payload));
	op->ev.msgs_in++;
	if (n > 0)
		op->ev.bytes_in += n;
	return 0;
}

SEC("uprobe")
int ws_c_read(struct pt_regs *ctx)
{
	return coder_read(ctx, false);
}

SEC("uprobe")
int ws_n_read(struct pt_regs *ctx)
{
	return coder_read(ctx, true);
}

/* func (c *Conn) writeFrame(ctx context.Context, fin bool, flate bool, opcode opcode, p []byte)
 * AX c, BX CX ctx, DI fin, SI flate, R8 opcode, R9 R10 R11 p */
SEC("uprobe")
int ws_c_write(struct pt_regs *ctx)
{
	struct tr_who w;
	struct ws_op *op = conn_op(&w, GO_ARG0(ctx));
	__u64 opcode = go_reg(ctx, 5);

	if (!op)
		return 0;
	if (opcode == OP_CLOSE)
		close_code(op, go_reg(ctx, 6), go_reg(ctx, 7));
	if (opcode & OP_CONTROL)
		return 0;
	op->ev.bytes_out += go_reg(ctx, 7);
	if (GO_ARG3(ctx) & 1)
		op->ev.msgs_out++;
	return 0;
}

/* func (c *Conn) close() error   AX c */
SEC("uprobe")
int ws_c_close(struct pt_regs *ctx)
{
	struct tr_who w;
	struct ws_op *op = conn_op(&w, GO_ARG0(ctx));

	if (op)
		end(op, &w.key);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";

/* Keep the enums that user space shares in the object's BTF. */
const enum ws_type *keep_type __attribute__((unused));
const enum ws_flag *keep_flag __attribute__((unused));
const enum ws_begin *keep_begin __attribute__((unused));
