// Package grpc watches google.golang.org/grpc: every RPC that a server handles and every
// call of a client, unary or stream, becomes one operation. BPF side: grpc.bpf.c. It
// names no exporter and keeps no state between records.
package grpc

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -go-package grpc -target amd64,arm64 -type grpc_event -type gr_exe -type gr_flag -type gr_str -type gr_check -type grpc_event_type bpf grpc.bpf.c -- -O2 -g -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu
