package goruntime

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// maxLayouts bounds the executables that are remembered.
const maxLayouts = 512

// Source shows the Go runtime's values of processes.
type Source struct {
	log  *slog.Logger
	proc string

	mu      sync.Mutex
	layouts map[exeID]found
}

// exeID tells executables apart; the time is for one that is written anew in place.
type exeID struct {
	dev, ino   uint64
	sec, nsec  int64
	sizeInFile int64
}

type found struct {
	layout *layout
	err    error
}

var (
	_ metrics.Source        = (*Source)(nil)
	_ metrics.Distributions = (*Source)(nil)
)

// New makes a source; log says which executables cannot be read.
func New(log *slog.Logger) *Source {
	return &Source{log: log, proc: "/proc", layouts: map[exeID]found{}}
}

// Open implements metrics.Source. Nothing is opened before the first collection.
func (s *Source) Open(key telemetry.ProcessKey) (metrics.Reading, time.Time) {
	p, began := s.process(key)
	if p == nil {
		return nil, began
	}
	return func(observe telemetry.Observe) {
		p.read(func() error {
			v, err := p.r.read()
			if err == nil {
				v.observe(observe)
			}
			return err
		})
	}, began
}

// OpenDistributions implements metrics.Distributions.
func (s *Source) OpenDistributions(key telemetry.ProcessKey) (metrics.DistributionReading, time.Time) {
	p, began := s.process(key)
	if p == nil {
		return nil, began
	}
	return func(observe telemetry.ObserveDistribution) {
		p.read(func() error {
			waits, pauses, err := p.r.readTimes()
			if err == nil {
				observe(schedule, waits)
				observe(gcPauses, pauses)
			}
			return err
		})
	}, began
}

// process returns what reads a process and when that began; nil when there is no such.
func (s *Source) process(key telemetry.ProcessKey) (*process, time.Time) {
	var boot unix.Timespec
	if key == metrics.Agent || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return nil, time.Time{}
	}
	return &process{s: s, pid: int(key.PID)}, time.Now().Add(time.Duration(key.StartNs) - time.Duration(boot.Nano()))
}

// process is the reading of one process.
type process struct {
	s    *Source
	pid  int
	r    *reader
	exe  exeID
	dead bool // it is not, or no more, what can be read
	bad  int  // times in a row that values were not plausible
}

// patience is how often values may be implausible before a process is given up: the
// runtime of one that has just started may not have set them all.
const patience = 3

// read finds the process's memory and lets values read it.
func (p *process) read(values func() error) {
	if p.dead {
		return
	}
	exe, err := p.s.exe(p.pid)
	if err != nil {
		p.dead = true
		return
	}
	if p.r == nil || exe != p.exe { // an exec has replaced the program
		p.exe = exe
		if p.r, err = p.s.reader(p.pid, exe); err != nil {
			p.r = nil
			return
		}
	}
	switch err := values(); {
	case errors.Is(err, errImplausible):
		if p.bad++; p.bad >= patience {
			p.dead = true
			p.s.log.Warn("runtime metrics are not read", "pid", p.pid, "reason", err)
		}
		return
	case err != nil:
		p.r = nil // gone, or another program since
		return
	}
	p.bad = 0
}

func (s *Source) path(pid int, name string) string {
	return s.proc + "/" + strconv.Itoa(pid) + "/" + name
}

// exe says which executable a process runs.
func (s *Source) exe(pid int) (exeID, error) {
	var st unix.Stat_t
	if err := unix.Stat(s.path(pid, "exe"), &st); err != nil {
		return exeID{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return exeID{st.Dev, st.Ino, st.Mtim.Sec, st.Mtim.Nsec, st.Size}, nil
}

// reader finds the layout of a process's executable and where it is loaded.
func (s *Source) reader(pid int, id exeID) (*reader, error) {
	s.mu.Lock()
	f, ok := s.layouts[id]
	s.mu.Unlock()
	if !ok {
		f.layout, f.err = readLayout(s.path(pid, "exe"))
		s.mu.Lock()
		if len(s.layouts) >= maxLayouts {
			clear(s.layouts)
		}
		s.layouts[id] = f
		s.mu.Unlock()
		if f.err != nil && !errors.Is(f.err, goexe.ErrNotGo) && !errors.Is(f.err, goexe.ErrNotELF) {
			s.log.Info("runtime metrics are not read", "pid", pid, "reason", f.err)
		}
	}
	if f.err != nil {
		return nil, f.err
	}
	bias := uint64(0)
	if f.layout.pie {
		base, err := s.base(pid, id.ino)
		if err != nil {
			return nil, err
		}
		bias = base - f.layout.loadVaddr
	}
	return newReader(f.layout, pid, bias), nil
}

func readLayout(path string) (*layout, error) {
	exe, err := goexe.Open(path)
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	return layoutOf(exe)
}

// base is where the executable's first segment is mapped.
func (s *Source) base(pid int, inode uint64) (uint64, error) {
	f, err := os.Open(s.path(pid, "maps"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	// 55e0c0a00000-55e0c0b00000 r--p 00000000 08:01 1234   /path
	sc := bufio.NewScanner(f)
	for n := 0; n < 1<<16 && sc.Scan(); n++ {
		cols := strings.Fields(sc.Text())
		if len(cols) < 5 || cols[2] != "00000000" || cols[4] != strconv.FormatUint(inode, 10) {
			continue
		}
		from, _, _ := strings.Cut(cols[0], "-")
		return strconv.ParseUint(from, 16, 64)
	}
	return 0, fmt.Errorf("the executable of process %d is not mapped", pid)
}

var (
	none      = attribute.Set{}
	typeStack = attribute.NewSet(attribute.String("go.memory.type", "stack"))
	typeOther = attribute.NewSet(attribute.String("go.memory.type", "other"))
)

func (s *stats) observe(observe telemetry.Observe) {
	observe(goroutines, float64(s.goroutines), none)
	observe(processors, float64(s.procs), none)
	if s.gogc >= 0 {
		observe(gogc, float64(s.gogc), none)
	}
	if s.limit > 0 {
		observe(memoryLimit, float64(s.limit), none)
	}
	if s.goal > 0 {
		observe(gcGoal, float64(s.goal), none)
	}
	observe(memoryUsed, float64(s.stacks), typeStack)
	observe(memoryUsed, float64(s.used-min(s.used, s.stacks)), typeOther)
	if s.allocated > 0 {
		observe(heapObjects, float64(s.heap), none)
		observe(allocated, float64(s.allocated), none)
		observe(allocations, float64(s.allocCount), none)
	}
	observe(gcCycles, float64(s.cycles), none)
	observe(gcPause, float64(s.pauseNs)/1e9, none)
}
