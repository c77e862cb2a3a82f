/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * tracectx.h - ids, head sampling, and the W3C traceparent header.
 * Ids are kept as bytes in wire order, also when held in a __u64.
 */
#ifndef TR_TRACECTX_H
#define TR_TRACECTX_H

#define TRACEPARENT_LEN    55
#define TRACE_FLAG_SAMPLED 1
#define TRACE_FLAG_RANDOM  2 /* level 2: the id is random; bits not defined are not passed on */

enum sampler_root {
	ROOT_ALWAYS_ON = 0,
	ROOT_ALWAYS_OFF = 1,
	ROOT_RATIO = 2,
};

/* OTEL_TRACES_SAMPLER. */
const volatile __u8 cfg_sampler_root = ROOT_ALWAYS_ON;
const volatile __u8 cfg_parent_based = 1;
/* Ratio times 2^63, as the SDK's TraceIDRatioBased computes it. */
const volatile __u64 cfg_ratio_bound = 0;

/* 1: what is not sampled makes a record, too, with what metrics need of it. */
const volatile __u8 cfg_count_all = 0;
/* Records of what is not sampled are as full as the others: rules of metrics want more. */
const volatile __u8 cfg_count_full = 0;

/* The finalizer of splitmix64: a bijection that spreads every input bit. */
static __always_inline __u64 mix64(__u64 x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

/* Random, of this agent. */
const volatile __u64 cfg_id_secret = 0;

/* Ids for a new span and, when trace_id is not NULL, a new trace, from random bits and
 * what tells this operation from all others: helper calls are dear, and one per 32
 * bits would be six. */
static __always_inline __u64 new_ids(__u64 trace_id[2], __u64 start_ns, __u64 tgid, __u64 goid)
{
	__u64 r = mix64(((__u64)bpf_get_prandom_u32() << 32 | (__u32)start_ns) ^ cfg_id_secret);
	__u64 who = start_ns ^ tgid << 40 ^ goid * 0x9e3779b97f4a7c15ULL, span;

	if (trace_id) {
		trace_id[0] = mix64(r + who);
		trace_id[1] = mix64(r ^ __builtin_bswap64(who) ^ 0xd1b54a32d192ed03ULL);
		if (!trace_id[1])
			trace_id[1] = 1;
	}
	span = mix64(mix64(who) + r + 0x9e3779b97f4a7c15ULL);
	return span ? span : 1;
}

/* Whether a span of this trace is recorded. */
static __always_inline bool sampled(const __u64 trace_id[2], bool has_parent, __u32 parent_flags)
{
	if (cfg_parent_based && has_parent)
		return parent_flags & TRACE_FLAG_SAMPLED;
	if (cfg_sampler_root == ROOT_RATIO)
		return (__builtin_bswap64(trace_id[1]) >> 1) < cfg_ratio_bound;
	return cfg_sampler_root == ROOT_ALWAYS_ON;
}

/* One lower-case hex digit; 0xff for anything else. */
static __always_inline __u8 hex_digit(__u8 c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return 0xff;
}

struct traceparent {
	__u64 trace_id[2];
	__u64 span_id;
	__u32 flags;
	__u32 ok;
};

/* n bytes from 2n hex digits; false when one is not a lower-case hex digit. */
static __always_inline bool hex_bytes(__u8 *dst, const __u8 *src, int n)
{
	__u8 bad = 0;

	for (int i = 0; i < n; i++) {
		__u8 hi = hex_digit(src[2 * i]), lo = hex_digit(src[2 * i + 1]);

		bad |= (hi | lo) & 0xf0;
		dst[i] = hi << 4 | (lo & 0x0f);
	}
	return !bad;
}

/* Parse a header value of len bytes whose first 56 (zero padded) are in s.
 * https://www.w3.org/TR/trace-context/#traceparent-header */
static __always_inline bool parse_traceparent(struct traceparent *tp, const __u8 *s, __u32 len)
{
	__u8 version, flags;

	tp->ok = 0;
	if (len < TRACEPARENT_LEN || s[2] != '-' || s[35] != '-' || s[52] != '-')
		return false;
	if (!hex_bytes(&version, s, 1) || version == 0xff)
		return false;
	if (version == 0 ? len != TRACEPARENT_LEN : len > TRACEPARENT_LEN && s[55] != '-')
		return false;
	if (!hex_bytes((__u8 *)tp->trace_id, s + 3, 16) ||
	    !hex_bytes((__u8 *)&tp->span_id, s + 36, 8) || !hex_bytes(&flags, s + 53, 1))
		return false;
	if (!(tp->trace_id[0] | tp->trace_id[1]) || !tp->span_id)
		return false;
	tp->flags = flags;
	tp->ok = 1;
	return true;
}

#endif
