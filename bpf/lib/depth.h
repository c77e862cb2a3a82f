/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * depth.h - calls within calls. A library's call may make another one on the same
 * goroutine (a new connection's greeting, a driver below database/sql). Which of two
 * is the inner one is told by how deep in the goroutine's stack they are: bytes from
 * its upper end, a number that stays the same when Go moves the stack.
 */
#ifndef TR_DEPTH_H
#define TR_DEPTH_H

#include "goabi.h"

/* runtime.g begins with stack{lo, hi uintptr}: generated code relies on it. */
#define G_STACK_HI 8

/* An operation whose end was missed (a panic) hides deeper ones no longer than this. */
#define NESTED_NS (30ULL * 1000000000ULL)

static __always_inline __u64 go_depth(struct pt_regs *ctx)
{
	return read_u64(GO_G(ctx) + G_STACK_HI) - GO_SP(ctx);
}

#endif
