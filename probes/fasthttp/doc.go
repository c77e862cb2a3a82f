// Package fasthttp watches servers built on github.com/valyala/fasthttp, and fiber's
// routes: every request becomes one operation. BPF side: fasthttp.bpf.c. It names no
// exporter and keeps no state between records.
package fasthttp

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -go-package fasthttp -target amd64,arm64 -type fh_event -type fh_exe -type fh_flag -type fh_str -type fh_check -type fh_type bpf fasthttp.bpf.c -- -O2 -g -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu
