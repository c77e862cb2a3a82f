// Package mongodriver watches the official MongoDB driver for Go, v1 and v2: every
// command that it sends becomes one operation, read from the bytes of the wire protocol
// by probes/wire/mongo. BPF side: mongodriver.bpf.c.
package mongodriver

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -go-package mongodriver -target amd64,arm64 -type mongo_event -type mg_exe -type go_loc -type mg_flag -type mg_check -type mongo_event_type -type tr_call -type tr_errs bpf mongodriver.bpf.c -- -O2 -g -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu
