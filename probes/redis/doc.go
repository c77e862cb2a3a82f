// Package redis watches Go's Redis clients, go-redis v8 and v9 and redigo: every
// command, pipeline and transaction becomes one operation. BPF side: redis.bpf.c.
package redis

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -go-package redis -target amd64,arm64 -type redis_event -type rd_exe -type rd_flag -type rd_check -type rd_lib -type rd_str -type redis_event_type bpf redis.bpf.c -- -O2 -g -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu
