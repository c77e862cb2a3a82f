// Package nethttp watches Go's net/http: every server request and every client
// attempt becomes one operation. BPF side: nethttp.bpf.c. It names no exporter
// and keeps no state between records.
package nethttp

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -go-package nethttp -target amd64,arm64 -type nethttp_event -type nethttp_counted -type nh_exe -type nh_h2 -type nh_flag -type nh_str -type tr_body -type tr_body_kind -type tr_body_want -type nh_check -type nethttp_event_type -type lost_place -type tr_goexe bpf nethttp.bpf.c -- -O2 -g -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu
