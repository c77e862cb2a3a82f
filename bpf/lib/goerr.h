/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * goerr.h - what a Go error is: the dynamic types from the outermost error inwards, and
 * the first words of the innermost value. User space gives them a name
 * (internal/goerror). Include after event.h.
 */
#ifndef TR_GOERR_H
#define TR_GOERR_H

#include "goctx.h"

#define ERR_LEVELS 5

struct tr_errtype {
	__s32 type_name; /* nameOff of the dynamic type */
	__u8 tflag;      /* of the type: bit 1 = the name has an extra star */
	__u8 pad[3];
};

/* Mirrored by goerror.Chain. */
struct tr_errs {
	struct tr_errtype type[ERR_LEVELS];
	__u64 raw[2]; /* first words of the innermost error's value */
	__u32 n;      /* levels */
	__u32 pad;
};

struct tr_errkey {
	__u32 exe_id;
	__s32 type_name;
};

/* How an error type holds the error it wraps: the offset of the inner error interface.
 * Filled by user space, which also deletes an executable's entries. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct tr_errkey);
	__type(value, __u32);
} tr_errtypes SEC(".maps");

static __always_inline void err_type(struct tr_errtype *e, struct tr_goexe *ge, __u64 type)
{
	e->type_name = read_u32(type + ge->type_str);
	e->tflag = read_u8(type + 20); /* abi.Type.TFlag: the same in Go 1.18 to 1.27 */
}

/* Follow the chain of errors from the words itab, data of an error interface. The
 * dynamic type is the second word of an itab (abi.ITab). Returns where the innermost
 * error's value is. */
static __noinline __u64 err_chain(struct tr_errs *e, struct tr_goexe *ge, __u32 exe_id, __u64 itab,
				  __u64 data)
{
	struct tr_errkey key = { .exe_id = exe_id };

	for (int i = 0; i < ERR_LEVELS; i++) {
		__u32 *inner;
		__u64 at;

		if (!itab)
			break;
		err_type(&e->type[i], ge, read_u64(itab + 8));
		e->n = i + 1;
		key.type_name = e->type[i].type_name;
		inner = bpf_map_lookup_elem(&tr_errtypes, &key);
		if (!inner)
			break;
		at = data + *inner;
		itab = read_u64(at);
		data = read_u64(at + 8);
	}
	bpf_probe_read_user(e->raw, sizeof(e->raw), (void *)data);
	return data;
}

/* Whether the innermost value may begin with a string: only user space knows. Its bytes
 * are e->raw[1] at e->raw[0]. */
static __always_inline bool err_has_text(const struct tr_errs *e)
{
	return e->raw[0] > 4095 && e->raw[1] && e->raw[1] < 512;
}

#endif
