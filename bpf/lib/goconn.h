/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * goconn.h - from a net.Conn in a Go program to its socket: a *net.TCPConn, or a
 * *tls.Conn over one. What is of no known type is not touched.
 */
#ifndef TR_GOCONN_H
#define TR_GOCONN_H

#include "conn.h"
#include "goctx.h"

/* What of one executable leads from a net.Conn to its file descriptor. Written by user
 * space, but for the itabs. */
struct tr_goconn {
	__u16 tls_conn, conn_fd, fd_sysfd; /* tls.Conn.conn, net.conn.fd, netFD.pfd.Sysfd */
	__u16 pad;
	__s32 tcp_name, tls_name; /* nameOff of *net.TCPConn, *tls.Conn; 0 = not there */
	__s32 wrap_name;          /* of a structure that begins with a net.Conn; 0 = none */
	__u32 pad2;
	__u64 tcp_itab, tls_itab, wrap_itab; /* link-time, once seen; set here */
};

/* What it takes to look at a connection; belongs to the goroutine that runs. The ids
 * to announce are in c.val. */
struct tr_goio {
	struct go_str s;
	struct conn_sock c;
	__u64 bias;       /* load bias of the process */
	__u16 own_header; /* client: the program set a traceparent itself */
	__u16 written;    /* client: a header is to be written, which need not be announced */
	__u32 hand;       /* tr_proc.hand of the process */
};

/* Whether an itab is of the type with that name; the first one found is kept. */
static __always_inline bool itab_is(struct tr_goio *io, struct tr_goexe *ge, __u64 itab, __s32 name,
				    __u64 *known)
{
	if (!itab || !name)
		return false;
	if (*known)
		return itab - io->bias == *known;
	if ((__s32)read_u32(read_u64(itab + 8) + ge->type_str) != name)
		return false;
	*known = itab - io->bias;
	return true;
}

static __always_inline void io_init(struct tr_goio *io, const struct tr_proc *proc)
{
	io->bias = proc->bias;
	io->own_header = io->written = 0;
	io->hand = proc->hand;
}

/* The file descriptor of the net.Conn at addr, -1 if its type is not known. */
static __noinline int fd_of_conn(struct tr_goio *io, struct tr_goexe *ge, struct tr_goconn *gc,
				 __u64 addr)
{
	struct go_str *iface = &io->s; /* itab, data */

	io->c.val.tls = 0;
	io->c.val.kernel = !!(io->hand & HAND_KERNEL);
	if (bpf_probe_read_user(iface, sizeof(*iface), (void *)addr))
		return -1;
	if (itab_is(io, ge, iface->ptr, gc->wrap_name, &gc->wrap_itab) &&
	    bpf_probe_read_user(iface, sizeof(*iface), (void *)iface->len))
		return -1;
	if (itab_is(io, ge, iface->ptr, gc->tls_name, &gc->tls_itab)) {
		io->c.val.tls = 1;
		if (bpf_probe_read_user(iface, sizeof(*iface), (void *)(iface->len + gc->tls_conn)))
			return -1;
	}
	if (!itab_is(io, ge, iface->ptr, gc->tcp_name, &gc->tcp_itab))
		return -1;
	/* a fault must not read as descriptor 0 */
	if (bpf_probe_read_user(&iface->ptr, 8, (void *)(iface->len + gc->conn_fd)) ||
	    bpf_probe_read_user(&iface->len, 8, (void *)(iface->ptr + gc->fd_sysfd)))
		return -1;
	return (int)iface->len;
}

#endif
