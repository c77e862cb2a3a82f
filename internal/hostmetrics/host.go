package hostmetrics

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// Bounds on what a host may have of one kind.
const (
	maxDisks       = 128
	maxInterfaces  = 128
	maxFilesystems = 64
	sectorBytes    = 512
)

// host reads the machine.
type host struct {
	s      *Source
	before procfs.CPUStat
	known  bool

	filesystemsAt time.Time
	filesystems   []filesystem
}

func (h *host) read(observe telemetry.Observe) {
	if stat, err := h.s.fs.Stat(); err == nil {
		h.cpu(observe, stat.CPUTotal)
		observe(sysCPUCount, float64(len(stat.CPU)), none)
		observe(sysProcCreated, float64(stat.ProcessCreated), none)
	}
	if l, err := h.s.fs.LoadAvg(); err == nil {
		observe(sysLoad1, l.Load1, none)
		observe(sysLoad5, l.Load5, none)
		observe(sysLoad15, l.Load15, none)
	}
	if m, err := h.s.fs.Meminfo(); err == nil {
		memoryOfHost(observe, m)
	}
	if dev, err := h.netDev(); err == nil {
		network(observe, dev, sysNetIO, sysNetPackets, sysNetErrors, sysNetDropped)
	}
	h.disks(observe)
	h.space(observe)
	for _, r := range pressureResources {
		if p, err := h.s.fs.PSIStatsForResource(r); err == nil {
			if p.Some != nil {
				observe(sysPressure, float64(p.Some.Total)/1e6, pressureSet(r, false))
			}
			if p.Full != nil {
				observe(sysPressure, float64(p.Full.Total)/1e6, pressureSet(r, true))
			}
		}
	}
	observe(sysUptime, time.Since(h.s.boot).Seconds(), none)
}

// netDev reads PID 1's interfaces: the agent may run in a container.
func (h *host) netDev() (procfs.NetDev, error) {
	init, err := h.s.fs.Proc(1)
	if err != nil {
		return h.s.fs.NetDev()
	}
	return init.NetDev()
}

var modes = []struct {
	set   attribute.Set
	value func(procfs.CPUStat) float64
}{
	{user, func(c procfs.CPUStat) float64 { return c.User - c.Guest }},
	{one("cpu.mode", "nice"), func(c procfs.CPUStat) float64 { return c.Nice - c.GuestNice }},
	{system, func(c procfs.CPUStat) float64 { return c.System }},
	{one("cpu.mode", "idle"), func(c procfs.CPUStat) float64 { return c.Idle }},
	{one("cpu.mode", "iowait"), func(c procfs.CPUStat) float64 { return c.Iowait }},
	{one("cpu.mode", "interrupt"), func(c procfs.CPUStat) float64 { return c.IRQ + c.SoftIRQ }},
	{one("cpu.mode", "steal"), func(c procfs.CPUStat) float64 { return c.Steal }},
	{one("cpu.mode", "guest"), func(c procfs.CPUStat) float64 { return c.Guest + c.GuestNice }},
}

func (h *host) cpu(observe telemetry.Observe, now procfs.CPUStat) {
	elapsed := 0.0
	for _, m := range modes {
		observe(sysCPUTime, max(0, m.value(now)), m.set)
		elapsed += max(0, m.value(now)-m.value(h.before))
	}
	if h.known && elapsed > 0 {
		for _, m := range modes {
			observe(sysCPUUtil, max(0, m.value(now)-m.value(h.before))/elapsed, m.set)
		}
	}
	h.before, h.known = now, true
}

var (
	memUsed    = one("system.memory.state", "used")
	memFree    = one("system.memory.state", "free")
	memBuffers = one("system.memory.state", "buffers")
	memCached  = one("system.memory.state", "cached")
)

func memoryOfHost(observe telemetry.Observe, m procfs.Meminfo) {
	bytes := func(v *uint64) float64 {
		if v == nil {
			return 0
		}
		return float64(*v)
	}
	total, free := bytes(m.MemTotalBytes), bytes(m.MemFreeBytes)
	buffers, cached := bytes(m.BuffersBytes), bytes(m.CachedBytes)+bytes(m.SReclaimableBytes)
	observe(sysMemory, max(0, total-free-buffers-cached), memUsed)
	observe(sysMemory, free, memFree)
	observe(sysMemory, buffers, memBuffers)
	observe(sysMemory, cached, memCached)
	observe(sysMemLimit, total, none)
	observe(sysMemAvail, bytes(m.MemAvailableBytes), none)
}

// network reports interfaces; instruments that are nil are left out.
func network(observe telemetry.Observe, dev procfs.NetDev, io, packets, errors, dropped *telemetry.Instrument) {
	for n, name := range slices.Sorted(maps.Keys(dev)) {
		if n == maxInterfaces {
			return
		}
		l := dev[name]
		for _, d := range []struct {
			direction                  string
			bytes, packets, errs, drop uint64
		}{
			{"receive", l.RxBytes, l.RxPackets, l.RxErrors, l.RxDropped},
			{"transmit", l.TxBytes, l.TxPackets, l.TxErrors, l.TxDropped},
		} {
			set := attribute.NewSet(attribute.String("network.interface.name", name), attribute.String("network.io.direction", d.direction))
			for _, v := range []struct {
				i *telemetry.Instrument
				n uint64
			}{{io, d.bytes}, {packets, d.packets}, {errors, d.errs}, {dropped, d.drop}} {
				if v.i != nil {
					observe(v.i, float64(v.n), set)
				}
			}
		}
	}
}

// disks reports block devices that have done something.
func (h *host) disks(observe telemetry.Observe) {
	stats, err := h.s.blocks.ProcDiskstats()
	if err != nil {
		return
	}
	n := 0
	for _, d := range stats {
		if d.ReadIOs+d.WriteIOs == 0 || strings.HasPrefix(d.DeviceName, "loop") || strings.HasPrefix(d.DeviceName, "ram") {
			continue
		}
		if n++; n > maxDisks {
			return
		}
		device := attribute.String("system.device", d.DeviceName)
		r := attribute.NewSet(device, attribute.String("disk.io.direction", "read"))
		w := attribute.NewSet(device, attribute.String("disk.io.direction", "write"))
		observe(sysDiskIO, float64(d.ReadSectors)*sectorBytes, r)
		observe(sysDiskIO, float64(d.WriteSectors)*sectorBytes, w)
		observe(sysDiskOps, float64(d.ReadIOs), r)
		observe(sysDiskOps, float64(d.WriteIOs), w)
		observe(sysDiskTime, float64(d.IOsTotalTicks)/1000, attribute.NewSet(device))
	}
}

type filesystem struct {
	path       string
	used, free attribute.Set
}

// localTypes are file systems on disks of this host: asking one over a network
// may never return.
var localTypes = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "vfat", "exfat"}

// space reports local file systems, which are looked for once a minute.
func (h *host) space(observe telemetry.Observe) {
	if now := time.Now(); h.filesystemsAt.IsZero() || now.Sub(h.filesystemsAt) >= rarely {
		h.filesystemsAt = now
		h.filesystems = h.findFilesystems()
	}
	for _, f := range h.filesystems {
		var st unix.Statfs_t
		if unix.Statfs(f.path, &st) != nil {
			continue
		}
		observe(sysFS, float64(st.Blocks-st.Bfree)*float64(st.Bsize), f.used)
		observe(sysFS, float64(st.Bavail)*float64(st.Bsize), f.free)
	}
}

func (h *host) findFilesystems() (out []filesystem) {
	// PID 1's view: the agent may run in a container.
	root := filepath.Join(h.s.o.Proc, "1/root")
	mounted, err := h.s.fs.GetProcMounts(1)
	var st unix.Statfs_t
	own := err != nil || unix.Statfs(root, &st) != nil
	if own { // PID 1 may not be looked at: what this process sees of whole file systems
		root = "/"
		mounted, err = h.s.fs.GetMounts()
	}
	if err != nil {
		return nil
	}
	seen := map[string]bool{}
	for _, m := range mounted {
		if !slices.Contains(localTypes, m.FSType) || seen[m.MajorMinorVer] || len(out) == maxFilesystems {
			continue
		}
		if own && m.Root != "/" && m.FSType != "btrfs" {
			continue // a file or folder that was mounted into a container
		}
		path := filepath.Join(root, m.MountPoint)
		var at unix.Stat_t
		if unix.Stat(path, &at) != nil || at.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue // such as /etc/hosts of a container on btrfs
		}
		seen[m.MajorMinorVer] = true
		kvs := []attribute.KeyValue{
			attribute.String("system.device", m.Source), attribute.String("system.filesystem.mountpoint", m.MountPoint),
			attribute.String("system.filesystem.type", m.FSType),
		}
		out = append(out, filesystem{
			path: path,
			used: attribute.NewSet(append(slices.Clone(kvs), attribute.String("system.filesystem.state", "used"))...),
			free: attribute.NewSet(append(slices.Clone(kvs), attribute.String("system.filesystem.state", "free"))...),
		})
	}
	return out
}
