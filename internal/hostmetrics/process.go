package hostmetrics

import (
	"math"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

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
	dir     string       // /proc/PID/
	leader  threadTotals // without its wait
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
	dir := p.dir
	data, err := p.s.file.read(dir + "stat")
	if err != nil {
		return
	}
	stat, err := parseStat(data)
	if err != nil || p.key.StartNs != 0 && stat.start != p.key.StartNs/nsPerTick {
		return
	}
	now := time.Now()
	p.cpu(observe, stat, now)
	status, statusErr := p.s.file.read(dir + "status")
	if statusErr == nil {
		p.leader.read(status)
		// Exact since 6.2, where the one in stat is an estimate.
		if kB, ok := lineValue(status, "VmRSS"); ok {
			observe(procMemory, float64(kB*1024), none)
		}
	}
	observe(procVirtual, float64(stat.vsize), none)
	observe(procThreads, float64(stat.threads), none)
	observe(procFaults, float64(stat.majFlt), major)
	observe(procFaults, float64(stat.minFlt), minor)
	start := p.s.boot.Add(time.Duration(stat.start) * nsPerTick)
	observe(procStart, float64(start.UnixMilli())/1000, none)
	observe(procUptime, now.Sub(start).Seconds(), none)
	if data, err := p.s.file.read(dir + "io"); err == nil {
		read, ok1 := lineValue(data, "read_bytes")
		written, ok2 := lineValue(data, "write_bytes")
		if ok1 && ok2 {
			observe(procDiskIO, float64(read), reads)
			observe(procDiskIO, float64(written), writes)
		}
	}
	if n, ok := p.fds(); ok {
		observe(procFDs, float64(n), none)
	}
	if stat.threads <= maxThreads && statusErr == nil && now.Sub(p.threadsAt) >= threadsEvery {
		p.readThreads()
		p.threadsAt = now
	}
	if !p.threadsAt.IsZero() {
		observe(procRunqueue, p.sums.wait, none)
		observe(procSwitches, float64(p.sums.voluntary), voluntary)
		observe(procSwitches, float64(p.sums.involuntary), involuntary)
	}
	p.readRarely(observe, now)
	if p.group != nil {
		p.s.readGroup(*p.group, now, observe)
	}
	if p.ownNet {
		if proc, err := p.s.fs.Proc(int(p.key.PID)); err == nil {
			if dev, err := proc.NetDev(); err == nil {
				network(observe, dev, contNetwork, nil, nil, nil)
			}
		}
	}
}

// ticks is USER_HZ, the same on every architecture that Linux supports here.
const ticks = 100

func (p *process) cpu(observe telemetry.Observe, stat procStat, now time.Time) {
	u, s := float64(stat.utime)/ticks, float64(stat.stime)/ticks
	observe(procCPUTime, u, user)
	observe(procCPUTime, s, system)
	if elapsed := now.Sub(p.last).Seconds() * float64(p.s.cpus(now)); !p.last.IsZero() && elapsed > 0 {
		observe(procCPUUtil, max(0, u-p.user)/elapsed, user)
		observe(procCPUUtil, max(0, s-p.system)/elapsed, system)
	}
	p.last, p.user, p.system = now, u, s
}

// fds counts open descriptors: since 6.2 the folder's size says how many there are.
func (p *process) fds() (int, bool) {
	var st unix.Stat_t
	if err := unix.Stat(p.dir+"fd", &st); err == nil && st.Size > 0 {
		return int(st.Size), true
	}
	proc, err := p.s.fs.Proc(int(p.key.PID))
	if err != nil {
		return 0, false
	}
	n, err := proc.FileDescriptorsLen()
	return n, err == nil
}

func (s *Source) path(pid int32, name string) string {
	return s.o.Proc + "/" + strconv.Itoa(int(pid)) + "/" + name
}

// readThreads adds up what threads waited and how often they were switched. Threads
// that ended stay in the sums as they were last seen. leader is the first thread's.
func (p *process) readThreads() {
	threads, err := threadIDs(p.dir + "task")
	if err != nil {
		return
	}
	seen := make(map[int]threadTotals, len(threads))
	for _, name := range threads {
		tid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		now := p.leader
		if tid != int(p.key.PID) {
			status, err := p.s.file.read(p.dir + "task/" + name + "/status")
			if err != nil {
				continue
			}
			now.read(status)
		}
		sched, err := p.s.file.read(p.dir + "task/" + name + "/schedstat")
		if err != nil {
			continue
		}
		wait, err := parseSchedstat(sched)
		if err != nil {
			continue
		}
		now.wait = float64(wait) / 1e9
		old := p.threads[tid]
		if now.wait < old.wait || now.voluntary < old.voluntary || now.involuntary < old.involuntary {
			old = threadTotals{} // another thread of the same number
		}
		p.sums.wait += now.wait - old.wait
		p.sums.voluntary += now.voluntary - old.voluntary
		p.sums.involuntary += now.involuntary - old.involuntary
		seen[tid] = now
	}
	p.threads = seen
}

// read takes the switches from a thread's status.
func (t *threadTotals) read(status []byte) {
	t.voluntary, _ = lineValue(status, "voluntary_ctxt_switches")
	t.involuntary, _ = lineValue(status, "nonvoluntary_ctxt_switches")
}

// readRarely reports what is read once a minute.
func (p *process) readRarely(observe telemetry.Observe, now time.Time) {
	if p.rarelyAt.IsZero() || now.Sub(p.rarelyAt) >= rarely {
		p.rarelyAt = now
		p.pss, p.uss, p.fdLimit = 0, 0, 0
		proc, err := p.s.fs.Proc(int(p.key.PID))
		if err != nil {
			return
		}
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
