package resource

import (
	"sync"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const (
	// lateGrace is how long a process that ended is still known: its last
	// records may be in the ring buffer.
	lateGrace = 30 * time.Second
	// maxProcesses bounds the store; the kernel side watches fewer.
	maxProcesses = 16384
)

// Store remembers resources by process. It implements the pipeline's lookup.
type Store struct {
	mu      sync.RWMutex
	entries map[telemetry.ProcessKey]entry
	evicted uint64
	swept   time.Time
	now     func() time.Time
}

type entry struct {
	resource *telemetry.Resource
	until    time.Time // zero while the process runs
}

// NewStore returns an empty store.
func NewStore() *Store {
	return &Store{entries: map[telemetry.ProcessKey]entry{}, now: time.Now}
}

// ResourceOf returns nil for a process that is not known.
func (s *Store) ResourceOf(key telemetry.ProcessKey) *telemetry.Resource {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entries[key].resource
}

// Put remembers what a process is.
func (s *Store) Put(key telemetry.ProcessKey, r *telemetry.Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	if _, ok := s.entries[key]; !ok && len(s.entries) >= maxProcesses {
		// Cannot happen while exits are reported; then any one has to go.
		for k := range s.entries {
			delete(s.entries, k)
			s.evicted++
			break
		}
	}
	s.entries[key] = entry{resource: r}
}

// Remove says that a process has ended; it stays known for a while.
func (s *Store) Remove(key telemetry.ProcessKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	if e, ok := s.entries[key]; ok && e.until.IsZero() {
		e.until = s.now().Add(lateGrace)
		s.entries[key] = e
	}
}

// Evicted is how many running processes were forgotten for lack of room.
func (s *Store) Evicted() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.evicted
}

// sweep forgets what ended long enough ago; s.mu is held. It looks at every
// entry, so it does that once a second at most.
func (s *Store) sweep() {
	now := s.now()
	if now.Sub(s.swept) < time.Second {
		return
	}
	s.swept = now
	for k, e := range s.entries {
		if !e.until.IsZero() && now.After(e.until) {
			delete(s.entries, k)
		}
	}
}
