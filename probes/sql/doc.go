// Package sql watches Go's database/sql, with any driver, and pgx without it: every
// statement, and the beginning and end of every transaction, becomes one operation.
// BPF side: sql.bpf.c.
package sql

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -go-package sql -target amd64,arm64 -type sql_event -type sq_exe -type sq_flag -type sq_kind -type sq_check -type sq_spare -type sq_str -type sql_event_type bpf sql.bpf.c -- -O2 -g -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu
