/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * call.h - a client call made by a goroutine: a database command, a cache lookup, an
 * RPC. A probe's map value begins with its record, and the record with struct tr_call;
 * the record is filled in place and copied to the ring buffer once, at the end:
 *
 *	struct x_event { struct tr_call call; ...; __u8 tail[CAP + MAX]; };
 *	struct x_op    { struct x_event ev; ... private ... };
 *	const struct x_op x_zero = {};
 *	struct { HASH, struct tr_gokey, struct x_op } x_ops SEC(".maps");
 *
 *	struct tr_who w;
 *	struct x_op *op;
 *	if (!who_runs(&w, ctx)) return 0;
 *	op = call_begin(&x_ops, &x_zero, &w, GO_G(ctx), context);	at the start
 *	op = call_open(&x_ops, &w);					later
 *	call_finish(&x_ops, &w.key, &op->ev.call, X_CALL, offsetof(struct x_event, tail), CAP +
 *MAX);
 *
 * User space decodes the head with probe.ParseCall. An operation's key is a goroutine
 * unless the probe chooses another: a goroutine makes one such call at a time. Inserting
 * and deleting an entry costs as much as all else that is done for a call, so a probe may
 * keep it for the goroutine's next one: call_again for call_begin, call_away after
 * call_emit. Kept ones are deleted by the agent, when the process exits or when they have
 * not been used for a while.
 */
#ifndef TR_CALL_H
#define TR_CALL_H

#include "event.h"
#include "gokin.h"
#include "tracectx.h"

/* Set by user space from the probe's spec. */
const volatile __u16 probe_id = 0;

/* tr_call.flags; the lower 24 bits belong to the probe. */
#define CALL_CUT       (1U << 31) /* some string was longer than is kept */
#define CALL_TAIL_FULL (1U << 30) /* some string did not fit in the record */

/* event_hdr.type of a record that is a head only and whose flags say what failed. */
#define CALL_UNSANE 255
/* A probe's own checks begin at 2. */
#define CALL_CHECK_G 1 /* g.m.curg does not lead back to g */

/* Mirrored by probe.Call. */
struct tr_call {
	struct event_hdr hdr;
	__u64 trace_id[2];
	__u64 span_id;
	__u64 parent_id; /* 0: none */
	__u64 start_ns;  /* CLOCK_MONOTONIC */
	__u64 end_ns;
	__u64 goid;
	__u32 flags;
	__u32 epoch; /* tr_proc.epoch at the start */
	__u32 tail_len;
	__u8 trace_flags;
	__u8 pad;
	__u16 open; /* 0: the call has ended, its entry waits for the goroutine's next one */
};

/* Entries of the map that are or were kept: those that programs inserted less those they
 * deleted, and those that user space deleted. Past cfg_keep none is kept. */
__u64 call_entries = 0;
volatile __u64 call_forgotten = 0;
const volatile __u64 cfg_keep = 0;

/* A string of the tail. */
struct tr_str {
	__u16 off, len;
};

/* Who runs the probed instruction. */
struct tr_who {
	struct tr_gokey key; /* of the goroutine */
	struct tr_proc *proc;
	struct tr_goexe *ge;
};

/* False: a process that is not watched. Not inlined: what it needs on the stack shall not
 * count to the caller's frame. */
static __noinline __attribute__((unused)) int who_runs(struct tr_who *w, struct pt_regs *ctx)
{
	w->key.tgid = 0;
	w->key.id = 0;
	w->proc = watched(&w->key);
	if (!w->proc)
		return 0;
	w->ge = bpf_map_lookup_elem(&tr_goexes, &w->proc->exe_id);
	if (!w->ge)
		return 0;
	w->key.id = go_id(w->ge, GO_G(ctx));
	return 1;
}

static __always_inline void call_emit(struct tr_call *c, __u8 type, __u32 head, __u32 max_tail)
{
	__u32 len = c->tail_len;

	/* verifier(all): a bound that it keeps through spills */
	asm volatile("if %0 <= %1 goto +1; %0 = 0" : "+r"(len) : "i"(max_tail));
	len += head;
	c->hdr.type = type;
	c->hdr.len = len;
	if (event_output_at(c, len, c->end_ns ?: bpf_ktime_get_ns()))
		count_lost(probe_id, LOST_RING_FULL);
}

/* The executable looks unlike what the offsets say: user space takes the probe off it. */
static __always_inline void call_unsane(struct tr_call *c, __u32 what)
{
	c->flags = what;
	c->tail_len = 0;
	count_lost(probe_id, LOST_UNSANE);
	call_emit(c, CALL_UNSANE, sizeof(*c), 0);
}

/* Ids, parent and sampling of a call whose goroutine's g is g and whose context.Context
 * has its data at context, 0 if it has none. False: the trace is not recorded. */
static __noinline __attribute__((unused)) int call_trace(struct tr_call *c, struct tr_goexe *ge,
							 __u64 g, __u64 context)
{
	struct tr_scope *s =
		find_scope(ge, c->hdr.tgid, g, c->goid, context, c->start_ns, c->epoch);
	__u32 flags = 0;

	c->span_id = new_ids(c->trace_id, c->start_ns, c->hdr.tgid, c->goid);
	if (s) {
		c->trace_id[0] = s->trace_id[0];
		c->trace_id[1] = s->trace_id[1];
		c->parent_id = s->span_id;
		flags = s->trace_flags;
	}
	if (!sampled(c->trace_id, s != NULL, flags))
		return 0;
	c->trace_flags = TRACE_FLAG_SAMPLED;
	return 1;
}

/* The head of a call that begins now, but for ids. */
static __always_inline void call_fill(struct tr_call *c, struct tr_who *w)
{
	c->hdr.probe_id = probe_id;
	c->hdr.tgid = w->key.tgid;
	c->hdr.exe_id = w->proc->exe_id;
	c->hdr.proc_start_ns = w->proc->start_ns;
	c->goid = w->key.id;
	c->start_ns = bpf_ktime_get_ns();
	c->epoch = w->proc->epoch;
	c->open = 1;
}

#define EEXIST 17

/* A new entry for w's key, its head filled but for ids; NULL and counted when the map
 * is full. An entry that is there is overwritten, and counted: its call never came to its
 * end. */
static __always_inline void *call_new(void *map, const void *zero, struct tr_who *w)
{
	struct tr_call *c;
	long err = bpf_map_update_elem(map, &w->key, zero, BPF_NOEXIST);

	if (err == -EEXIST) {
		c = bpf_map_lookup_elem(map, &w->key);
		if (c && c->open)
			count_lost(probe_id, LOST_UNENDED);
		else if (c) /* kept by call_again, and deleted now by who does not count */
			__sync_fetch_and_add(&call_entries, -1);
		err = bpf_map_update_elem(map, &w->key, zero, BPF_ANY);
	}
	if (err) {
		count_lost(probe_id, LOST_MAP_FULL);
		return NULL;
	}
	c = bpf_map_lookup_elem(map, &w->key);
	if (c)
		call_fill(c, w);
	return c;
}

/* Gives a new call its ids; false when it is neither to be recorded nor to be counted. */
static __always_inline bool call_kept(struct tr_call *c, struct tr_who *w, __u64 g, __u64 context)
{
	if (!w->key.id) {
		call_unsane(c, CALL_CHECK_G);
		return false;
	}
	return call_trace(c, w->ge, g, context) || cfg_count_all;
}

/* The same with ids; NULL when the call is neither to be recorded nor to be counted. */
static __noinline __attribute__((unused)) void *call_begin(void *map, const void *zero,
							   struct tr_who *w, __u64 g, __u64 context)
{
	struct tr_call *c = call_new(map, zero, w);

	if (!c)
		return NULL;
	if (call_kept(c, w, g, context))
		return c;
	bpf_map_delete_elem(map, &w->key);
	return NULL;
}

/* A call is over, or not to be followed. */
static __always_inline void call_away(void *map, struct tr_gokey *key, struct tr_call *c)
{
	c->open = 0;
	/* Signed: what user space deletes is not all of what is counted here. */
	if ((__s64)(call_entries - call_forgotten) > (__s64)cfg_keep &&
	    !bpf_map_delete_elem(map, key))
		__sync_fetch_and_add(&call_entries, -1);
}

/* call_begin in the entry of the goroutine's last call, if it has one. Only the first
 * clear bytes of that are cleared: what is behind is written before it is read. */
static __always_inline void *call_again(void *map, const void *zero, struct tr_who *w, __u64 g,
					__u64 context, __u32 clear)
{
	struct tr_call *c = bpf_map_lookup_elem(map, &w->key);

	if (c) {
		if (c->open && c->epoch == w->proc->epoch)
			count_lost(probe_id, LOST_UNENDED);
		__builtin_memset(c, 0, clear);
		call_fill(c, w);
	} else {
		c = call_new(map, zero, w);
		if (!c)
			return NULL;
		__sync_fetch_and_add(&call_entries, 1);
	}
	if (call_kept(c, w, g, context))
		return c;
	call_away(map, &w->key, c);
	return NULL;
}

/* Whether a process has not told of a pool yet, which it does now; the pool's address
 * takes the goroutine's place in w's key. */
static __always_inline bool pool_untold(void *map, struct tr_who *w, __u64 pool)
{
	__u32 *told;

	w->key.id = pool;
	told = bpf_map_lookup_elem(map, &w->key);
	if (told && *told == w->proc->epoch)
		return false;
	bpf_map_update_elem(map, &w->key, &w->proc->epoch, BPF_ANY);
	return true;
}

/* The open operation of w's key, NULL if there is none of this program. */
static __always_inline void *call_open(void *map, struct tr_who *w)
{
	struct tr_call *c = bpf_map_lookup_elem(map, &w->key);

	return c && c->open && c->epoch == w->proc->epoch ? c : NULL;
}

/* End an operation: its record goes out, its entry goes away. */
static __always_inline void call_finish(void *map, struct tr_gokey *key, struct tr_call *c,
					__u8 type, __u32 head, __u32 max_tail)
{
	c->end_ns = bpf_ktime_get_ns();
	call_emit(c, type, head, max_tail);
	bpf_map_delete_elem(map, key);
}

/* Append at most max of the len bytes at ptr to the tail as string s; false when they
 * could not be read. A string begins below cap, so the tail is an array of cap + max
 * bytes. max is 2^n - 1, both are constants. */
static __always_inline bool call_put(struct tr_call *c, __u8 *tail, struct tr_str *s, __u64 ptr,
				     __u64 len, __u32 cap, __u32 max)
{
	__u32 off = c->tail_len, n = len;

	if (!ptr || !len)
		return true;
	if (len > max) {
		n = max;
		c->flags |= CALL_CUT;
	}
	if (off >= cap) {
		c->flags |= CALL_TAIL_FULL;
		return true;
	}
	/* verifier(all): bounds in a form it keeps through spills */
	asm volatile("%0 &= %1" : "+r"(n) : "i"(max));
	asm volatile("if %0 <= %1 goto +1; %0 = 0" : "+r"(off) : "i"(cap - 1));
	if (bpf_probe_read_user(&tail[off], n, (void *)ptr)) {
		count_lost(probe_id, LOST_READ);
		return false;
	}
	s->off = off;
	s->len = n;
	c->tail_len = off + n;
	return true;
}

/* Append the Go string whose header is at addr; scratch is of the operation's entry. */
static __always_inline bool call_put_gostr(struct tr_call *c, __u8 *tail, struct tr_str *s,
					   __u64 addr, struct go_str *scratch, __u32 cap, __u32 max)
{
	scratch->ptr = scratch->len = 0;
	if (bpf_probe_read_user(scratch, sizeof(*scratch), (void *)addr)) {
		count_lost(probe_id, LOST_READ);
		return false;
	}
	return call_put(c, tail, s, scratch->ptr, scratch->len, cap, max);
}

#endif
