// Package websocket watches WebSocket connections of gorilla/websocket and
// coder/websocket: each becomes one operation, from upgrade to close. BPF side:
// websocket.bpf.c. It names no exporter and keeps no state between records.
package websocket

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -go-package websocket -target amd64,arm64 -type ws_event -type ws_exe -type ws_flag -type ws_type -type ws_begin bpf websocket.bpf.c -- -O2 -g -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu
