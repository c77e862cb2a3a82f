/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * headers.h - find wanted keys in a Go map[string][]string (http.Header) in one
 * pass. Keys are in canonical form ("User-Agent"), so a wanted one is known by
 * its length first and then by its bytes; nothing is hashed the way Go hashes.
 *
 * A map is a row of groups of eight slots: buckets of runtime.hmap up to Go 1.23
 * (src/runtime/map.go), groups of internal/runtime/maps from Go 1.24 on
 * (src/internal/runtime/maps/map.go). Maps of more than MAX_GROUPS groups are
 * read up to there; what lies beyond is not seen. Of a group that ends in a page that the
 * program has never touched the part before is read.
 */
#ifndef TR_HEADERS_H
#define TR_HEADERS_H

#include "goctx.h"

#define MAX_GROUPS     16
#define GROUP_SLOTS    8
#define STR_SIZE       16
#define SLICE_SIZE     24
#define HM_MIN_TOPHASH 5 /* below: empty or evacuated */

/* A wanted key: up to 24 bytes, zero padded; longer ones are told apart by their
 * first 16 and last 8. */
struct hdr_rule {
	__u64 word[3];
	__u32 slot;   /* chosen by the probe */
	__u32 wanted; /* 0: unused */
};

#define MAX_HDR_LEN   64
#define RULES_PER_LEN 4

/* By length of the key. A table, not a map: a map lookup costs as much as reading a
 * header's name. */
const volatile struct hdr_rule cfg_hdrs[MAX_HDR_LEN][RULES_PER_LEN] = {};

/* Which lengths have a rule: bit n for n bytes. */
const volatile __u64 cfg_hdr_lens = 0;

#define MAX_HDR_SLOTS 32

#define SLOTS_SIZE    (GROUP_SLOTS * (STR_SIZE + SLICE_SIZE))

/* The state of one scan, and what it found. Lives in map memory: a program's stack
 * must stay below 64 bytes (see ADR 10), and values read back from
 * a map let the verifier prune. */
struct hdr_scan {
	__u64 base; /* address of group 0 */
	__u64 old;  /* hmap: oldbuckets, read after the others */
	__u64 cur;  /* address of the group in work */
	__u32 n, n_old, group;
	__u32 more;  /* groups there are that are not read */
	__u32 fold;  /* keys that are, or cannot be shown not to be, "traceparent" in any
			letter case; they are taken for the canonical one */
	__u32 seen;  /* keys */
	__u32 found; /* slots of at[] that are set */
	__u64 lens;  /* keys that are looked at, by length, as in cfg_hdr_lens; set by the caller */
	__u64 word[3]; /* scratch */
	/* A copy of the group: control bytes or tophashes, slots, and of a bucket
	 * the pointer to its overflow bucket. */
	__u64 copy[(8 + SLOTS_SIZE + 8) / 8];
	/* the []string of each wanted header that was found: pointer and length */
	struct go_str at[MAX_HDR_SLOTS];
};

static __always_inline bool groups_of(struct tr_goexe *ge, __u64 map, struct hdr_scan *sc)
{
	if (!ge->swiss) {
		__u8 b = read_u8(map + ge->hm_b);

		sc->base = read_u64(map + ge->hm_buckets);
		sc->old = read_u64(map + ge->hm_oldbuckets);
		sc->n = b < 5 ? 1 << b : MAX_GROUPS;
		sc->more = b > 4;
		if (sc->old)
			sc->n_old = b && b < 6 ? 1 << (b - 1) : 1;
		return sc->base != 0;
	}
	/* dirPtr and, behind it, dirLen */
	if (bpf_probe_read_user(sc->word, 16, (void *)(map + ge->map_dir_ptr)))
		return false;
	sc->base = sc->word[0];
	sc->n = 1;
	if (!sc->base)
		return false;
	if (sc->word[1] != 0) {
		/* A directory of tables. Up to 1024 slots there is one table, which
		 * is more than MAX_GROUPS groups. */
		__u64 table = read_u64(sc->base);

		sc->base = read_u64(table + ge->tab_groups_data);
		sc->n = read_u64(table + ge->tab_groups_mask) + 1;
		sc->more = sc->n > MAX_GROUPS || sc->word[1] > 1;
	}
	return sc->base != 0;
}

enum group_rc {
	GROUP_END,
	GROUP_READ,
	GROUP_FAULT
};

/* Copy what of a group of size bytes is before the end of its page. The page behind may
 * never have been touched: a program writes only the slots that it uses, and new memory is
 * not mapped before. Slots that are not there as a whole are taken for empty; should one
 * not be, fewer keys are seen than the map says it has. Without a loop: the verifier
 * follows this for each group. */
static __noinline int part_of_group(struct tr_goexe *ge, struct hdr_scan *sc, __u32 size)
{
	__u32 n = 4096 - (sc->cur & 4095), first, whole = 0;
	__u64 absent;

	if (n >= size)
		return GROUP_FAULT;
	asm volatile("%0 &= 511" : "+r"(n));
	if (n < 8 || n > sizeof(sc->copy) || bpf_probe_read_user(sc->copy, n, (void *)sc->cur))
		return GROUP_FAULT;
	sc->copy[(8 + SLOTS_SIZE) / 8] = 0;
	first = ge->swiss ? 8 : 8 + GROUP_SLOTS * STR_SIZE;
	if (n >= first)
		whole = (n - first) / (ge->swiss ? STR_SIZE + SLICE_SIZE : SLICE_SIZE);
	if (whole < GROUP_SLOTS) {
		absent = ~0ULL << whole * 8;
		sc->copy[0] &= ~absent;
		if (ge->swiss)
			sc->copy[0] |= absent & 0x8080808080808080ULL;
	}
	return GROUP_READ;
}

/* Copy the next group. */
static __noinline int next_group(struct tr_goexe *ge, struct hdr_scan *sc)
{
	__u64 next = sc->copy[(8 + SLOTS_SIZE) / 8];

	if (next && !ge->swiss) {
		sc->cur = next;
	} else if (sc->group < sc->n) {
		sc->cur = sc->base + (__u64)sc->group * (SLOTS_SIZE + (ge->swiss ? 8 : 16));
		sc->group++;
	} else if (sc->n_old) {
		sc->base = sc->old;
		sc->n = sc->n_old;
		sc->n_old = 0;
		sc->group = 1;
		sc->cur = sc->base;
	} else {
		return GROUP_END;
	}
	if (bpf_probe_read_user(sc->copy, 8 + SLOTS_SIZE + (ge->swiss ? 0 : 8), (void *)sc->cur))
		return part_of_group(ge, sc, 8 + SLOTS_SIZE + (ge->swiss ? 0 : 8));
	return GROUP_READ;
}

/* Whether the 11 bytes at ptr are "traceparent" in any letter case. */
__noinline int tr_is_traceparent(__u64 ptr)
{
	const __u64 lower = 0x2020202020202020ULL;
	__u64 a, b;

	if (bpf_probe_read_user(&a, 8, (void *)ptr) ||
	    bpf_probe_read_user(&b, 8, (void *)(ptr + 3)))
		return true; /* not proven to be another */

	/* OR-ing 0x20 makes exactly two bytes, a letter's two cases, one. */
	return !(((a | lower) ^ 0x7261706563617274ULL /* "tracepar" */) |
		 ((b | lower) ^ 0x746e657261706563ULL /* "ceparent" */));
}

/* What tr_hdr_slot returns: a slot, or HDR_NONE; HDR_FOLD with it: see hdr_scan.fold. */
#define HDR_NONE 0xff
#define HDR_FOLD 0x100

/* The words of the key of len bytes at ptr, as a rule has them. */
static __always_inline void hdr_words(__u64 w[3], __u64 ptr, __u64 len)
{
	__u32 n = len;

	if (len > 24) {
		bpf_probe_read_user(w, 16, (void *)ptr);
		bpf_probe_read_user(&w[2], 8, (void *)(ptr + len - 8));
		return;
	}
	asm volatile("%0 &= 31" : "+r"(n));
	if (n <= 24)
		bpf_probe_read_user(w, n, (void *)ptr);
}

/* The slot, below slots, of that of a length's rules that has the words w but for the bits
 * of any_case; HDR_NONE if there is none. */
static __always_inline __u32 hdr_match(const volatile struct hdr_rule *r, const __u64 w[3],
				       __u64 any_case, __u32 slots)
{
	for (int i = 0; i < RULES_PER_LEN; i++, r++) {
		__u64 diff = (w[0] ^ r->word[0]) | (w[1] ^ r->word[1]) | (w[2] ^ r->word[2]);
		__u32 slot = r->slot; /* volatile: read once, then checked */

		if (!(diff & ~any_case) && r->wanted && slot < slots)
			return slot;
	}
	return HDR_NONE;
}

/* Which slot the key of len bytes at ptr has. Not static (goctx.h): it is asked for every
 * slot of every group. */
__noinline int tr_hdr_slot(__u64 ptr, __u64 len)
{
	const volatile struct hdr_rule *r;
	__u64 w[3] = {};
	int fold = 0;

	if (len >= MAX_HDR_LEN)
		return HDR_NONE;
	r = cfg_hdrs[len];
	asm volatile("" : "+r"(r)); /* not computed again from len */
	if (len == sizeof("traceparent") - 1 && tr_is_traceparent(ptr)) {
		fold = HDR_FOLD;
		__builtin_memcpy(w, "Traceparent", sizeof("traceparent") - 1);
	} else {
		hdr_words(w, ptr, len);
	}
	return fold | hdr_match(r, w, 0, MAX_HDR_SLOTS);
}

/* If the key is wanted, note where its value slice is. */
static __always_inline void take_header(struct hdr_scan *sc, __u64 ptr, __u64 len, __u64 val,
					__u64 val_len)
{
	__u32 slot;

	if (len >= MAX_HDR_LEN || !(sc->lens >> len & 1))
		return;
	slot = tr_hdr_slot(ptr, len);
	sc->fold += slot >> 8 & 1;
	slot &= 0xff;
	if (slot >= MAX_HDR_SLOTS)
		return;
	sc->at[slot].ptr = val;
	sc->at[slot].len = val_len;
	sc->found |= 1U << slot;
}

/* Begin a scan for the headers of lens. */
static __always_inline void scan_reset(struct hdr_scan *sc, __u64 lens)
{
	sc->base = sc->old = sc->cur = 0;
	sc->n = sc->n_old = sc->group = sc->more = 0;
	sc->fold = sc->seen = sc->found = 0;
	sc->lens = lens;
	sc->copy[(8 + SLOTS_SIZE) / 8] = 0;
}

/* How many values a wanted header has. */
static __always_inline __u64 hdr_values(const struct hdr_scan *sc, __u32 slot)
{
	return sc->found >> slot & 1 ? sc->at[slot & (MAX_HDR_SLOTS - 1)].len : 0;
}

/* Find the wanted headers of the map at address map; after scan_reset. */
static __noinline __attribute__((unused)) int scan_headers(struct tr_goexe *ge, struct hdr_scan *sc,
							   __u64 map)
{
	if (!map || !groups_of(ge, map, sc))
		return 0;
	sc->more |= 2; /* until the last group has been seen */
	for (__u32 n = 0; n <= MAX_GROUPS * GROUP_SLOTS; n++) {
		__u32 i = n & (GROUP_SLOTS - 1);
		__u64 ptr, len, val, val_len;
		__u8 c;

		if (i == 0) {
			int rc = next_group(ge, sc);

			if (rc == GROUP_END)
				sc->more &= ~2U;
			if (rc != GROUP_READ || n == MAX_GROUPS * GROUP_SLOTS)
				break;
		}
		c = ((__u8 *)sc->copy)[i];
		if (ge->swiss) {
			const __u64 *slot = &sc->copy[1 + i * (STR_SIZE + SLICE_SIZE) / 8];

			if (c & 0x80)
				continue;
			ptr = slot[0];
			len = slot[1];
			val = slot[2];
			val_len = slot[3];
		} else {
			const __u64 *key = &sc->copy[1 + i * STR_SIZE / 8];
			const __u64 *slice =
				&sc->copy[1 + (GROUP_SLOTS * STR_SIZE + i * SLICE_SIZE) / 8];

			if (c < HM_MIN_TOPHASH)
				continue;
			ptr = key[0];
			len = key[1];
			val = slice[0];
			val_len = slice[1];
		}
		sc->seen++;
		take_header(sc, ptr, len, val, val_len);
	}
	return 0;
}

#endif
