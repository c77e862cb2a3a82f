//go:build ignore
/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * discover.bpf.c - which processes run, begin, end and listen.
 *
 * Hooked: the exec and exit tracepoints of the scheduler, the TCP state change
 * tracepoint (only when ports are wanted), and an iterator over all tasks for
 * what ran before us and for what was lost.
 *
 * The exec program also decides on the spot: a process of an executable in
 * tr_exe_auto gets into tr_procs before its first instruction; any other exec
 * throws the process out of it. User space follows later, by the records.
 *
 * An executable is named by device and inode of the file that is mapped, because
 * that is where uprobes sit. On overlayfs, mm->exe_file is the overlay's own
 * inode, one per container; the file of the mapping is the shared one below it.
 * Finding that needs bpf_find_vma (5.17); without it the overlay's inode is given
 * and FLAG_UPPER says so.
 *
 * Lost by design: children that only fork (no exec) are seen by the iterator
 * alone. If the ring is full the record is counted in di_lost and user space
 * iterates again.
 *
 * Stack: di_exec uses 72 bytes, which 6.13 and later give it as a private stack;
 * tracepoint programs are kept from nesting on a CPU, unlike uprobe ones.
 *
 * Minimum kernel: 5.8 (ring buffer, iterators). Maps: tr_procs, tr_exe_auto
 * (shared), di_events, di_lost (own).
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "ktypes.h"
#include "procs.h"
#include "exes.h"

enum discover_type {
	TYPE_EXEC = 1,
	TYPE_EXIT = 2,
	TYPE_LISTEN = 3,
	TYPE_TASK = 4,
};

enum discover_flag {
	FLAG_AUTO = 1,  /* the kernel side put it into tr_procs */
	FLAG_UPPER = 2, /* dev and ino are overlayfs's, not of the mapped file */
};

struct discover_event {
	enum discover_type type;
	enum discover_flag flags;
	__u32 tgid;
	__u32 ppid;
	__u64 start_ns; /* start_boottime of the group leader */
	__u64 ktime_ns; /* when the record was made, CLOCK_MONOTONIC */
	__u64 exec_id;  /* tells two programs of one process apart */
	__u64 ino;
	__u64 start_code;
	__u32 dev;
	__u32 netns; /* TYPE_LISTEN only: inode number of the network namespace */
	__u16 port;  /* TYPE_LISTEN only */
	__u16 family;
	__u32 pad;
	char comm[TASK_COMM_LEN];
};

#define DI_RING_BYTES (256 << 10)

/* Own ring, see wake_flags. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, DI_RING_BYTES);
	__type(value, struct discover_event);
} di_events SEC(".maps");

/* One counter: records that did not fit. Only ever counted up. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} di_lost SEC(".maps");

static __always_inline struct discover_event *reserve(void)
{
	struct discover_event *e;
	__u32 key = 0;
	__u64 *lost;

	e = bpf_ringbuf_reserve(&di_events, sizeof(*e), 0);
	if (e)
		return e;
	lost = bpf_map_lookup_elem(&di_lost, &key);
	if (lost)
		__sync_fetch_and_add(lost, 1);
	return NULL;
}

/* Waking the reader costs both sides some 100 us, so it is done once in a while
 * only: after a wake-up user space looks again every busyPoll (52 ms, watcher.go)
 * for as long as it finds something, and every two seconds in any case. A lost
 * race between two processors costs one wake-up more. */
#define WAKE_EVERY_NS (50 * 1000 * 1000ULL)
static volatile __u64 last_wake_ns;

static __always_inline __u64 wake_flags(void)
{
	__u64 now = bpf_ktime_get_ns();

	if (now - last_wake_ns < WAKE_EVERY_NS)
		return BPF_RB_NO_WAKEUP;
	last_wake_ns = now;
	return BPF_RB_FORCE_WAKEUP;
}

/* Which file's inode a process runs. */
static __always_inline void key_of_file(struct file *file, struct tr_exe_key *key)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);

	key->ino = BPF_CORE_READ(inode, i_ino);
	key->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	key->pad = 0;
}

/* bpf_find_vma's callback: the file of the mapping that holds the program's code. */
static long vma_key(struct task_struct *task, struct vm_area_struct *vma, struct tr_exe_key *key)
{
	struct file *file = BPF_CORE_READ(vma, vm_file);

	if (file)
		key_of_file(file, key);
	return 0;
}

/* Returns flags, or less than 0 for a task without a user program. find:
 * bpf_find_vma may be used. */
static __always_inline int exe_of(struct task_struct *task, struct mm_struct *mm, bool find,
				  struct tr_exe_key *key)
{
	struct file *file = BPF_CORE_READ(mm, exe_file);

	if (!file)
		return -1;
	key_of_file(file, key);
	if (BPF_CORE_READ(file, f_inode, i_sb, s_magic) != OVERLAYFS_SUPER_MAGIC)
		return 0;
	if (!find || bpf_find_vma(task, BPF_CORE_READ(mm, start_code), vma_key, key, 0))
		return FLAG_UPPER;
	return 0;
}

/* self_exec_id was 32 bits wide before 5.7; CO-RE reads either width. */
static __always_inline __u64 exec_id(struct task_struct *leader)
{
	return BPF_CORE_READ_BITFIELD_PROBED(leader, self_exec_id);
}

static __always_inline void fill(struct discover_event *e, struct task_struct *leader,
				 struct mm_struct *mm, struct tr_exe_key *key)
{
	e->tgid = BPF_CORE_READ(leader, tgid);
	e->ppid = BPF_CORE_READ(leader, real_parent, tgid);
	e->start_ns = BPF_CORE_READ(leader, start_boottime);
	e->ktime_ns = bpf_ktime_get_ns();
	e->exec_id = exec_id(leader);
	e->ino = key->ino;
	e->dev = key->dev;
	e->start_code = BPF_CORE_READ(mm, start_code);
	e->netns = 0;
	e->port = 0;
	e->family = 0;
	e->pad = 0;
	bpf_core_read(e->comm, sizeof(e->comm), &leader->comm);
}

/* In or out of tr_procs, at once. Returns whether the process is watched. */
static __always_inline bool decide(__u32 tgid, struct task_struct *leader, struct mm_struct *mm,
				   struct tr_exe_key *key)
{
	struct tr_exe_auto *exe = bpf_map_lookup_elem(&tr_exe_auto, key);
	struct tr_proc proc;

	if (!exe) {
		bpf_map_delete_elem(&tr_procs, &tgid);
		return false;
	}
	proc.start_ns = BPF_CORE_READ(leader, start_boottime);
	proc.bias = BPF_CORE_READ(mm, start_code) - exe->load_vaddr;
	proc.exe_id = exe->exe_id;
	proc.epoch = bpf_ktime_get_ns() >> 20;
	proc.hand = exe->hand;
	proc.pad = 0;
	proc.search_ns = 0;
	return bpf_map_update_elem(&tr_procs, &tgid, &proc, BPF_ANY) == 0;
}

/* The task that called execve is the group leader by now (de_thread), and is
 * the current one. */
static __always_inline int on_exec(struct task_struct *task, bool find)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct discover_event *e;
	struct tr_exe_key key;
	int flags;

	if (!mm)
		return 0;
	flags = exe_of(task, mm, find, &key);
	if (flags < 0)
		return 0;
	if (decide(tgid, task, mm, &key))
		flags |= FLAG_AUTO;
	e = reserve();
	if (!e)
		return 0;
	e->type = TYPE_EXEC;
	e->flags = flags;
	fill(e, task, mm, &key);
	/* The agent should describe a watched process before its first span comes. */
	bpf_ringbuf_submit(e, flags & FLAG_AUTO ? BPF_RB_FORCE_WAKEUP : wake_flags());
	return 0;
}

/* void sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm) */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(di_exec, struct task_struct *p)
{
	return on_exec(bpf_get_current_task_btf(), true);
}

/* For kernels without bpf_find_vma, which wants a typed task. */
SEC("raw_tp/sched_process_exec")
int BPF_PROG(di_exec_old, struct task_struct *p)
{
	return on_exec(p, false);
}

/* void sched_process_exit(struct task_struct *p, bool group_dead): once per thread,
 * after signal->live was counted down (group_dead came with 6.16, so live is read
 * instead). Two threads that end together can both find 0: user space takes the
 * second record for nothing. The leader may have ended long before. */
SEC("raw_tp/sched_process_exit")
int BPF_PROG(di_exit, struct task_struct *task)
{
	struct task_struct *leader;
	struct discover_event *e;
	bool watched;
	__u32 tgid;

	if (BPF_CORE_READ(task, signal, live.counter) != 0)
		return 0;
	tgid = bpf_get_current_pid_tgid() >> 32;
	watched = bpf_map_delete_elem(&tr_procs, &tgid) == 0;
	e = reserve();
	if (!e)
		return 0;
	leader = BPF_CORE_READ(task, group_leader);
	__builtin_memset(e, 0, sizeof(*e));
	e->type = TYPE_EXIT;
	e->ktime_ns = bpf_ktime_get_ns();
	e->tgid = tgid;
	e->start_ns = BPF_CORE_READ(leader, start_boottime);
	/* Nobody waits for the end of a process that was not watched. */
	bpf_ringbuf_submit(e, watched ? wake_flags() : BPF_RB_NO_WAKEUP);
	return 0;
}

/* void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate);
 * listen(2) runs in the process that calls it. */
SEC("raw_tp/inet_sock_set_state")
int BPF_PROG(di_listen, struct sock *sk, int oldstate, int newstate)
{
	struct task_struct *task, *leader;
	struct discover_event *e;

	if (newstate != TCP_LISTEN)
		return 0;
	e = reserve();
	if (!e)
		return 0;
	task = (struct task_struct *)bpf_get_current_task();
	leader = BPF_CORE_READ(task, group_leader);
	__builtin_memset(e, 0, sizeof(*e));
	e->type = TYPE_LISTEN;
	e->ktime_ns = bpf_ktime_get_ns();
	e->tgid = BPF_CORE_READ(leader, tgid);
	e->start_ns = BPF_CORE_READ(leader, start_boottime);
	e->port = BPF_CORE_READ(sk, __sk_common.skc_num);
	e->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	e->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	bpf_ringbuf_submit(e, wake_flags());
	return 0;
}

/* One record per process. Kernel threads have no program of their own. A leader
 * that ended before its threads has no mm any more: then each of its threads gives
 * a record with that thread's mm, and user space takes the first.
 * The record is on the stack: iterators run in the agent, never nested. */
static __always_inline int on_task(struct bpf_iter__task *ctx, bool find)
{
	struct task_struct *leader, *task = ctx->task;
	struct discover_event e;
	struct mm_struct *mm;
	struct tr_exe_key key;
	int flags;

	if (!task || (BPF_CORE_READ(task, flags) & PF_KTHREAD))
		return 0;
	leader = BPF_CORE_READ(task, group_leader);
	if (task != leader && BPF_CORE_READ(leader, mm))
		return 0;
	mm = BPF_CORE_READ(task, mm);
	if (!mm || BPF_CORE_READ(task, signal, live.counter) == 0)
		return 0;
	flags = exe_of(task, mm, find, &key);
	if (flags < 0)
		return 0;
	e.type = TYPE_TASK;
	e.flags = flags;
	fill(&e, leader, mm, &key);
	bpf_seq_write(ctx->meta->seq, &e, sizeof(e));
	return 0;
}

SEC("iter/task")
int di_tasks(struct bpf_iter__task *ctx)
{
	return on_task(ctx, true);
}

SEC("iter/task")
int di_tasks_old(struct bpf_iter__task *ctx)
{
	return on_task(ctx, false);
}

char LICENSE[] SEC("license") = "GPL";
