/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * goctx.h - who is running in a Go program, and which operation a context belongs to.
 *
 * A scope is an operation that may have children (a server request). It is found
 * again without a probe: by the calling goroutine's id (ids are not reused, g structs
 * are), by the chain of context.Context values of the call, bounded, or by ancestry
 * (gokin.h).
 */
#ifndef TR_GOCTX_H
#define TR_GOCTX_H

#include "goabi.h"
#include "procs.h"

#define MAX_SCOPES      32768
#define MAX_CTX_HOPS    32
#define OWN_CTX_HOPS    8
#define PARENT_GRACE_NS (5ULL * 1000000000ULL)

/* A scope of requests that are not sampled is written again this often, and is good for
 * as long: the longest time that one of them may take. */
#define SHARED_AGAIN_NS (1ULL * 1000000000ULL)
#define SHARED_FOR_NS   (60ULL * 1000000000ULL)

#define OFF_NONE        0xffff

/* Offset of err in context.cancelCtx { Context; mu sync.Mutex; done atomic.Value;
 * children map; err }: the same in Go 1.18 to 1.27 (src/context/context.go). */
#define CANCELCTX_ERR 48

/* Runtime offsets of one executable. Written by user space before the first
 * process of it is let in. */
struct tr_goexe {
	__u64 types_addr; /* link-time address of moduledata.types */
	__u64 allgs;      /* link-time address of the slice runtime.allgs, 0 if unknown */
	__u16 g_goid;
	__u16 g_parent_goid; /* OFF_NONE before Go 1.21 */
	__u16 g_m;
	__u16 m_curg;
	__u16 g_panic;
	__u16 panic_goexit; /* OFF_NONE if unknown */
	__u16 type_str;
	__u8 swiss; /* 1: internal/runtime/maps (Go 1.24+), 0: hmap */
	__u8 sane;  /* set here once g.m.curg == g has been seen */
	__u16 map_used;
	__u16 map_dir_ptr; /* map_dir_len is behind it */
	__u16 tab_groups_data;
	__u16 tab_groups_mask;
	__u16 hm_b;
	__u16 hm_buckets;
	__u16 hm_oldbuckets;
	__u8 timer_ptr; /* 1: context.timerCtx begins with a pointer (Go 1.20 only) */
	__u8 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_EXES);
	__type(key, __u32);
	__type(value, struct tr_goexe);
} tr_goexes SEC(".maps");

/* In tr_scope.trace_flags: the operation outlives what its goroutine was started for. */
#define SCOPE_HELD (1U << 9)

struct tr_gokey {
	__u64 tgid;
	__u64 id; /* goroutine id, or a pointer: to its g, to a context */
};

struct tr_scope {
	__u64 trace_id[2]; /* bytes in wire order */
	__u64 span_id;
	__u64 start_ns;
	__u64 end_ns;      /* 0 while open */
	__u64 ctx;         /* the operation's context.Context data pointer */
	__u64 reg;         /* what is in tr_ctxs for it: ctx, or the parent of ctx */
	__u32 trace_flags; /* and SCOPE_* */
	__u32 epoch;       /* tr_proc.epoch of the program that made it */
	__u64 goid;        /* of the key */
};

/* The operation came with a tracestate, which its probe keeps. */
#define SCOPE_TRACESTATE (1U << 8)
/* It stands for all requests of its goroutine, one after the other, that are not sampled.
 * The ids are of one of them: they are on no span, so nothing is told apart by them, and
 * writing the scope of each would be dearer than all else that is done for it. It is not
 * marked when a request ends, and goes when one is sampled or the connection ends. */
#define SCOPE_SHARED (1U << 10)

/* Key: tgid, goid of the goroutine that runs the operation. Inserted at the
 * operation's start, marked at its end, replaced by the goroutine's next one.
 * LRU: losing one loses a parent link, nothing else. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SCOPES);
	__type(key, struct tr_gokey);
	__type(value, struct tr_scope);
} tr_scopes SEC(".maps");

/* Which goroutine's operation a context belongs to. A set-associative table in an
 * array, because inserting into a hash map would be the dearest part of a request:
 * the oldest way of a set gives way. Two CPUs that take the same way at the same
 * moment lose one link; a false one cannot come of it, since the scope names its
 * context too. Entries are written at an operation's start and cleared when the
 * goroutine starts its next one; a connection's, whose operations come one after the
 * other and have a context each, is its own context, once a second. */
#define CTX_WAYS     8
#define CTX_SET_BITS 13

struct tr_ctxset {
	struct {
		__u64 ctx; /* 0: free */
		__u64 goid;
		__u32 tgid;
		__u32 age; /* of the operation's start, in units of 2^20 ns, modulo 2^32 */
	} way[CTX_WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << CTX_SET_BITS);
	__type(key, __u32);
	__type(value, struct tr_ctxset);
} tr_ctxs SEC(".maps");

/* The watched process this task belongs to, or NULL. Sets key->tgid; a pid is the
 * low half of it, which little-endian machines have first. */
static __always_inline struct tr_proc *watched(struct tr_gokey *key)
{
	key->tgid = bpf_get_current_pid_tgid() >> 32;
	return bpf_map_lookup_elem(&tr_procs, &key->tgid);
}

/* The running goroutine's id; 0 when the runtime does not look as the offsets
 * say. The first time, g.m.curg must lead back to g. */
static __always_inline __u64 go_id(struct tr_goexe *ge, __u64 g)
{
	__u64 id = read_u64(g + ge->g_goid);

	if (!ge->sane) {
		__u64 m = read_u64(g + ge->g_m);

		if (!id || id >> 40 || !m || read_u64(m + ge->m_curg) != g)
			return 0;
		ge->sane = 1;
	}
	return id;
}

static __always_inline struct tr_ctxset *ctx_set(__u64 tgid, __u64 ctx)
{
	__u32 i = ((ctx >> 4 ^ tgid) * 0x9e3779b97f4a7c15ULL) >> (64 - CTX_SET_BITS);

	return bpf_map_lookup_elem(&tr_ctxs, &i);
}

/* Functions that are not static are looked at by the verifier once for a program, with
 * arguments of which it knows nothing, and not anew for each call and all that is known
 * there. They take numbers only, since pointers may be passed from 5.12 on.
 * verifier(6.1): a number that decides something is traced back through the instructions
 * before, but not past a call; beyond one it marks all numbers of all states on the way,
 * each time. Searches that were followed from within a long program took it a minute in
 * an emulated machine. */

/* The goid of the operation whose context this is, 0 if there is none. What a program
 * has put in that the process ran before is older than this one's epoch: their heaps
 * begin at the same address. prog is the tgid and, in the lower half, the epoch. */
__noinline __u64 tr_ctx_goid(__u64 prog, __u64 ctx)
{
	__u32 tgid = prog >> 32, epoch = prog;
	struct tr_ctxset *set = ctx_set(tgid, ctx);

	if (!set)
		return 0;
	for (int i = 0; i < CTX_WAYS; i++)
		if (set->way[i].ctx == ctx && set->way[i].tgid == tgid &&
		    (__s32)(set->way[i].age - epoch) >= 0)
			return set->way[i].goid;
	return 0;
}

__noinline int tr_ctx_clear(__u32 tgid, __u64 ctx)
{
	struct tr_ctxset *set = ctx_set(tgid, ctx);

	if (!set)
		return 0;
	for (int i = 0; i < CTX_WAYS; i++)
		if (set->way[i].ctx == ctx && set->way[i].tgid == tgid)
			set->way[i].ctx = 0;
	return 0;
}

__noinline int tr_ctx_put(__u32 tgid, __u64 ctx, __u64 goid, __u32 age)
{
	struct tr_ctxset *set = ctx_set(tgid, ctx);
	__u32 oldest = 0, most = 0;

	if (!set)
		return 0;
	for (int i = 0; i < CTX_WAYS; i++) {
		/* a free way is older than any; the context's own is taken again */
		__u32 old = set->way[i].ctx ? age - set->way[i].age : ~0U - 1;

		if (set->way[i].ctx == ctx && set->way[i].tgid == tgid)
			old = ~0U;
		if (old >= most) {
			most = old;
			oldest = i;
		}
	}
	oldest &= CTX_WAYS - 1;
	set->way[oldest].ctx = 0; /* never a new context with an old goid */
	set->way[oldest].goid = goid;
	set->way[oldest].tgid = tgid;
	set->way[oldest].age = age;
	set->way[oldest].ctx = ctx;
	return 0;
}

/* Make a scope findable by its context, and its predecessor on the goroutine no more. */
static __always_inline void scope_ctx(const struct tr_gokey *key, struct tr_scope *s, __u64 ctx)
{
	if (s->reg)
		tr_ctx_clear(key->tgid, s->reg);
	s->ctx = s->reg = ctx;
	if (ctx)
		tr_ctx_put(key->tgid, ctx, key->id, s->start_ns >> 20);
}

/* The same where all of a goroutine's operations have contexts of one parent, which no
 * other goroutine's has: the parent is registered, again when it may have given way.
 * last_ns is the start of the goroutine's operation before this one, 0 if none. */
static __always_inline void scope_ctx_child(const struct tr_gokey *key, struct tr_scope *s,
					    __u64 ctx, __u64 last_ns)
{
	s->ctx = ctx;
	if (s->reg && last_ns >> 30 == s->start_ns >> 30)
		return;
	if (!s->reg && ctx)
		s->reg = read_u64(ctx + 8); /* of a cancelCtx, as below */
	if (s->reg)
		tr_ctx_put(key->tgid, s->reg, key->id, s->start_ns >> 20);
}

static __always_inline bool scope_usable(struct tr_scope *s, __u64 now)
{
	if (s->start_ns > now)
		return false;
	if (s->trace_flags & SCOPE_SHARED && now - s->start_ns > SHARED_FOR_NS)
		return false;
	return !s->end_ns || now - s->end_ns < PARENT_GRACE_NS;
}

/* Whether the scope of goroutine goid is registered under ctx; the context that led to ctx
 * is child. */
__noinline int tr_ctx_registered(__u64 prog, __u64 goid, __u64 ctx, __u64 child, __u64 now)
{
	struct tr_gokey key = { .tgid = prog >> 32, .id = goid };
	struct tr_scope *s = bpf_map_lookup_elem(&tr_scopes, &key);

	if (!s || s->reg != ctx || s->epoch != (__u32)prog || !scope_usable(s, now))
		return 0;
	if (s->ctx != ctx && s->ctx != child && !(s->trace_flags & SCOPE_SHARED))
		return 0; /* of an earlier operation of the goroutine */
	/* net/http cancels the context of a request that has ended. One that is not
	 * cancelled is a new context at the old one's address. */
	return !s->end_ns || read_u64(s->ctx + CANCELCTX_ERR);
}

/* Whether p is in the heap's first 64 GiB, up to Go 1.25: where the first arena is placed
 * (mallocinit in src/runtime/malloc.go; with -race as on amd64). A type's itab is never
 * there. */
static __always_inline bool in_go_heap(__u64 p)
{
#if defined(__TARGET_ARCH_arm64)
	if ((p >> 32) - 0x40 < 0x10)
		return true;
#endif
	return (p >> 32) - 0xc0 < 0x10;
}

/* The parent of a context: the interface that is the first field of every standard type.
 * timer is tr_goexe.timer_ptr. */
__noinline __u64 tr_ctx_parent(__u64 ctx, __u32 timer)
{
	/* timerCtx of Go 1.20 begins with a *cancelCtx: a heap address, where others
	 * have the itab of the parent interface. */
	__u64 first = timer ? read_u64(ctx) : 0;

	return in_go_heap(first) ? first : read_u64(ctx + 8);
}

/* Whether ctx is the context own, or comes from it. */
__noinline int tr_ctx_from(__u64 ctx, __u64 own, __u32 timer)
{
	for (int i = 0; i < OWN_CTX_HOPS; i++) {
		if (!ctx)
			return 0;
		if (ctx == own)
			return 1;
		ctx = tr_ctx_parent(ctx, timer);
	}
	return 0;
}

/* Whether ctx is the context of the operation that its own goroutine runs, or comes from
 * it: nearly all calls' is, and to be told so by tr_ctxs is many times dearer. */
static __always_inline bool ctx_of_own(struct tr_goexe *ge, const struct tr_scope *own, __u64 ctx)
{
	if (own->end_ns || !own->ctx || own->trace_flags & SCOPE_SHARED)
		return false;
	return ctx == own->ctx || tr_ctx_from(ctx, own->ctx, ge->timer_ptr);
}

/* Follow context.Context values from ctx to the context of a known scope: the goid of the
 * goroutine that it is of, 0 if there is none. */
__noinline __u64 tr_ctx_owner(__u64 prog, __u64 ctx, __u64 now, __u32 timer)
{
	__u64 child = 0;

	for (int i = 0; i < MAX_CTX_HOPS; i++) {
		__u64 goid;

		if (!ctx)
			break;
		/* What is not the scope's context is one that was at this address before. */
		goid = tr_ctx_goid(prog, ctx);
		if (goid && tr_ctx_registered(prog, goid, ctx, child, now))
			return goid;
		child = ctx;
		ctx = tr_ctx_parent(ctx, timer);
	}
	return 0;
}

/* The scope whose context ctx is, or comes from. */
static __noinline struct tr_scope *scope_by_ctx(struct tr_goexe *ge, __u32 tgid, __u64 ctx,
						__u64 now, __u32 epoch)
{
	struct tr_gokey key = { .tgid = tgid };
	struct tr_scope *s;

	key.id = tr_ctx_owner((__u64)tgid << 32 | epoch, ctx, now, ge->timer_ptr);
	if (!key.id)
		return NULL;
	s = bpf_map_lookup_elem(&tr_scopes, &key);
	/* the goroutine may have gone on meanwhile */
	return s && s->epoch == epoch && s->start_ns <= now ? s : NULL;
}

#endif
