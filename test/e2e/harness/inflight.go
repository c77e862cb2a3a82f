package harness

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/tracer-agent/tracer-agent/internal/probe"
)

// Entries counts the entries of one of the agent's maps whose key begins with the
// process id: operations in flight.
func (a *Agent) Entries(mapName string, pid int) int {
	a.t.Helper()
	return a.entries(mapName, pid, func(*ebpf.Map, []byte) bool { return true })
}

// OpenCalls counts those of a map whose values begin with struct tr_call that are not kept
// for the goroutine's next call: its last member says so.
func (a *Agent) OpenCalls(mapName string, pid int) int {
	a.t.Helper()
	return a.openAt(mapName, pid, probe.CallLen-2)
}

// OpenEntries counts those of one of a probe's maps that are not kept for a next operation.
func (a *Agent) OpenEntries(s *probe.Spec, mapName string, pid int) int {
	a.t.Helper()
	spec, err := s.Load()
	if err != nil {
		a.t.Fatal(err)
	}
	at, ok := probe.OpenOffset(spec.Maps[mapName].Value)
	if !ok {
		a.t.Fatalf("the values of %s do not say whether they are open", mapName)
	}
	return a.openAt(mapName, pid, at)
}

func (a *Agent) openAt(mapName string, pid int, at uint32) int {
	a.t.Helper()
	return a.entries(mapName, pid, func(m *ebpf.Map, key []byte) bool {
		value, err := m.LookupBytes(key)
		return err == nil && value != nil && binary.NativeEndian.Uint16(value[at:]) != 0
	})
}

func (a *Agent) entries(mapName string, pid int, counts func(m *ebpf.Map, key []byte) bool) int {
	a.t.Helper()
	m, err := openMap(a.PID(), mapName)
	if err != nil {
		a.t.Fatal(err)
	}
	defer closeQuietly(m)
	n := 0
	var prev any
	for range 8 * m.MaxEntries() { // a key that is deleted meanwhile begins it anew
		key, err := m.NextKeyBytes(prev)
		if err != nil {
			a.t.Fatalf("read map %s: %v", mapName, err)
		}
		if key == nil {
			break
		}
		if binary.NativeEndian.Uint64(key) == uint64(pid) && counts(m, key) {
			n++
		}
		prev = key
	}
	return n
}

// openMap finds a map by name among those that a process holds open.
func openMap(pid int, name string) (*ebpf.Map, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // closed meanwhile
		}
		for line := range strings.Lines(string(data)) {
			v, ok := strings.CutPrefix(line, "map_id:")
			if !ok {
				continue
			}
			id, err := strconv.ParseUint(strings.TrimSpace(v), 10, 32)
			if err != nil {
				continue
			}
			m, err := ebpf.NewMapFromID(ebpf.MapID(id))
			if err != nil {
				continue
			}
			if info, err := m.Info(); err == nil && info.Name == name {
				return m, nil
			}
			closeQuietly(m)
		}
	}
	return nil, fmt.Errorf("process %d has no map %s", pid, name)
}
