/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * gokin.h - whose child is a call.
 *
 * Three ways lead from a call to a scope (goctx.h):
 *   1. the chain of context.Context values of the call;
 *   2. the calling goroutine's id;
 *   3. its ancestors' (g.parentGoid, Go 1.21+).
 * Where they disagree the context wins: it is what the programmer said. A parent
 * is of the same process, started before the child, and open or closed less
 * than PARENT_GRACE_NS ago. When in doubt there is no parent.
 *
 * A g knows its parent's id only. The grandparent's is in the parent's g, which keeps
 * it when the goroutine has ended, until the g is used anew; it is searched among
 * runtime.allgs. Whom a goroutine descends from never changes, so what was found, or
 * that nothing was, is remembered for it and for its parent: a goroutine that calls
 * again and again pays once. A search looks at the MAX_GS gs made last, for MAX_CLIMB
 * ancestors, and all searches of a process together take 1/SEARCH_SHARE of one
 * processor's time.
 *
 * Wrong by design: a goroutine without a context that makes its first call only
 * after the keep-alive connection that it descends from has gone on to its next
 * request is taken for a child of that next request. Lost by design: an ancestor
 * whose g is another goroutine's by now, with what lies behind it.
 */
#ifndef TR_GOKIN_H
#define TR_GOKIN_H

#include "goctx.h"

#define GS_CHUNK        32
#define MAX_GS          2048 /* a multiple */
#define MAX_CLIMB       8
#define SEARCH_MAX_NS   (200ULL * 1000ULL) /* after this it looks for no further one */
#define SEARCH_SHARE    64
#define SEARCH_BURST_NS (100ULL * 1000000ULL)

/* Which operation a goroutine descends from. */
struct tr_kin {
	__u64 goid;    /* of the goroutine that ran it: the key in tr_scopes; 0: from none */
	__u64 span_id; /* that very operation; the goroutine may have gone on to its next */
	__u64 epoch;   /* tr_proc.epoch of the program whose goroutine it is */
};

/* Key: tgid, goid of a goroutine whose ancestors were asked for. It pins the goroutine
 * to the operation that started it, or to none: a later one cannot have started it.
 * LRU as tr_scopes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SCOPES);
	__type(key, struct tr_gokey);
	__type(value, struct tr_kin);
} tr_kins SEC(".maps");

/* Pin a goroutine to the operation of goroutine goid. */
static __noinline int kin_put(const struct tr_gokey *key, __u64 goid, __u64 span_id, __u32 epoch)
{
	struct tr_kin kin = { .goid = goid, .span_id = span_id, .epoch = epoch };

	return bpf_map_update_elem(&tr_kins, key, &kin, BPF_ANY);
}

static __noinline struct tr_kin *kin_get(const struct tr_gokey *key, __u32 epoch)
{
	struct tr_kin *kin = bpf_map_lookup_elem(&tr_kins, key);

	return kin && kin->epoch == epoch ? kin : NULL;
}

/* Whether something is known of a goroutine without a search: it runs an operation, or
 * its own ancestors were asked for. Not static, as all that the search consists of
 * (goctx.h).
 * verifier(5.10): after a call it takes all numbers for significant; loops converge only
 * when each pass goes on in one way. */
__noinline int tr_kin_known(__u64 tgid, __u64 id, __u32 epoch)
{
	struct tr_gokey key = { .tgid = tgid, .id = id };
	struct tr_scope *s = bpf_map_lookup_elem(&tr_scopes, &key);
	struct tr_kin *kin;

	if (s && s->epoch == epoch)
		return 1;
	kin = bpf_map_lookup_elem(&tr_kins, &key);
	return kin && kin->epoch == epoch;
}

/* What is known of goroutine id holds for its descendant key. That it has no operation
 * is not remembered once more: a goroutine for each job would fill the map. */
static __noinline int kin_inherit(const struct tr_gokey *key, __u64 id, __u64 now, __u32 epoch)
{
	struct tr_gokey up = { .tgid = key->tgid, .id = id };
	struct tr_scope *s = bpf_map_lookup_elem(&tr_scopes, &up);
	struct tr_kin *kin;

	if (s && s->epoch == epoch) {
		if (scope_usable(s, now))
			return kin_put(key, s->goid, s->span_id, epoch);
		return kin_put(key, 0, 0, epoch);
	}
	kin = kin_get(&up, epoch);
	if (!kin || !kin->goid)
		return 0;
	return kin_put(key, kin->goid, kin->span_id, epoch);
}

/* A word of the target, read into another frame than the caller's, which is full. */
__noinline __u64 tr_word(__u64 addr)
{
	return read_u64(addr);
}

/* The g with goid want among the n of allgs from at on; 0 if there is none. */
__noinline __u64 tr_g_find(__u64 at, __u32 n, __u32 g_goid, __u64 want)
{
	for (__u32 i = 0; i < GS_CHUNK && i < n; i++, at += 8) {
		__u64 g = read_u64(at);

		if (read_u64(g + g_goid) == want)
			return g;
	}
	return 0;
}

/* The same among the last of the slice at allgs, from its end on. */
__noinline __u64 tr_g_find_all(__u64 allgs, __u32 g_goid, __u64 want)
{
	/* The length first: the array that it is read with may have grown, not shrunk. */
	__u64 all = read_u64(allgs + 8), at = read_u64(allgs);
	__u32 n = all > MAX_GS ? MAX_GS : all;

	at += (all - n) * 8;
	for (__u32 done = 0; done < MAX_GS; done += GS_CHUNK) {
		__u64 g;

		if (n <= done + GS_CHUNK)
			return tr_g_find(at, n - done, g_goid, want);
		g = tr_g_find(at + (n - done - GS_CHUNK) * 8, GS_CHUNK, g_goid, want);
		if (g)
			return g;
	}
	return 0;
}

/* A search has taken the time since began. */
static __always_inline void search_paid(struct tr_proc *proc, __u64 began)
{
	if (proc->search_ns < began)
		proc->search_ns = began;
	proc->search_ns += (bpf_ktime_get_ns() - began) * SEARCH_SHARE;
}

/* Go up from goroutine up, of which nothing is known, to the first ancestor of which
 * something is: its id, 0 if none is found. */
static __noinline __u64 kin_climb(struct tr_goexe *ge, struct tr_proc *proc,
				  const struct tr_gokey *up)
{
	__u64 began = bpf_ktime_get_ns(), at = up->id;

#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_CLIMB; i++) {
		__u64 id = at, g = tr_g_find_all(ge->allgs + proc->bias, ge->g_goid, id);
		int known;

		if (!g)
			goto none;
		at = tr_word(g + ge->g_parent_goid);
		known = tr_kin_known(up->tgid, at, proc->epoch);
		/* The runtime gives a g that it uses anew its parent first and its own id
		 * some instructions later: some time after, the id must still be the same. */
		if (tr_word(g + ge->g_goid) != id)
			goto none;
		if (known)
			goto out;
		/* 1: the main goroutine; its parent is 0 */
		if (at <= 1 || bpf_ktime_get_ns() - began > SEARCH_MAX_NS)
			goto none;
	}
none:
	at = 0;
out:
	search_paid(proc, began);
	return at;
}

/* Search the ancestors of goroutine up, which key descends from, and remember the answer
 * for both; not before earlier searches are paid for. */
static __always_inline bool kin_search(struct tr_goexe *ge, const struct tr_gokey *key,
				       const struct tr_gokey *up, __u64 now, __u32 epoch)
{
	struct tr_proc *proc = bpf_map_lookup_elem(&tr_procs, &key->tgid);
	struct tr_kin *kin = NULL;
	__u64 id;

	if (!ge->allgs || !proc || proc->search_ns > bpf_ktime_get_ns() + SEARCH_BURST_NS)
		return false;
	id = kin_climb(ge, proc, up);
	if (id) {
		kin_inherit(key, id, now, epoch);
		kin = kin_get(key, epoch);
	}
	if (kin) {
		kin_put(up, kin->goid, kin->span_id, epoch);
	} else {
		kin_put(key, 0, 0, epoch);
		kin_put(up, 0, 0, epoch);
	}
	return true;
}

/* The scope that goroutine key (g) descends from. What was remembered for the same
 * number in another program does not count. */
static __noinline struct tr_scope *scope_by_kin(struct tr_goexe *ge, const struct tr_gokey *key,
						__u64 g, __u64 now, __u32 epoch)
{
	struct tr_kin *kin = kin_get(key, epoch);
	struct tr_gokey up = { .tgid = key->tgid };
	struct tr_scope *s;

	if (!kin) {
		if (ge->g_parent_goid == OFF_NONE)
			return NULL;
		up.id = read_u64(g + ge->g_parent_goid);
		if (!up.id)
			return NULL;
		if (tr_kin_known(up.tgid, up.id, epoch))
			kin_inherit(key, up.id, now, epoch);
		else if (up.id == 1 || !kin_search(ge, key, &up, now, epoch))
			return NULL;
		kin = kin_get(key, epoch);
		if (!kin)
			return NULL;
	}
	up.id = kin->goid;
	if (!up.id)
		return NULL;
	s = bpf_map_lookup_elem(&tr_scopes, &up);
	return s && s->span_id == kin->span_id && s->epoch == epoch && scope_usable(s, now) ? s
											    : NULL;
}

/* The parent scope of a call made by goroutine goid (g) with context ctx, or NULL.
 * A scope of a program that the process ran before is of another epoch: as if it
 * were not there. */
static __always_inline struct tr_scope *find_scope(struct tr_goexe *ge, __u32 tgid, __u64 g,
						   __u64 goid, __u64 ctx, __u64 now, __u32 epoch)
{
	struct tr_gokey key = { .tgid = tgid, .id = goid };
	struct tr_scope *s = bpf_map_lookup_elem(&tr_scopes, &key);

	if (s && s->epoch == epoch && ctx_of_own(ge, s, ctx) && scope_usable(s, now))
		return s;
	s = scope_by_ctx(ge, tgid, ctx, now, epoch);
	if (s)
		return s;
	/* Looked up again: were it kept, the verifier would follow the search above once with
	 * it and once without. */
	s = bpf_map_lookup_elem(&tr_scopes, &key);
	if (s && s->epoch == epoch)
		return scope_usable(s, now) ? s : NULL;
	return scope_by_kin(ge, &key, g, now, epoch);
}

#endif
