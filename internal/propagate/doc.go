// Package propagate hands a trace on in the kernel: it puts one Traceparent line into
// the plaintext HTTP/1 requests that watched clients announced, without writing to the
// programs' memory. It decides neither which programs are watched nor which requests
// are traced; it reads what they announced.
//
// It touches a socket only after a watched program announced a request on it, or on an
// earlier connection to the same address. It proves at start-up, on a connection of its
// own, that the kernel leaves such sockets sound, and refuses to work where it does not.
//
// Invariant: except for that line no byte is added, taken, changed or held back; in doubt
// nothing is done and the case is counted. When the agent ends, in whatever way, the
// kernel gives the sockets their own functions back.
package propagate

//go:generate go tool bpf2go -cc clang-19 -cflags "-O2 -g -Wall -Wextra -Wno-unused-parameter -Wno-unused-function -Werror -I../../bpf/lib -idirafter /usr/include/x86_64-linux-gnu" -target amd64,arm64 -type pg_count bpf propagate.bpf.c
