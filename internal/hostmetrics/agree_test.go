package hostmetrics

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/testkernel"
)

// subject is what is compared: a process with its control groups, or the host.
type subject struct {
	pid int32
	folders
	disk string // why what the process does with files reaches no disk, "" where it does
	look int    // 0 before, 1 after the values were read
	// Of the reading before, for each look: /proc/PID/stat or the first line of /proc/stat, and
	// the time, so that what each says is a bound.
	first [2][]float64
	read  [2]time.Time
}

// said is what files say of one metric: attributes -> value.
type said map[string]float64

// row is how one metric's values are found in files of the kernel, without the code
// that is tested.
type row struct {
	says func(t *testing.T, s *subject) said
	// slack is how far the value may be from what the files say before and after.
	slack float64
	// zero says that a value of 0 proves something or cannot be helped.
	zero bool
	// lacks says what of the host's is missing, "" when nothing is.
	lacks func(s *subject) string
}

func single(v float64) said { return said{"": v} }

// of is a field of a file of /proc/PID, times a unit.
func of(file, label string, unit float64) func(*testing.T, *subject) said {
	return func(t *testing.T, s *subject) said { return single(field(t, s.pid, file, label) * unit) }
}

// statOf are the fields of /proc/PID/stat, numbered as in proc(5); the name is the program's.
func statOf(t *testing.T, pid int32) (f []float64) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	f = []float64{0, float64(pid), 0, 0}
	for _, word := range strings.Fields(rest)[1:] {
		v, _ := strconv.ParseFloat(word, 64)
		f = append(f, v)
	}
	return f
}

// threads adds up a number that each thread's file has.
func threads(t *testing.T, pid int32, file string, number func(text string) float64) (sum float64) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/%s", pid, file))
	if err != nil || len(files) == 0 {
		t.Fatalf("threads of %d: %v", pid, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		sum += number(string(data))
	}
	return sum
}

func after(label string) func(string) float64 {
	return func(text string) float64 {
		_, rest, _ := strings.Cut("\n"+text, "\n"+label)
		v, _ := strconv.ParseFloat(strings.Fields(rest + " x")[0], 64)
		return v
	}
}

// keyed is a number of a file of lines "key number"; an empty key: of a file with one number.
func keyed(t *testing.T, path, key string) float64 {
	t.Helper()
	for _, f := range words(t, path) {
		if key == "" {
			return num(t, f[0])
		}
		if f[0] == key {
			return num(t, f[1])
		}
	}
	t.Fatalf("no %q in %s", key, path)
	return 0
}

// pressure is what files NAME.pressure or pressure/NAME say.
func pressure(t *testing.T, pattern string) said {
	v := said{}
	for _, resource := range []string{"cpu", "memory", "io"} {
		for _, f := range words(t, fmt.Sprintf(pattern, resource)) {
			v["resource="+resource+",share="+f[0]] = num(t, strings.TrimPrefix(f[4], "total=")) / 1e6
		}
	}
	return v
}

// traffic is a pair of columns of a file like /proc/net/dev.
func traffic(t *testing.T, path string, column int) said {
	v := said{}
	for _, f := range words(t, path)[2:] {
		v["network.interface.name="+f[0]+",network.io.direction=receive"] = num(t, f[1+column])
		v["network.interface.name="+f[0]+",network.io.direction=transmit"] = num(t, f[9+column])
	}
	return v
}

func traffics(column int) func(*testing.T, *subject) said {
	return func(t *testing.T, _ *subject) said { return traffic(t, "/proc/1/net/dev", column) }
}

// disks are columns of /proc/diskstats by attributes, times a unit.
func disks(unit float64, columns map[string]int) func(*testing.T, *subject) said {
	return func(t *testing.T, _ *subject) said {
		v := said{}
		for _, f := range words(t, "/proc/diskstats") {
			if len(f) < 13 || num(t, f[3])+num(t, f[7]) == 0 || strings.HasPrefix(f[2], "loop") || strings.HasPrefix(f[2], "ram") {
				continue
			}
			for attributes, n := range columns {
				v[attributes+"system.device="+f[2]] = num(t, f[n]) * unit
			}
		}
		return v
	}
}

// hostModes are columns of the first line of /proc/stat, in ticks.
func hostModes(f []float64) said {
	const user, nice, system, idle, iowait, irq, softirq, steal, guest, guestNice = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
	return said{
		"cpu.mode=user": f[user] - f[guest], "cpu.mode=nice": f[nice] - f[guestNice], "cpu.mode=system": f[system], "cpu.mode=idle": f[idle],
		"cpu.mode=iowait": f[iowait], "cpu.mode=interrupt": f[irq] + f[softirq], "cpu.mode=steal": f[steal], "cpu.mode=guest": f[guest] + f[guestNice],
	}
}

func hostStat(t *testing.T) (f []float64) {
	for _, w := range words(t, "/proc/stat")[0][1:] {
		f = append(f, num(t, w))
	}
	return f
}

func hostCPUs(t *testing.T) (n float64) {
	for _, f := range words(t, "/proc/stat") {
		if strings.HasPrefix(f[0], "cpu") && f[0] != "cpu" {
			n++
		}
	}
	return n
}

func meminfo(t *testing.T, key string) float64 { return keyed(t, "/proc/meminfo", key) * 1024 }

// ofGroup is the row of a control group's number: version 1's where the host has the controller
// there, else version 2's.
func ofGroup(controller string, v1, v2 func(t *testing.T, dir string) said) row {
	return row{
		lacks: func(s *subject) string {
			if s.v1(controller) == "" && !s.v2Has(controller) {
				return "a control group with " + controller
			}
			return ""
		},
		says: func(t *testing.T, s *subject) said {
			if dir := s.v1(controller); dir != "" {
				return v1(t, dir)
			}
			return v2(t, s.v2)
		},
	}
}

// in is a number of a file of a control group, times a unit.
func in(file, key string, unit float64) func(*testing.T, string) said {
	return func(t *testing.T, dir string) said { return single(keyed(t, dir+"/"+file, key) * unit) }
}

func cpuTimeV1(t *testing.T, dir string) said {
	return said{"cpu.mode=user": keyed(t, dir+"/cpuacct.stat", "user") * tick, "cpu.mode=system": keyed(t, dir+"/cpuacct.stat", "system") * tick}
}

func cpuTimeV2(t *testing.T, dir string) said {
	return said{"cpu.mode=user": keyed(t, dir+"/cpu.stat", "user_usec") / 1e6, "cpu.mode=system": keyed(t, dir+"/cpu.stat", "system_usec") / 1e6}
}

func slack(v float64, r row) row {
	r.slack = v
	return r
}

func noDisk(s *subject) string { return s.disk }

func noPSI(*subject) string {
	if _, err := os.ReadFile("/proc/pressure/cpu"); err != nil {
		return "pressure stall information"
	}
	return ""
}

// localDisks are what statfs says of the first folder at which each local file system is, for PID 1
// or, where that may not be looked at, for this process: only whole ones, then, of those with a root.
func localDisks() said {
	root, list, whole := "/proc/1/root", "/proc/1/mountinfo", false
	if _, err := os.Stat(root + "/"); err != nil {
		root, list, whole = "", "/proc/self/mountinfo", true
	}
	data, _ := os.ReadFile(list)
	v, seen := said{}, map[string]bool{}
	for line := range strings.Lines(string(data)) {
		mount, kind, _ := strings.Cut(line, " - ")
		m, k := strings.Fields(mount), strings.Fields(kind)
		device, part, at := m[2], m[3] != "/" && k[0] != "btrfs", m[4]
		var st syscall.Statfs_t
		if !slices.Contains(localTypes, k[0]) {
			continue // one over a network may never answer
		}
		info, err := os.Stat(root + at)
		if whole && part || seen[device] || err != nil || !info.IsDir() || syscall.Statfs(root+at, &st) != nil {
			continue
		}
		seen[device] = true
		for state, blocks := range map[string]uint64{"used": st.Blocks - st.Bfree, "free": st.Bavail} {
			v["system.device="+k[1]+",system.filesystem.mountpoint="+at+",system.filesystem.state="+state+",system.filesystem.type="+k[0]] = float64(blocks) * float64(st.Frsize)
		}
	}
	return v
}

func noLocalDisk(*subject) string {
	if len(localDisks()) == 0 {
		return "a local file system"
	}
	return ""
}

const tick = 1.0 / 100

// processRows are compared with a stopped process: nothing but the time moves.
var processRows = map[string]row{
	"process.cpu.time": {says: func(t *testing.T, s *subject) said {
		f := statOf(t, s.pid)
		return said{"cpu.mode=user": f[14] * tick, "cpu.mode=system": f[15] * tick}
	}},
	"process.cpu.utilization": {slack: 1e-9, says: func(t *testing.T, s *subject) said {
		f, first, all := statOf(t, s.pid), s.first[s.look], time.Since(s.read[s.look]).Seconds()*hostCPUs(t)
		return said{"cpu.mode=user": (f[14] - first[14]) * tick / all, "cpu.mode=system": (f[15] - first[15]) * tick / all}
	}},
	"process.cpu.runqueue.wait": {slack: 1e-6, says: func(t *testing.T, s *subject) said {
		return single(threads(t, s.pid, "schedstat", func(text string) float64 { return num(t, strings.Fields(text)[1]) }) / 1e9)
	}},
	"process.memory.usage":   {says: of("status", "VmRSS:", 1024)},
	"process.memory.virtual": {says: of("status", "VmSize:", 1024)},
	"process.memory.pss":     {says: of("smaps_rollup", "Pss:", 1024)},
	"process.memory.uss": {says: func(t *testing.T, s *subject) said {
		return single((field(t, s.pid, "smaps_rollup", "Private_Clean:") + field(t, s.pid, "smaps_rollup", "Private_Dirty:")) * 1024)
	}},
	"process.thread.count": {says: func(t *testing.T, s *subject) said {
		return single(float64(entries(t, fmt.Sprintf("/proc/%d/task", s.pid))))
	}},
	"process.unix.file_descriptor.count": {says: func(t *testing.T, s *subject) said {
		return single(float64(entries(t, fmt.Sprintf("/proc/%d/fd", s.pid))))
	}},
	"process.unix.file_descriptor.limit": {says: of("limits", "Max open files", 1)},
	"process.context_switches": {says: func(t *testing.T, s *subject) said {
		return said{
			"process.context_switch.type=voluntary":   threads(t, s.pid, "status", after("voluntary_ctxt_switches:")),
			"process.context_switch.type=involuntary": threads(t, s.pid, "status", after("nonvoluntary_ctxt_switches:")),
		}
	}},
	"process.paging.faults": {lacks: noDisk, says: func(t *testing.T, s *subject) said {
		f := statOf(t, s.pid)
		return said{"system.paging.fault.type=minor": f[10], "system.paging.fault.type=major": f[12]}
	}},
	"process.disk.io": {lacks: noDisk, says: func(t *testing.T, s *subject) said {
		return said{"disk.io.direction=read": field(t, s.pid, "io", "read_bytes:"), "disk.io.direction=write": field(t, s.pid, "io", "write_bytes:")}
	}},
	"process.start_time": {slack: 0.002, says: func(t *testing.T, s *subject) said {
		return single(keyed(t, "/proc/stat", "btime") + statOf(t, s.pid)[22]*tick)
	}},
	// The boot time in /proc/stat is in whole seconds.
	"process.uptime": {slack: 1.1, says: func(t *testing.T, s *subject) said {
		return single(keyed(t, "/proc/uptime", "") - statOf(t, s.pid)[22]*tick)
	}},

	"container.cpu.time": slack(tick, ofGroup("cpuacct", cpuTimeV1, cpuTimeV2)),
	"container.cpu.limit": ofGroup("cpu", func(t *testing.T, dir string) said {
		return single(keyed(t, dir+"/cpu.cfs_quota_us", "") / keyed(t, dir+"/cpu.cfs_period_us", ""))
	}, func(t *testing.T, dir string) said {
		limit := words(t, dir+"/cpu.max")[0]
		return single(num(t, limit[0]) / num(t, limit[1]))
	}),
	"container.cpu.periods":           ofGroup("cpu", in("cpu.stat", "nr_periods", 1), in("cpu.stat", "nr_periods", 1)),
	"container.cpu.throttled_periods": ofGroup("cpu", in("cpu.stat", "nr_throttled", 1), in("cpu.stat", "nr_throttled", 1)),
	"container.cpu.throttled_time":    slack(1e-9, ofGroup("cpu", in("cpu.stat", "throttled_time", 1e-9), in("cpu.stat", "throttled_usec", 1e-6))),
	"container.memory.usage":          ofGroup("memory", in("memory.usage_in_bytes", "", 1), in("memory.current", "", 1)),
	"container.memory.working_set": ofGroup("memory", func(t *testing.T, dir string) said {
		return single(keyed(t, dir+"/memory.usage_in_bytes", "") - keyed(t, dir+"/memory.stat", "total_inactive_file"))
	}, func(t *testing.T, dir string) said {
		return single(keyed(t, dir+"/memory.current", "") - keyed(t, dir+"/memory.stat", "inactive_file"))
	}),
	"container.memory.limit":     ofGroup("memory", in("memory.limit_in_bytes", "", 1), in("memory.max", "", 1)),
	"container.memory.oom_kills": ofGroup("memory", in("memory.oom_control", "oom_kill", 1), in("memory.events", "oom_kill", 1)),
	// A new namespace may have tunnels that nothing went through; lo is looked at apart.
	"container.network.io": {zero: true, says: func(t *testing.T, s *subject) said { return traffic(t, fmt.Sprintf("/proc/%d/net/dev", s.pid), 0) }},
	"container.pressure.stall_time": {zero: true, says: func(t *testing.T, s *subject) said { return pressure(t, s.v2+"/%s.pressure") },
		lacks: func(s *subject) string {
			if _, err := os.ReadFile(s.v2 + "/cpu.pressure"); err != nil {
				return "control groups of version 2 with pressure stall information"
			}
			return ""
		}},
}

// hostRows are compared with a host that goes on working.
var hostRows = map[string]row{
	"system.cpu.time": {zero: true, slack: tick / 2, says: func(t *testing.T, _ *subject) said {
		v := hostModes(hostStat(t))
		for k := range v {
			v[k] *= tick
		}
		return v
	}},
	// Both readings lie between two looks into the file: some ticks of some hundred.
	"system.cpu.utilization": {zero: true, slack: 0.05, says: func(t *testing.T, s *subject) said {
		v, before, all := hostModes(hostStat(t)), hostModes(s.first[s.look]), 0.0
		for k := range v {
			v[k] -= before[k]
			all += v[k]
		}
		for k := range v {
			v[k] /= all
		}
		return v
	}},
	"system.cpu.logical.count":      {says: func(t *testing.T, _ *subject) said { return single(hostCPUs(t)) }},
	"system.cpu.load_average.1m":    {zero: true, says: func(t *testing.T, _ *subject) said { return single(num(t, words(t, "/proc/loadavg")[0][0])) }},
	"system.cpu.load_average.5m":    {zero: true, says: func(t *testing.T, _ *subject) said { return single(num(t, words(t, "/proc/loadavg")[0][1])) }},
	"system.cpu.load_average.15m":   {zero: true, says: func(t *testing.T, _ *subject) said { return single(num(t, words(t, "/proc/loadavg")[0][2])) }},
	"system.memory.limit":           {says: func(t *testing.T, _ *subject) said { return single(meminfo(t, "MemTotal")) }},
	"system.memory.linux.available": {slack: 16 << 20, says: func(t *testing.T, _ *subject) said { return single(meminfo(t, "MemAvailable")) }},
	"system.memory.usage": {zero: true, slack: 16 << 20, says: func(t *testing.T, _ *subject) said {
		free, buffers, cached := meminfo(t, "MemFree"), meminfo(t, "Buffers"), meminfo(t, "Cached")+meminfo(t, "SReclaimable")
		return said{
			"system.memory.state=free": free, "system.memory.state=buffers": buffers, "system.memory.state=cached": cached,
			"system.memory.state=used": meminfo(t, "MemTotal") - free - buffers - cached,
		}
	}},
	"system.disk.io":                {zero: true, says: disks(512, map[string]int{"disk.io.direction=read,": 5, "disk.io.direction=write,": 9})},
	"system.disk.operations":        {zero: true, says: disks(1, map[string]int{"disk.io.direction=read,": 3, "disk.io.direction=write,": 7})},
	"system.disk.io_time":           {zero: true, slack: 1e-6, says: disks(1e-3, map[string]int{"": 12})},
	"system.network.io":             {zero: true, says: traffics(0)},
	"system.network.packet.count":   {zero: true, says: traffics(1)},
	"system.network.errors":         {zero: true, says: traffics(2)},
	"system.network.packet.dropped": {zero: true, says: traffics(3)},
	"system.filesystem.usage":       {zero: true, slack: 8 << 20, lacks: noLocalDisk, says: func(*testing.T, *subject) said { return localDisks() }},
	"system.pressure.stall_time":    {zero: true, slack: 1e-6, lacks: noPSI, says: func(t *testing.T, _ *subject) said { return pressure(t, "/proc/pressure/%s") }},
	"system.uptime":                 {slack: 1.1, says: func(t *testing.T, _ *subject) said { return single(keyed(t, "/proc/uptime", "")) }},
	"system.process.created":        {says: func(t *testing.T, _ *subject) said { return single(keyed(t, "/proc/stat", "processes")) }},
}

// TestEveryMetricIsCompared: a metric that is shown has a row in the tables above.
func TestEveryMetricIsCompared(t *testing.T) {
	var names []string
	for _, i := range Instruments() {
		names = append(names, i.Name)
	}
	rows := slices.Concat(slices.Collect(maps.Keys(processRows)), slices.Collect(maps.Keys(hostRows)))
	slices.Sort(names)
	slices.Sort(rows)
	if !slices.Equal(names, rows) {
		t.Errorf("metrics %q\nrows %q", names, rows)
	}
}

// disagree says where values are not between what the files said before and after.
func disagree(r row, name string, got values, low, high said) (wrong []string) {
	n := 0
	for key := range got {
		if metric, _, _ := strings.Cut(key, "{"); metric == name {
			n++
		}
	}
	if n != len(low) || n == 0 {
		wrong = append(wrong, fmt.Sprintf("%d values of %s, the files have %d: %v", n, name, len(low), low))
	}
	for attributes, a := range low {
		key, b := name, high[attributes]
		if attributes != "" {
			key += "{" + attributes + "}"
		}
		switch v, ok := got[key]; {
		case !ok || v < min(a, b)-r.slack || v > max(a, b)+r.slack:
			wrong = append(wrong, fmt.Sprintf("%s is %v (read: %v), the files say %v, then %v", key, v, ok, a, b))
		case v == 0 && !r.zero:
			wrong = append(wrong, fmt.Sprintf("%s is 0, which proves nothing", key))
		}
	}
	return wrong
}

// compare takes values between two looks into the files, after begin. What moves both ways
// may do so in between: each row has a few tries.
func compare(t *testing.T, rows map[string]row, begin func() *subject, take func() values) {
	t.Helper()
	rows = maps.Clone(rows)
	wrong := map[string][]string{}
	for range 5 {
		s := begin()
		var says [2]map[string]said
		look := func(n int) {
			s.look, says[n] = n, map[string]said{}
			for name, r := range rows {
				if r.lacks == nil || r.lacks(s) == "" {
					says[n][name] = r.says(t, s)
				} else if n == 0 {
					t.Logf("%s is not compared: this host lacks %s", name, r.lacks(s))
					delete(rows, name)
				}
			}
		}
		look(0)
		got := take()
		look(1)
		for name, r := range rows {
			if wrong[name] = disagree(r, name, got, says[0][name], says[1][name]); wrong[name] == nil {
				delete(rows, name)
			}
		}
		if len(rows) == 0 {
			return
		}
	}
	for name := range rows {
		t.Error(strings.Join(wrong[name], "\n"))
	}
}

// TestProcessAgrees compares every metric of a process and its control groups with what
// the kernel's files say: of one that computes, reads, writes, faults, sends and is throttled, and
// that is stopped while it is looked at.
func TestProcessAgrees(t *testing.T) {
	testkernel.Require(t, testkernel.Root)
	src := source(t)
	in := newFolders(t, src, "cpu", "cpuacct", "memory", "")
	in.limit(t)
	dir, disk := busyFolder(t)
	key := startBusy(t, in, dir)
	var got values
	shares, _ := src.Open(key)
	compare(t, processRows, func() *subject {
		stop(t, key.PID)
		s := &subject{pid: key.PID, folders: in, disk: disk}
		s.read[1] = time.Now()
		take(shares)
		s.read[0] = time.Now()
		first := statOf(t, key.PID)
		s.first = [2][]float64{first, first}
		if err := syscall.Kill(int(key.PID), syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if now := statOf(t, key.PID); now[14] > first[14]+5 && now[15] > first[15]+5 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the busy program does not run")
			}
		}
		stop(t, key.PID)
		return s
	}, func() values {
		second := take(shares)
		clear(src.groupValues) // not what was read a moment ago
		fresh, _ := src.Open(key)
		got = take(fresh)
		for _, mode := range []string{"user", "system"} {
			name := "process.cpu.utilization{cpu.mode=" + mode + "}"
			got[name] = second[name]
		}
		return got
	})
	for _, direction := range []string{"receive", "transmit"} {
		if name := "container.network.io{network.interface.name=lo,network.io.direction=" + direction + "}"; got[name] == 0 {
			t.Errorf("%s is 0", name)
		}
	}
}

// TestGroupOfVersion2: where a process is in a group of version 2 alone its CPU time is
// that one's.
func TestGroupOfVersion2(t *testing.T) {
	testkernel.Require(t, testkernel.Root)
	src := source(t)
	in := newFolders(t, src, "")
	if in.v2 == "" {
		t.Skip("no control groups of version 2 are mounted")
	}
	in.cpuacct = src.groups["cpuacct"] // its root, not a group that the process inherits
	dir, _ := busyFolder(t)
	key := startBusy(t, in, dir)
	stop(t, key.PID)
	rows := map[string]row{
		"container.cpu.time":            {slack: 1e-6, says: func(t *testing.T, s *subject) said { return cpuTimeV2(t, s.v2) }},
		"container.pressure.stall_time": processRows["container.pressure.stall_time"],
	}
	compare(t, rows, func() *subject { return &subject{pid: key.PID, folders: in} }, func() values {
		clear(src.groupValues)
		fresh, _ := src.Open(key)
		return take(fresh)
	})
}

// TestHostAgrees compares every metric of the host.
func TestHostAgrees(t *testing.T) {
	src := source(t)
	var read metrics.Reading
	compare(t, hostRows, func() *subject {
		read, _ = src.Open(metrics.Agent)
		s := &subject{}
		s.first[1] = hostStat(t)
		take(read)
		s.first[0] = hostStat(t)
		ticks := func() (sum float64) {
			for _, v := range hostModes(hostStat(t)) {
				sum += v
			}
			return sum
		}
		for begin, deadline := ticks(), time.Now().Add(10*time.Second); ticks() < begin+100 && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		return s
	}, func() values { return take(read) })
}
