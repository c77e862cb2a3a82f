package hostmetrics

import (
	"bytes"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const (
	maxGroupFile = 256 << 10
	// noLimit is above what version 1 says when there is no limit.
	noLimit = 1 << 60
)

// mounts are where the control groups' controllers are mounted; "" is version 2.
type mounts map[string]string

// findMounts reads the agent's own mounts. The first mount of a controller counts.
func findMounts(proc string) mounts {
	out := mounts{}
	data, err := readFile(proc + "/self/mountinfo")
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		sep := slices.Index(f, "-")
		if len(f) < 5 || sep < 5 || len(f) < sep+4 {
			continue
		}
		at := f[4]
		add := func(controller string) {
			if _, ok := out[controller]; !ok {
				out[controller] = at
			}
		}
		switch f[sep+1] {
		case "cgroup2":
			add("")
		case "cgroup":
			for c := range strings.SplitSeq(f[sep+3], ",") {
				if c == "cpu" || c == "cpuacct" || c == "memory" {
					add(c)
				}
			}
		}
	}
	return out
}

// group is the control group of a process. Folders are "" where there is none.
type group struct {
	v2                   string
	cpu, cpuacct, memory string
}

// groupOf finds the group; nil when it is the root of all.
func (s *Source) groupOf(proc procfs.Proc) *group {
	cgroups, err := proc.Cgroups()
	if err != nil {
		return nil
	}
	g := &group{}
	var v2, cpuacct string // paths in their hierarchies
	for _, cg := range cgroups {
		// A path out of the agent's own view of the hierarchy cannot be followed.
		if cg.Path == "/" || slices.Contains(strings.Split(cg.Path, "/"), "..") {
			continue
		}
		dir := func(controller string) string {
			if at, ok := s.groups[controller]; ok {
				return filepath.Join(at, cg.Path)
			}
			return ""
		}
		if cg.HierarchyID == 0 {
			g.v2, v2 = dir(""), cg.Path
		}
		for _, c := range cg.Controllers {
			switch c {
			case "cpu":
				g.cpu = dir(c)
			case "cpuacct":
				g.cpuacct, cpuacct = dir(c), cg.Path
			case "memory":
				g.memory = dir(c)
			}
		}
	}
	// systemd may put a unit into its slice alone in version 1, into a group of its own in version 2.
	if g.v2 != "" && g.cpuacct != "" && strings.HasPrefix(v2, cpuacct+"/") {
		g.cpuacct = ""
	}
	if *g == (group{}) {
		return nil
	}
	return g
}

// groupValues are what a group's files said a moment ago: processes of one container
// share a group, and are collected one after the other.
type groupValues struct {
	at     time.Time
	values []groupValue
}

type groupValue struct {
	inst  *telemetry.Instrument
	value float64
	attrs attribute.Set
}

const (
	groupFresh = 500 * time.Millisecond
	maxGroups  = 1024 // remembered
)

// readGroup shows a group's values, read not long before now.
func (s *Source) readGroup(g group, now time.Time, observe telemetry.Observe) {
	v, ok := s.groupValues[g]
	if age := now.Sub(v.at); !ok || age < 0 || age > groupFresh {
		v = groupValues{at: now, values: v.values[:0]}
		g.read(func(i *telemetry.Instrument, x float64, a attribute.Set) {
			v.values = append(v.values, groupValue{i, x, a})
		})
		if len(s.groupValues) >= maxGroups {
			clear(s.groupValues)
		}
		s.groupValues[g] = v
	}
	for _, x := range v.values {
		observe(x.inst, x.value, x.attrs)
	}
}

func (g *group) read(observe telemetry.Observe) {
	if g.v2 != "" {
		g.readV2(observe)
	}
	if g.cpu != "" {
		throttling(observe, keyValues(g.cpu+"/cpu.stat"), "throttled_time", 1e9)
		quota, ok1 := number(g.cpu + "/cpu.cfs_quota_us")
		period, ok2 := number(g.cpu + "/cpu.cfs_period_us")
		if ok1 && ok2 && quota > 0 && period > 0 {
			observe(contCPULimit, quota/period, none)
		}
	}
	if g.cpuacct != "" {
		if used := keyValues(g.cpuacct + "/cpuacct.stat"); used != nil {
			observe(contCPUTime, used["user"]/ticks, user)
			observe(contCPUTime, used["system"]/ticks, system)
		}
	}
	if g.memory != "" {
		usage, ok := number(g.memory + "/memory.usage_in_bytes")
		memory(observe, usage, ok, keyValues(g.memory + "/memory.stat")["total_inactive_file"])
		if limit, ok := number(g.memory + "/memory.limit_in_bytes"); ok && limit < noLimit {
			observe(contMemLimit, limit, none)
		}
		if n, ok := keyValues(g.memory + "/memory.oom_control")["oom_kill"]; ok {
			observe(contOOM, n, none)
		}
	}
}

func (g *group) readV2(observe telemetry.Observe) {
	stat := keyValues(g.v2 + "/cpu.stat")
	// With both versions mounted either counts it; see groupOf.
	if _, ok := stat["user_usec"]; ok && g.cpuacct == "" {
		observe(contCPUTime, stat["user_usec"]/1e6, user)
		observe(contCPUTime, stat["system_usec"]/1e6, system)
	}
	throttling(observe, stat, "throttled_usec", 1e6)
	if data, err := readFile(g.v2 + "/cpu.max"); err == nil {
		if quota, period, ok := pair(data); ok && quota > 0 && period > 0 {
			observe(contCPULimit, quota/period, none)
		}
	}
	usage, ok := number(g.v2 + "/memory.current")
	memory(observe, usage, ok, keyValues(g.v2 + "/memory.stat")["inactive_file"])
	if limit, ok := number(g.v2 + "/memory.max"); ok {
		observe(contMemLimit, limit, none)
	}
	if n, ok := keyValues(g.v2 + "/memory.events")["oom_kill"]; ok {
		observe(contOOM, n, none)
	}
	for _, r := range pressureResources {
		if data, err := readFile(g.v2 + "/" + r + ".pressure"); err == nil {
			for share, us := range pressureTotals(data) {
				observe(contPressure, us/1e6, pressureSet(r, share == "full"))
			}
		}
	}
}

func memory(observe telemetry.Observe, usage float64, ok bool, inactive float64) {
	if ok {
		observe(contMemory, usage, none)
		observe(contWorking, max(0, usage-inactive), none)
	}
}

func throttling(observe telemetry.Observe, stat map[string]float64, timeKey string, unit float64) {
	if _, ok := stat["nr_periods"]; ok {
		observe(contPeriods, stat["nr_periods"], none)
		observe(contThrottled, stat["nr_throttled"], none)
		observe(contThrottle, stat[timeKey]/unit, none)
	}
}

// readFile reads without the runtime's poller, which a file of the kernel's has no use
// for and which costs as much as the rest.
func readFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	data := make([]byte, 4096)
	n := 0
	for n < maxGroupFile {
		if n == len(data) {
			data = append(data, make([]byte, len(data))...)
		}
		m, err := unix.Read(fd, data[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return data[:n], nil
}

// keyValues reads a file of lines "key number"; nil when there is no such file.
func keyValues(path string) map[string]float64 {
	data, err := readFile(path)
	if err != nil {
		return nil
	}
	return parseKeyValues(data)
}

func parseKeyValues(data []byte) map[string]float64 {
	out := map[string]float64{}
	for line := range bytes.Lines(data) {
		key, value, ok := strings.Cut(strings.TrimSpace(string(line)), " ")
		if n, err := strconv.ParseUint(value, 10, 64); ok && err == nil {
			out[key] = float64(n)
		}
	}
	return out
}

// number reads a file that holds one number; false for the word max, too.
func number(path string) (float64, bool) {
	data, err := readFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return float64(n), err == nil && n >= -1
}

// pair reads "quota period" of cpu.max; false for "max period".
func pair(data []byte) (quota, period float64, ok bool) {
	a, b, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	q, err1 := strconv.ParseUint(a, 10, 64)
	p, err2 := strconv.ParseUint(b, 10, 64)
	return float64(q), float64(p), err1 == nil && err2 == nil
}

// pressureTotals reads "some avg10=0.00 ... total=N" lines: share -> microseconds.
func pressureTotals(data []byte) map[string]float64 {
	out := map[string]float64{}
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) < 2 || f[0] != "some" && f[0] != "full" {
			continue
		}
		total, ok := strings.CutPrefix(f[len(f)-1], "total=")
		if n, err := strconv.ParseUint(total, 10, 64); ok && err == nil {
			out[f[0]] = float64(n)
		}
	}
	return out
}
