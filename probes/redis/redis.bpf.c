//go:build ignore
// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * redis - commands, pipelines and transactions of Go's Redis clients: go-redis v8 and
 * v9 (goredis.h) and redigo (below). State is one map entry keyed by goroutine; the
 * greeting of a new connection, made below the command that needed it, is no call of
 * its own.
 *
 * Lost by design: subscriptions, which are no calls; go-redis's cluster pipelines,
 * which take another way; names past the 16th command of a batch, errors past the
 * 64th. Minimum kernel: 5.10. Maps: rd_ops, rd_exes, rd_pools; tr_*.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#include "goredis.h"
#include "redigo.h"

SEC("uprobe")
int rd_v8_cmd(struct pt_regs *ctx)
{
	return cmd_start(ctx, LIB_V8);
}

SEC("uprobe")
int rd_v8_cmd_end(struct pt_regs *ctx)
{
	return cmd_end(ctx, LIB_V8);
}

SEC("uprobe")
int rd_v8_batch(struct pt_regs *ctx)
{
	return batch_start(ctx, LIB_V8);
}

SEC("uprobe")
int rd_v8_batch_end(struct pt_regs *ctx)
{
	return batch_end(ctx, LIB_V8, 0);
}

SEC("uprobe")
int rd_v9_cmd(struct pt_regs *ctx)
{
	return cmd_start(ctx, LIB_V9);
}

SEC("uprobe")
int rd_v9_cmd_end(struct pt_regs *ctx)
{
	return cmd_end(ctx, LIB_V9);
}

SEC("uprobe")
int rd_v9_batch(struct pt_regs *ctx)
{
	return batch_start(ctx, LIB_V9);
}

SEC("uprobe")
int rd_v9_batch_end(struct pt_regs *ctx)
{
	return batch_end(ctx, LIB_V9, 0);
}

SEC("uprobe")
int rd_v9_tx_end(struct pt_regs *ctx)
{
	return batch_end(ctx, LIB_V9, 1);
}

SEC("uprobe")
int rd_redigo_do(struct pt_regs *ctx)
{
	return redigo_do(ctx);
}

SEC("uprobe")
int rd_redigo_reply(struct pt_regs *ctx)
{
	return redigo_reply(ctx, 0);
}

SEC("uprobe")
int rd_redigo_reply2(struct pt_regs *ctx)
{
	return redigo_reply(ctx, 1);
}

SEC("uprobe")
int rd_redigo_fatal(struct pt_regs *ctx)
{
	return redigo_fatal(ctx);
}

SEC("uprobe")
int rd_redigo_pool(struct pt_regs *ctx)
{
	return redigo_pool(ctx);
}

char LICENSE[] SEC("license") = "GPL";

/* Keep the enums that user space shares in the object's BTF. */
const enum redis_event_type *keep_type __attribute__((unused));
const enum rd_flag *keep_flag __attribute__((unused));
const enum rd_check *keep_check __attribute__((unused));
const enum rd_lib *keep_lib __attribute__((unused));
const enum rd_str *keep_str __attribute__((unused));
