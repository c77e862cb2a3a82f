package hostmetrics

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"
	"go.opentelemetry.io/otel/attribute"

	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const (
	// nsPerTick is the unit of /proc/PID/stat's start time.
	nsPerTick = 10_000_000
	// rarely is how often what is dear to read is read.
	rarely = time.Minute
)

// Options say where to read; the zero value of Proc and Sys is the host's.
type Options struct {
	Proc, Sys string
	// Process and Host switch the two halves.
	Process, Host bool
}

// Source implements metrics.Source.
type Source struct {
	o      Options
	fs     procfs.FS
	blocks blockdevice.FS
	boot   time.Time
	netNS  string // the host's, or the agent's where that is not to be known
	groups mounts
	// file and groupValues are used by one collection at a time.
	collecting  sync.Mutex
	file        procFile
	cpuCount    int
	cpusAt      time.Time
	groupValues map[group]groupValues
}

var _ metrics.Source = (*Source)(nil)

// New finds what is the same at every collection.
func New(o Options) (*Source, error) {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.Sys == "" {
		o.Sys = "/sys"
	}
	s := &Source{o: o, groupValues: map[group]groupValues{}}
	var err error
	if s.fs, err = procfs.NewFS(o.Proc); err != nil {
		return nil, fmt.Errorf("read process metrics: %w", err)
	}
	if s.blocks, err = blockdevice.NewFS(o.Proc, o.Sys); err != nil {
		return nil, fmt.Errorf("read disk metrics: %w", err)
	}
	stat, err := s.fs.Stat()
	if err != nil {
		return nil, fmt.Errorf("read boot time: %w", err)
	}
	s.boot = time.Unix(int64(stat.BootTime), 0)
	if s.netNS, err = os.Readlink(o.Proc + "/1/ns/net"); err != nil {
		s.netNS, _ = os.Readlink(o.Proc + "/self/ns/net") // PID 1 may be somebody else's
	}
	s.groups = findMounts(o.Proc)
	return s, nil
}

// cpus is how many CPUs the host has online, which the agent's own affinity and control
// group do not change. s.collecting is held.
func (s *Source) cpus(now time.Time) int {
	if s.cpusAt.IsZero() || now.Sub(s.cpusAt) >= rarely {
		s.cpusAt = now
		if stat, err := s.fs.Stat(); err == nil {
			s.cpuCount = len(stat.CPU)
		}
	}
	return s.cpuCount
}

// Open implements metrics.Source.
func (s *Source) Open(key telemetry.ProcessKey) (metrics.Reading, time.Time) {
	switch {
	case key == metrics.Agent:
		if !s.o.Host {
			return nil, time.Time{}
		}
		h := &host{s: s}
		return h.read, s.boot
	case s.o.Process:
		p := &process{s: s, key: key, dir: s.path(key.PID, ""), threads: map[int]threadTotals{}}
		return func(observe telemetry.Observe) {
			s.collecting.Lock()
			defer s.collecting.Unlock()
			p.read(observe)
		}, s.boot.Add(time.Duration(key.StartNs))
	default:
		return nil, time.Time{}
	}
}

// sets of attributes that never change.
var (
	none        = attribute.Set{}
	user        = one("cpu.mode", "user")
	system      = one("cpu.mode", "system")
	voluntary   = one("process.context_switch.type", "voluntary")
	involuntary = one("process.context_switch.type", "involuntary")
	major       = one("system.paging.fault.type", "major")
	minor       = one("system.paging.fault.type", "minor")
	reads       = one("disk.io.direction", "read")
	writes      = one("disk.io.direction", "write")
)

var pressureResources = []string{"cpu", "memory", "io"}

func one(key, value string) attribute.Set { return attribute.NewSet(attribute.String(key, value)) }

func pressureSet(resource string, full bool) attribute.Set {
	share := "some"
	if full {
		share = "full"
	}
	return attribute.NewSet(attribute.String("resource", resource), attribute.String("share", share))
}
