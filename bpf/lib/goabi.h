/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * goabi.h - registers at a probe in a Go function.
 *
 * Go's ABIInternal (Go 1.17 on; cmd/compile/abi-internal.md in the Go tree)
 * passes integer words in AX BX CX DI SI R8 R9 R10 R11 on amd64 and R0..R15 on
 * arm64; results come back in the same sequence. The current g is R14 / R28, a
 * closure's context DX / R26.
 */
#ifndef TR_GOABI_H
#define TR_GOABI_H

#include "read.h"

#if defined(__TARGET_ARCH_x86)
/* struct pt_regs, arch/x86/include/asm/ptrace.h */
struct pt_regs {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	__u64 orig_ax, ip, cs, flags, sp, ss;
};
#define GO_G(c)    ((c)->r14)
#define GO_SP(c)   ((c)->sp)
#define GO_ARG0(c) ((c)->ax)
#define GO_ARG1(c) ((c)->bx)
#define GO_ARG2(c) ((c)->cx)
#define GO_ARG3(c) ((c)->di)
#define GO_CTX(c)  ((c)->dx)
#elif defined(__TARGET_ARCH_arm64)
/* struct user_pt_regs, arch/arm64/include/uapi/asm/ptrace.h */
struct pt_regs {
	__u64 regs[31];
	__u64 sp, pc, pstate;
};
#define GO_G(c)    ((c)->regs[28])
#define GO_SP(c)   ((c)->sp)
#define GO_ARG0(c) ((c)->regs[0])
#define GO_ARG1(c) ((c)->regs[1])
#define GO_ARG2(c) ((c)->regs[2])
#define GO_ARG3(c) ((c)->regs[3])
#define GO_CTX(c)  ((c)->regs[26])
#else
#error "unsupported architecture"
#endif

/* Integer register number reg of the ABIInternal sequence. */
static __always_inline __u64 go_reg(struct pt_regs *ctx, __u8 reg)
{
#if defined(__TARGET_ARCH_x86)
	switch (reg) {
	case 0:
		return ctx->ax;
	case 1:
		return ctx->bx;
	case 2:
		return ctx->cx;
	case 3:
		return ctx->di;
	case 4:
		return ctx->si;
	case 5:
		return ctx->r8;
	case 6:
		return ctx->r9;
	case 7:
		return ctx->r10;
	case 8:
		return ctx->r11;
	}
#else
	switch (reg) {
	case 0:
		return ctx->regs[0];
	case 1:
		return ctx->regs[1];
	case 2:
		return ctx->regs[2];
	case 3:
		return ctx->regs[3];
	case 4:
		return ctx->regs[4];
	case 5:
		return ctx->regs[5];
	case 6:
		return ctx->regs[6];
	case 7:
		return ctx->regs[7];
	case 8:
		return ctx->regs[8];
	}
#endif
	return 0;
}

/* The address that a function returns to, at its usual entry point. */
static __always_inline __u64 go_return_addr(struct pt_regs *ctx)
{
#if defined(__TARGET_ARCH_x86)
	return read_u64(ctx->sp);
#else
	return ctx->regs[30];
#endif
}

/* Where a word is at the probed instruction, computed by user space from the
 * real code: a register, or a stack slot relative to SP. */
struct go_loc {
	__s32 off;
	__u8 stack;
	__u8 reg;
	__u16 pad;
};

static __always_inline __u64 go_loc_read(struct pt_regs *ctx, const struct go_loc *loc)
{
	if (loc->stack)
		return read_u64(GO_SP(ctx) + (__s64)loc->off);
	return go_reg(ctx, loc->reg);
}

#endif
