/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * dial.h - how long a client's connection took to make. These programs run when a
 * connection is made, not for each request, and in the goroutine that makes it, which
 * is not the request's. What they saw waits under the connection for the attempt that
 * is the first to get it.
 *   dial    (*Transport).dialConn; in it, the branch after (*Transport).dial
 *   TLS     (*persistConn).addTLS
 *   end     in (*Transport).dialConnFor, the branch after dialConn
 */
#ifndef NH_DIAL_H
#define NH_DIAL_H

#include "op.h"

struct nh_dialing {
	__u64 start_ns, dialled_ns, tls_ns, end_ns;
};

/* Connections being made. Key: tgid, goid. Inserted at the start, deleted at the end;
 * LRU, for a dialling goroutine may end otherwise.
 * Connections made that no attempt has got yet. Key: tgid, *persistConn. LRU: an attempt
 * that got another one instead may leave it idle for ever. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tr_gokey);
	__type(value, struct nh_dialing);
} nh_dials SEC(".maps"), nh_fresh SEC(".maps");

const struct nh_dialing nh_dial_zero = {};

/* The connection that the running goroutine makes, a new one if begin. */
static __always_inline struct nh_dialing *dialing(struct tr_gokey *key, struct pt_regs *ctx,
						  struct nh_exe **e, bool begin)
{
	struct tr_proc *proc = watched(key);
	struct tr_goexe *ge;

	if (!proc)
		return NULL;
	*e = bpf_map_lookup_elem(&nh_exes, &proc->exe_id);
	ge = bpf_map_lookup_elem(&tr_goexes, &proc->exe_id);
	if (!*e || !ge)
		return NULL;
	key->id = go_id(ge, GO_G(ctx));
	if (begin && bpf_map_update_elem(&nh_dials, key, &nh_dial_zero, BPF_ANY))
		return NULL;
	return bpf_map_lookup_elem(&nh_dials, key);
}

static __always_inline __u32 micros(__u64 from, __u64 to)
{
	return to > from ? (to - from) / 1000 : 0;
}

/* An attempt has got the connection pc. */
static __noinline int got_fresh(struct nh_op *op, struct tr_gokey *key, __u64 pc)
{
	struct nh_dialing *d;
	__u64 goid;

	if (!op || !key)
		return 0;
	goid = key->id;
	op->ev.flags |= F_GOT_CONN;
	key->id = pc;
	d = bpf_map_lookup_elem(&nh_fresh, key);
	if (d) {
		op->ev.flags |= F_NEW_CONN;
		op->ev.dial.start_ns = d->start_ns;
		op->ev.dial.dial_us = micros(d->start_ns, d->dialled_ns);
		op->ev.dial.tls_at_us = micros(d->start_ns, d->tls_ns);
		op->ev.dial.tls_us = d->tls_ns ? micros(d->tls_ns, d->end_ns) : 0;
		bpf_map_delete_elem(&nh_fresh, key);
	}
	key->id = goid;
	return 0;
}

/* func (t *Transport) dialConn(ctx context.Context, cm connectMethod, ...) (*persistConn, error) */
SEC("uprobe")
int nh_dial(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct nh_dialing *d = dialing(&key, ctx, &e, true);

	if (d)
		d->start_ns = bpf_ktime_get_ns();
	return 0;
}

/* in dialConn, after func (t *Transport) dial(ctx context.Context, network, addr string)
 * (net.Conn, error) */
SEC("uprobe")
int nh_dialled(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct nh_dialing *d = dialing(&key, ctx, &e, false);

	if (d)
		d->dialled_ns = bpf_ktime_get_ns();
	return 0;
}

/* func (pconn *persistConn) addTLS(ctx context.Context, name string, trace *httptrace.ClientTrace)
 * error */
SEC("uprobe")
int nh_tls(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct nh_dialing *d = dialing(&key, ctx, &e, false);

	if (d)
		d->tls_ns = bpf_ktime_get_ns();
	return 0;
}

/* in func (t *Transport) dialConnFor(w *wantConn), after dialConn: what is still to be
 * done between the handshake and here takes microseconds */
SEC("uprobe")
int nh_dial_end(struct pt_regs *ctx)
{
	struct tr_gokey key = {};
	struct nh_exe *e;
	struct nh_dialing *d = dialing(&key, ctx, &e, false);
	__u64 goid = key.id;

	if (!d)
		return 0;
	d->end_ns = bpf_ktime_get_ns();
	if (!go_loc_read(ctx, &e->dialled[1])) {
		key.id = go_loc_read(ctx, &e->dialled[0]);
		if (key.id)
			bpf_map_update_elem(&nh_fresh, &key, d, BPF_ANY);
	}
	key.id = goid;
	bpf_map_delete_elem(&nh_dials, &key);
	return 0;
}

#endif
