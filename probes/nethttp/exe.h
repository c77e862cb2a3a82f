/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * exe.h - what the programs must know of one executable.
 */
#ifndef NH_EXE_H
#define NH_EXE_H

#include "../../bpf/lib/goconn.h"

/* Where a client request keeps what is read of it: *http.Request, or for HTTP/2
 * from Go 1.27 on *internal/http2.ClientRequest. */
struct nh_creq {
	__u16 method, url, ctx, clen, header;
	__u16 body;     /* OFF_NONE if it is not looked at */
	__u16 response; /* the redirect that led to it, OFF_NONE if it does not say */
	__u16 len;      /* how much of it holds what is wanted of every request */
};

/* Offsets of one kind of HTTP/2 server and client (bundled or golang.org/x/net). */
struct nh_h2 {
	__u16 rw_rws;
	__u16 rws_status;
	__u16 rws_wrote_header;
	__u16 rws_wrote_bytes;
	struct nh_creq creq;
	__u16 cres_status;
	__u16 cres_clen;
	__u16 cres_header; /* OFF_NONE: not known */
	__u16 cc_tconn;
	__u16 rws_stream, stream_id, rws_conn, sc_conn; /* server */
	__u16 cs_id, cs_cc, cc_max_list;                /* client */
	__u16 inject;                                   /* 1: headers are written */
	__u8 reads;   /* 1: that bodies are read is seen, the first of the following are known */
	__u8 answers; /* 1: the last are */
	__u16 rb_pipe, pipe_b, db_chunks, db_r, db_w, db_size, stream_bytes;
	__u16 rws_bw, rws_header, rws_snap;
	struct go_loc end[3]; /* response, error type, error data */
	/* Link-time address and size of the functions below which the end of a client's
	 * call is seen; no size: not known, any. */
	__u64 callers[2][2];
};

/* Where chi's Context keeps what was matched. */
struct nh_chi {
	__u16 pattern, patterns;
};

/* Offsets of routers other than ServeMux. */
struct nh_routers {
	__u16 gin_path, echo4_path, echo5_path;
	__u16 mux_regexp, mux_path, mux_template; /* Route, routeRegexpGroup, routeRegexp */
	struct nh_chi chi, chi5;
};

/* Everything the programs must know of one executable; written by user space. */
struct nh_exe {
	__u8 server_sane, client_sane; /* set here */
	__u8 h2_end, xh2_end;          /* 1: the end of such a server request is seen */
	__u16 req_method, req_url, req_major, req_minor, req_header, req_host;
	__u16 req_remote, req_uri, req_tls, req_clen, req_ctx;
	__u16 req_pat, req_pattern; /* OFF_NONE before 1.22 / 1.23 */
	__u16 res_request;          /* Response.Request, OFF_NONE if not known */
	__u16 pat_str;
	__u16 req_len;        /* how much of the structure holds what is wanted */
	__u16 w_first, w_len; /* the same of http.response */
	__u16 w_status, w_written, w_wrote_header;
	struct nh_creq creq;
	__u16 res_status, res_clen, res_major, res_minor;
	__u16 treq_req;
	__u16 pc_conn, pc_alt, pc_bw;
	__u16 bw_buf, bw_n; /* bufio.Writer */
	__u16 url_scheme, url_user, url_host, url_path, url_raw_path, url_query;
	__u16 url_len;        /* how much of it holds those */
	__u16 w_conn, hc_rwc; /* response.conn, conn.rwc */
	__u8 join;            /* 1: connections are joined */
	__u8 inject;          /* 1: headers of HTTP/1 are written */
	__u8 dials;           /* 1: it is seen how connections are made */
	__u8 body;            /* 1: the following are known, see body.h */
	__u16 hc_bufr, hc_bufw, pc_br, w_header;
	__u16 br_buf, br_r, br_w;
	struct tr_goconn net;
	struct go_loc conn_end[3];  /* pconn, error type, error data */
	struct go_loc dialled[2];   /* of dialConn: pconn, error type */
	struct go_loc call_end[3];  /* response, error type, error data */
	struct go_loc match_end[4]; /* handler type, data, pattern pointer, length */
	struct nh_h2 h2, xh2;
	struct nh_routers routers;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_EXES);
	__type(key, __u32);
	__type(value, struct nh_exe);
} nh_exes SEC(".maps");

#endif
