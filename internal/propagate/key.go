package propagate

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// keyAddr is one end of a struct tr_connkey.
func keyAddr(words [4]uint32, port uint16) netip.AddrPort {
	var b [16]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(b), port)
}

func keyWords(addr netip.Addr) (words [4]uint32) {
	b := addr.As16()
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return words
}

// loopbackKey is the key of a loopback connection in this thread's network namespace.
func loopbackKey(client, server netip.AddrPort) (bpfTrConnkey, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return bpfTrConnkey{}, fmt.Errorf("own network namespace: %w", err)
	}
	return bpfTrConnkey{
		Client: keyWords(client.Addr()), ClientPort: client.Port(),
		Server: keyWords(server.Addr()), ServerPort: server.Port(), Netns: uint32(st.Ino),
	}, nil
}
