/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * ktypes.h - the few kernel structures that our programs look into, each with
 * only the fields they read. Offsets are relocated at load time (CO-RE) from the
 * running kernel's BTF, so order and size here mean nothing; a field's name and
 * its kind (number, pointer, structure) do. Read field by field: whole-structure
 * reads break when a kernel grows one (struct ns_common did in 6.18).
 *
 * Include after <linux/bpf.h>, <bpf/bpf_helpers.h> and <bpf/bpf_core_read.h>.
 */
#ifndef TR_KTYPES_H
#define TR_KTYPES_H

#ifndef bool
#define bool  _Bool
#define true  1
#define false 0
#endif

#define OVERLAYFS_SUPER_MAGIC 0x794c7630
#define TASK_COMM_LEN         16
#define TCP_LISTEN            10
#define PF_KTHREAD            0x00200000 /* task_struct.flags */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

struct super_block {
	__u32 s_dev; /* dev_t: major << 20 | minor */
	unsigned long s_magic;
};

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
	unsigned short i_mode;
};

struct file {
	struct inode *f_inode;
	void *private_data; /* of a socket: struct socket */
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct vm_area_struct {
	struct file *vm_file;
};

struct mm_struct {
	unsigned long start_code; /* lowest address of an executable segment */
	struct file *exe_file;
};

struct signal_struct {
	atomic_t live; /* threads that have not begun to exit */
};

struct task_struct {
	int pid; /* of the thread, in the initial pid namespace */
	int tgid;
	unsigned int flags;
	__u64 start_boottime; /* ns; not changed by exec */
	__u64 self_exec_id;   /* one more at every exec; u32 before 5.7 */
	char comm[TASK_COMM_LEN];
	struct mm_struct *mm;
	struct files_struct *files;
	struct signal_struct *signal;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	__u32 s6_addr32[4];
};

struct sock_common {
	__u32 skc_daddr;     /* network byte order */
	__u32 skc_rcv_saddr; /* network byte order */
	unsigned short skc_family;
	unsigned char skc_state;
	__u16 skc_dport; /* remote port, network byte order */
	__u16 skc_num;   /* local port, host byte order */
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
};

struct socket {
	struct sock *sk;
};

struct tcp_sock {
	__u32 write_seq;                   /* next byte the program will write */
	__u32 copied_seq;                  /* next byte the program will read */
	__u32 rcv_nxt;                     /* next byte the kernel expects */
	__u32 snd_una;                     /* first byte that the peer has not acknowledged */
	__u64 bytes_received, bytes_acked; /* up to there */
};

/* Contexts of the iterators. */
struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop

#endif
