package discover

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxFDs bounds the descriptors of one process that are looked at.
	maxFDs = 16384
	// maxListeners bounds the listening sockets of one network namespace.
	maxListeners = 16384
)

// ListeningPorts returns the TCP ports on which a process has a listening socket,
// sorted, each once. It reads /proc/PID/fd and /proc/PID/net.
func ListeningPorts(pid int32) ([]uint16, error) {
	proc := "/proc/" + strconv.Itoa(int(pid))
	sockets, err := socketInodes(proc + "/fd")
	if err != nil || len(sockets) == 0 {
		return nil, err
	}
	var ports []uint16
	for _, name := range []string{"/net/tcp", "/net/tcp6"} {
		f, err := os.Open(proc + name)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		} else if err != nil {
			return nil, fmt.Errorf("list listening sockets: %w", err)
		}
		listeners, err := parseListeners(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", proc+name, err)
		}
		for _, l := range listeners {
			if _, ok := sockets[l.inode]; ok {
				ports = append(ports, l.port)
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports), nil
}

func socketInodes(dir string) (map[uint64]struct{}, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("list descriptors: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(maxFDs)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("list descriptors: %w", err)
	}
	inodes := make(map[uint64]struct{})
	for _, name := range names {
		target, err := os.Readlink(dir + "/" + name)
		if err != nil {
			continue // closed meanwhile
		}
		num, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		if ino, err := strconv.ParseUint(strings.TrimSuffix(num, "]"), 10, 64); err == nil {
			inodes[ino] = struct{}{}
		}
	}
	return inodes, nil
}

type listener struct {
	inode uint64
	port  uint16
}

// parseListeners reads the listening sockets from a /proc/net/tcp or tcp6 file.
// The kernel gives them before all others, so reading ends at the first other
// one: a host with a million connections costs no more.
func parseListeners(r io.Reader) ([]listener, error) {
	const (
		fieldLocal, fieldState, fieldInode = 1, 3, 9

		stateListen = "0A"
	)
	var out []listener
	sc := bufio.NewScanner(r)
	sc.Scan() // headings
	for len(out) < maxListeners && sc.Scan() {
		fields := bytes.Fields(sc.Bytes())
		if len(fields) <= fieldInode {
			return out, fmt.Errorf("line %q has %d fields", sc.Text(), len(fields))
		}
		if string(fields[fieldState]) != stateListen {
			break
		}
		_, portHex, _ := bytes.Cut(fields[fieldLocal], []byte(":"))
		var port [2]byte
		if n, err := hex.Decode(port[:], portHex[:min(4, len(portHex))]); err != nil || n != 2 {
			return out, fmt.Errorf("local address %q has no port", fields[fieldLocal])
		}
		inode, err := strconv.ParseUint(string(fields[fieldInode]), 10, 64)
		if err != nil {
			return out, fmt.Errorf("inode: %w", err)
		}
		out = append(out, listener{inode: inode, port: uint16(port[0])<<8 | uint16(port[1])})
	}
	return out, sc.Err()
}
