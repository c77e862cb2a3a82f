package hostmetrics

import (
	"math"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/procfs"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const (
	// maxThreads bounds how many threads of a process are looked at; what only threads
	// know is left out for a process with more.
	maxThreads = 256
	// threadsEvery is how often they are looked at: two files each.
	threadsEvery = 25 * time.Second
)

// process reads one process.
type process struct {
	s       *Source
	key     telemetry.ProcessKey
	last    time.Time
	user    float64
	system  float64
	threads map[int]threadTotals
	sums    threadTotals

	threadsAt time.Time

	rarelyAt time.Time
	pss, uss float64
	fdLimit  float64
	group    *group
	ownNet   bool
}

// threadTotals are the counters that the kernel only keeps for each thread.
type threadTotals struct {
	wait                   float64
	voluntary, involuntary uint64
}

// read reports everything of the process, nothing when the pid is another's by now.
func (p *process) read(observe telemetry.Observe) {
	proc, err := p.s.fs.Proc(int(p.key.PID))
	if err != nil {
		return
	}
	stat, err := proc.Stat()
	if err != nil || p.key.StartNs != 0 && stat.Starttime != p.key.StartNs/nsPerTick {
		return
	}
	now := time.Now()
	p.cpu(observe, stat, now)
	// Exact since 6.2, where the one in stat is an estimate.
	status, statusErr := proc.NewStatus()
	if statusErr == nil {
		observe(procMemory, float64(status.VmRSS), none)
	}
	observe(procVirtual, float64(stat.VSize), none)
	observe(procThreads, float64(stat.NumThreads), none)
	observe(procFaults, float64(stat.MajFlt), major)
	observe(procFaults, float64(stat.MinFlt), minor)
	start := p.s.boot.Add(time.Duration(stat.Starttime) * nsPerTick)
	observe(procStart, float64(start.UnixMilli())/1000, none)
	observe(procUptime, now.Sub(start).Seconds(), none)
	if io, err := proc.IO(); err == nil {
		observe(procDiskIO, float64(io.ReadBytes), reads)
		observe(procDiskIO, float64(io.WriteBytes), writes)
	}
	if n, ok := p.fds(proc); ok {
		observe(procFDs, float64(n), none)
	}
	if stat.NumThreads <= maxThreads && statusErr == nil && now.Sub(p.threadsAt) >= threadsEvery {
		p.readThreads(status)
		p.threadsAt = now
	}
	if !p.threadsAt.IsZero() {
		observe(procRunqueue, p.sums.wait, none)
		observe(procSwitches, float64(p.sums.voluntary), voluntary)
		observe(procSwitches, float64(p.sums.involuntary), involuntary)
	}
	p.readRarely(observe, proc, now)
	if p.group != nil {
		p.group.read(observe)
	}
	if p.ownNet {
		if dev, err := proc.NetDev(); err == nil {
			network(observe, dev, contNetwork, nil, nil, nil)
		}
	}
}

// ticks is USER_HZ, the same on every architecture that Linux supports here.
const ticks = 100

func (p *process) cpu(observe telemetry.Observe, stat procfs.ProcStat, now time.Time) {
	u, s := float64(stat.UTime)/ticks, float64(stat.STime)/ticks
	observe(procCPUTime, u, user)
	observe(procCPUTime, s, system)
	if elapsed := now.Sub(p.last).Seconds() * float64(runtime.NumCPU()); !p.last.IsZero() && elapsed > 0 {
		observe(procCPUUtil, max(0, u-p.user)/elapsed, user)
		observe(procCPUUtil, max(0, s-p.system)/elapsed, system)
	}
	p.last, p.user, p.system = now, u, s
}

// fds counts open descriptors: since 6.2 the folder's size says how many there are.
func (p *process) fds(proc procfs.Proc) (int, bool) {
	st, err := os.Stat(p.s.path(p.key.PID, "fd"))
	if err == nil && st.Size() > 0 {
		return int(st.Size()), true
	}
	n, err := proc.FileDescriptorsLen()
	return n, err == nil
}

func (s *Source) path(pid int32, name string) string {
	return s.o.Proc + "/" + strconv.Itoa(int(pid)) + "/" + name
}

// readThreads adds up what threads waited and how often they were switched. Threads
// that ended stay in the sums as they were last seen. leader is the first thread's.
func (p *process) readThreads(leader procfs.ProcStatus) {
	threads, err := p.s.fs.AllThreads(int(p.key.PID))
	if err != nil || len(threads) > maxThreads {
		return
	}
	seen := make(map[int]threadTotals, len(threads))
	for _, t := range threads {
		status := leader
		if t.PID != int(p.key.PID) {
			if status, err = t.NewStatus(); err != nil {
				continue
			}
		}
		sched, err := t.Schedstat()
		if err != nil {
			continue
		}
		now := threadTotals{
			wait: float64(sched.WaitingNanoseconds) / 1e9, voluntary: status.VoluntaryCtxtSwitches,
			involuntary: status.NonVoluntaryCtxtSwitches,
		}
		old := p.threads[t.PID]
		if now.wait < old.wait || now.voluntary < old.voluntary || now.involuntary < old.involuntary {
			old = threadTotals{} // another thread of the same number
		}
		p.sums.wait += now.wait - old.wait
		p.sums.voluntary += now.voluntary - old.voluntary
		p.sums.involuntary += now.involuntary - old.involuntary
		seen[t.PID] = now
	}
	p.threads = seen
}

// readRarely reports what is read once a minute.
func (p *process) readRarely(observe telemetry.Observe, proc procfs.Proc, now time.Time) {
	if p.rarelyAt.IsZero() || now.Sub(p.rarelyAt) >= rarely {
		p.rarelyAt = now
		p.pss, p.uss, p.fdLimit = 0, 0, 0
		if m, err := proc.ProcSMapsRollup(); err == nil {
			p.pss, p.uss = float64(m.Pss), float64(m.PrivateClean+m.PrivateDirty)
		}
		if l, err := proc.Limits(); err == nil && l.OpenFiles < math.MaxUint32 {
			p.fdLimit = float64(l.OpenFiles)
		}
		p.group = p.s.groupOf(proc)
		ns, err := os.Readlink(p.s.path(p.key.PID, "ns/net"))
		p.ownNet = err == nil && p.s.netNS != "" && ns != p.s.netNS
	}
	if p.pss > 0 {
		observe(procPSS, p.pss, none)
		observe(procUSS, p.uss, none)
	}
	if p.fdLimit > 0 {
		observe(procFDLimit, p.fdLimit, none)
	}
}
