package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/cilium/ebpf/link"
)

// uprobeTarget is what the uprobe probes sit on: part of this executable, so that
// nobody else is touched, and never called.
//
//go:noinline
func uprobeTarget() { os.Exit(1) }

// ownTarget returns this executable and the file offset of uprobeTarget.
func ownTarget() (*link.Executable, uint64, error) {
	const self = "/proc/self/exe"
	exe, err := link.OpenExecutable(self)
	if err != nil {
		return nil, 0, fmt.Errorf("open %s: %w", self, err)
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	offset, err := fileOffset(f, uint64(reflect.ValueOf(uprobeTarget).Pointer()))
	return exe, offset, err
}

var errNotMapped = errors.New("address is not in a file mapping")

// fileOffset finds which file offset an address is mapped from, position
// independent executables included.
func fileOffset(maps io.Reader, addr uint64) (uint64, error) {
	sc := bufio.NewScanner(maps)
	for sc.Scan() {
		var start, end, offset uint64
		var perms string
		if _, err := fmt.Sscanf(sc.Text(), "%x-%x %s %x", &start, &end, &perms, &offset); err != nil {
			return 0, fmt.Errorf("read maps line %q: %w", sc.Text(), err)
		}
		if addr >= start && addr < end && strings.Contains(sc.Text(), "/") {
			return addr - start + offset, nil
		}
	}
	if err := sc.Err(); err != nil {
		return 0, fmt.Errorf("read maps: %w", err)
	}
	return 0, fmt.Errorf("%w: %#x", errNotMapped, addr)
}
