package harness

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// countLinks walks the kernel's list of BPF links; the BPF library has no call
// for it. Zero where the kernel has no links.
func countLinks() int {
	// struct of BPF_*_GET_NEXT_ID in linux/bpf.h
	attr := struct{ start, next, flags uint32 }{}
	for n := 0; ; n++ {
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_LINK_GET_NEXT_ID, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		if errno != 0 {
			return n
		}
		attr.start = attr.next
	}
}
