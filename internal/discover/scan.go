package discover

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// MaxProcesses bounds what is kept about the host's processes; further ones are
// counted and not watched.
const MaxProcesses = 1 << 16

var eventSize = binary.Size(bpfDiscoverEvent{})

// scanner lists the running processes through a BPF task iterator.
type scanner struct {
	iter *link.Iter
	// real says that executables below overlayfs are found (bpf_find_vma).
	real bool
}

func newScanner(prog *ebpf.Program, findVMA bool) (*scanner, error) {
	iter, err := link.AttachIter(link.IterOptions{Program: prog})
	if err != nil {
		return nil, fmt.Errorf("attach task iterator: %w", err)
	}
	return &scanner{iter: iter, real: findVMA}, nil
}

// list returns the running processes, without paths. Order is by pid.
func (s *scanner) list() ([]Process, error) {
	const tries = 5
	for try := 1; ; try++ {
		procs, upper, err := s.pass()
		if err != nil {
			return nil, err
		}
		// A process whose mappings were being changed could not be looked into.
		if !upper || !s.real || try == tries {
			return procs, nil
		}
		time.Sleep(time.Millisecond)
	}
}

func (s *scanner) pass() (procs []Process, upper bool, err error) {
	f, err := s.iter.Open()
	if err != nil {
		return nil, false, fmt.Errorf("open task iterator: %w", err)
	}
	defer f.Close()

	seen := make(map[int32]struct{}, 256)
	r := bufio.NewReaderSize(f, 64<<10)
	buf := make([]byte, eventSize)
	for len(procs) < MaxProcesses {
		if _, err := io.ReadFull(r, buf); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, false, fmt.Errorf("read task iterator: %w", err)
		}
		var e bpfDiscoverEvent
		if _, err := binary.Decode(buf, binary.NativeEndian, &e); err != nil {
			return nil, false, fmt.Errorf("read task iterator: %w", err)
		}
		p := processOf(&e)
		if _, dup := seen[p.Key.PID]; dup {
			continue
		}
		seen[p.Key.PID] = struct{}{}
		upper = upper || e.Flags&bpfDiscoverFlagFLAG_UPPER != 0
		procs = append(procs, p)
	}
	return procs, upper, nil
}

func (s *scanner) close() error { return s.iter.Close() }

// Snapshot lists the processes that run now, with paths.
func Snapshot() ([]Process, error) {
	objs, err := load(Options{}, true)
	if err != nil {
		return nil, err
	}
	defer objs.Close()
	s, err := newScanner(objs.tasks, objs.findVMA)
	if err != nil {
		return nil, err
	}
	defer s.close()
	procs, err := s.list()
	for i := range procs {
		procs[i].Path = exePathOf(procs[i].Key.PID)
	}
	return procs, err
}
