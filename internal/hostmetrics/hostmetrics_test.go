package hostmetrics

import (
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/metrics"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// values are what one reading showed: "name{attributes}" -> value.
type values map[string]float64

func take(r metrics.Reading) values {
	v := values{}
	r(func(i *telemetry.Instrument, x float64, a attribute.Set) {
		key := i.Name
		if a.Len() > 0 {
			key += "{" + a.Encoded(attribute.DefaultEncoder()) + "}"
		}
		if _, dup := v[key]; dup {
			panic(key + " is there twice")
		}
		v[key] = x
	})
	return v
}

func source(t testing.TB) *Source {
	t.Helper()
	s, err := New(Options{Process: true, Host: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keyOf(t testing.TB, pid int) telemetry.ProcessKey {
	t.Helper()
	p, err := procfs.NewProc(pid)
	if err != nil {
		t.Fatal(err)
	}
	stat, err := p.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return telemetry.ProcessKey{PID: int32(pid), StartNs: stat.Starttime*nsPerTick + 123}
}

// idle runs cat and waits until it sleeps, after which its values do not move.
func idle(t testing.TB) telemetry.ProcessKey {
	t.Helper()
	cmd := exec.Command("/bin/cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	fmt.Fprint(in, "x")
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err == nil && strings.Contains(string(stat), ") S ") {
			return keyOf(t, cmd.Process.Pid)
		}
		if time.Now().After(deadline) {
			t.Fatal("cat does not sleep")
		}
	}
}

// TestAgreesWithPS compares with ps and /proc of a process that does nothing.
func TestAgreesWithPS(t *testing.T) {
	key := idle(t)
	read, since := source(t).Open(key)
	read(func(*telemetry.Instrument, float64, attribute.Set) {})
	got := take(read)
	out, err := exec.Command("ps", "-o", "rss=,vsz=,nlwp=,min_flt=,maj_flt=,etimes=", "-p", strconv.Itoa(int(key.PID))).Output()
	if err != nil {
		t.Fatal(err)
	}
	var rss, vsz, threads, minFlt, majFlt, elapsed float64
	if _, err := fmt.Sscan(string(out), &rss, &vsz, &threads, &minFlt, &majFlt, &elapsed); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	want := values{
		"process.memory.usage": rss * 1024, "process.memory.virtual": vsz * 1024, "process.thread.count": threads,
		"process.paging.faults{system.paging.fault.type=minor}": minFlt, "process.paging.faults{system.paging.fault.type=major}": majFlt,
		"process.unix.file_descriptor.count": float64(entries(t, fmt.Sprintf("/proc/%d/fd", key.PID))),
		"process.unix.file_descriptor.limit": field(t, key.PID, "limits", "Max open files"),
		"process.memory.pss":                 field(t, key.PID, "smaps_rollup", "Pss:") * 1024,
		"process.memory.uss": (field(t, key.PID, "smaps_rollup", "Private_Clean:") +
			field(t, key.PID, "smaps_rollup", "Private_Dirty:")) * 1024,
		"process.context_switches{process.context_switch.type=voluntary}":   field(t, key.PID, "status", "voluntary_ctxt_switches:"),
		"process.context_switches{process.context_switch.type=involuntary}": field(t, key.PID, "status", "nonvoluntary_ctxt_switches:"),
		"process.disk.io{disk.io.direction=read}":                           field(t, key.PID, "io", "read_bytes:"),
		"process.disk.io{disk.io.direction=write}":                          field(t, key.PID, "io", "write_bytes:"),
		"process.cpu.utilization{cpu.mode=user}":                            0, "process.cpu.utilization{cpu.mode=system}": 0,
	}
	for name, w := range want {
		if g, ok := got[name]; !ok || g != w {
			t.Errorf("%s is %v (%v), want %v", name, g, ok, w)
		}
	}
	sched, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", key.PID))
	if err != nil {
		t.Fatal(err)
	}
	var run, wait float64
	fmt.Sscan(string(sched), &run, &wait)
	if g := got["process.cpu.runqueue.wait"]; math.Abs(g-wait/1e9) > 1e-9 {
		t.Errorf("run-queue wait %v, want %v", g, wait/1e9)
	}
	if g := got["process.uptime"]; math.Abs(g-elapsed) > 2 {
		t.Errorf("uptime %v, ps says %v", g, elapsed)
	}
	if d := time.Since(since); d < 0 || d > time.Minute {
		t.Errorf("counters count since %v ago", d)
	}
}

// field is the first number after a label in a file of /proc/PID.
func field(t *testing.T, pid int32, file, label string) float64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, label); ok {
			n, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %q in %s:\n%s", label, file, data)
	return 0
}

func entries(t *testing.T, dir string) int {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestUtilizationOfHost: a process that used two of a host's eight CPUs has used a
// quarter of it, on whatever CPUs the agent may run.
func TestUtilizationOfHost(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := "cpu 1 1 1 1 1 1 1 1 1 1\n"
	for i := range 8 {
		text += fmt.Sprintf("cpu%d 1 1 1 1 1 1 1 1 1 1\n", i)
	}
	write("stat", text)
	used := func(utime int) string {
		return fmt.Sprintf("7 (x) S 1 2 3 4 5 6 10 7 12 8 %d 0 9 9 20 0 4 0 22 23 1 2", utime)
	}
	write("7/stat", used(0))
	fs, err := procfs.NewFS(root)
	if err != nil {
		t.Fatal(err)
	}
	s := &Source{o: Options{Proc: root, Process: true}, fs: fs, groupValues: map[group]groupValues{}}
	p := &process{s: s, dir: s.path(7, ""), key: telemetry.ProcessKey{PID: 7}, threads: map[int]threadTotals{}}
	take(p.read)
	p.last = p.last.Add(-100 * time.Second)
	write("7/stat", used(200*ticks))
	if got := take(p.read)["process.cpu.utilization{cpu.mode=user}"]; got < 0.24 || got > 0.25 {
		t.Errorf("utilization %v of 200 s on 8 CPUs in 100 s", got)
	}
}

func TestThreadsAddUp(t *testing.T) {
	src := source(t)
	const name = "process.context_switches{process.context_switch.type=voluntary}"
	key := keyOf(t, os.Getpid())
	before := switches(t)
	read, _ := src.Open(key)
	got := take(read)[name]
	if after := switches(t); got < before || got > after {
		t.Errorf("%v voluntary context switches, /proc/self/task says %v before and %v after", got, before, after)
	}
	p := &process{s: src, dir: src.path(key.PID, ""), key: key, threads: map[int]threadTotals{1 << 21: {wait: 5, voluntary: 7}}, sums: threadTotals{wait: 5, voluntary: 7}}
	p.readThreads()
	if _, kept := p.threads[1<<21]; kept || p.sums.wait < 5 || p.sums.voluntary < 7 {
		t.Errorf("a thread that ended: %+v", p.sums)
	}
}

// switches adds up the voluntary context switches of this process's threads.
func switches(t *testing.T) (sum float64) {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
				if err != nil {
					t.Fatal(err)
				}
				sum += n
			}
		}
	}
	return sum
}

func TestReusedPID(t *testing.T) {
	key := idle(t)
	key.StartNs += 5 * nsPerTick
	read, _ := source(t).Open(key)
	if got := take(read); len(got) > 0 {
		t.Errorf("another process's values: %v", got)
	}
	key.PID = 1 << 22
	read, _ = source(t).Open(key)
	if got := take(read); len(got) > 0 {
		t.Errorf("values of no process: %v", got)
	}
}

func TestHost(t *testing.T) {
	read, since := source(t).Open(metrics.Agent)
	take(read)
	got := take(read)
	out, err := exec.Command("df", "-B1", "--output=used,avail", "/").Output()
	if err != nil {
		t.Fatal(err)
	}
	var used, avail float64
	lines := strings.Split(string(out), "\n")
	fmt.Sscan(lines[1], &used, &avail)
	found := false
	for name, v := range got {
		if strings.HasPrefix(name, "system.filesystem.usage") && strings.Contains(name, "mountpoint=/,") && strings.Contains(name, "state=used") {
			found = true
			if math.Abs(v-used) > 1<<30 {
				t.Errorf("%v bytes of / used, df says %v", v, used)
			}
		}
	}
	if !found {
		t.Logf("the root file system is of no known local type: %v", strings.TrimSpace(string(out)))
	}
	mem, err := procfs.NewDefaultFS()
	if err != nil {
		t.Fatal(err)
	}
	info, err := mem.Meminfo()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, s := range []string{"used", "free", "cached", "buffers"} {
		sum += got["system.memory.usage{system.memory.state="+s+"}"]
	}
	if total := float64(*info.MemTotalBytes); sum != total || got["system.memory.limit"] != total {
		t.Errorf("memory %v, limit %v, want %v", sum, got["system.memory.limit"], total)
	}
	for _, name := range []string{
		"system.cpu.time{cpu.mode=user}", "system.cpu.time{cpu.mode=idle}", "system.cpu.load_average.1m", "system.uptime",
		"system.network.io{network.interface.name=lo,network.io.direction=receive}", "system.cpu.logical.count",
	} {
		if _, ok := got[name]; !ok {
			t.Errorf("no %s", name)
		}
	}
	if d := time.Since(since).Seconds(); math.Abs(d-got["system.uptime"]) > 2 {
		t.Errorf("up for %v, counters count since %v", got["system.uptime"], d)
	}
}

// TestCgroupV2 reads files as kernel 6.12 wrote them.
func TestCgroupV2(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cpu.stat":        "usage_usec 3500000\nuser_usec 2500000\nsystem_usec 1000000\nnice_usec 0\nnr_periods 20\nnr_throttled 7\nthrottled_usec 450000\nnr_bursts 0\nburst_usec 0\n",
		"cpu.max":         "150000 100000\n",
		"memory.current":  "10485760\n",
		"memory.max":      "max\n",
		"memory.stat":     "anon 4096\nfile 8192\ninactive_file 485760\n",
		"memory.events":   "low 0\nhigh 0\nmax 4\noom 2\noom_kill 3\noom_group_kill 0\n",
		"memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := take((&group{v2: dir}).read)
	want := values{
		"container.cpu.time{cpu.mode=user}": 2.5, "container.cpu.time{cpu.mode=system}": 1, "container.cpu.limit": 1.5,
		"container.cpu.periods": 20, "container.cpu.throttled_periods": 7, "container.cpu.throttled_time": 0.45,
		"container.memory.usage": 10485760, "container.memory.working_set": 10000000, "container.memory.oom_kills": 3,
		"container.pressure.stall_time{resource=memory,share=some}": 1.5, "container.pressure.stall_time{resource=memory,share=full}": 0.5,
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %v, want %v", k, got[k], v)
		}
	}
}

// A process can call itself anything.
func TestParseStat(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 10 7 12 8 14 15 9 9 20 0 4 0 22 23 1 2"
	want := procStat{minFlt: 10, majFlt: 12, utime: 14, stime: 15, threads: 4, start: 22, vsize: 23}
	for _, name := range []string{"cat", "a b", ") R 1 (", "x\n) S"} {
		if got, err := parseStat([]byte("7 (" + name + ")" + rest)); err != nil || got != want {
			t.Errorf("%q: %+v, %v", name, got, err)
		}
	}
	for n := range len(rest) - len(" 1 2") - 1 {
		if got, err := parseStat([]byte("7 (x)" + rest[:n])); err == nil && got == want && n < len(rest)-6 {
			t.Errorf("cut at %d: %+v", n, got)
		}
	}
	if v, ok := lineValue([]byte("VmRSSx:\t1 kB\nVmRSS:\t  4096 kB\n"), "VmRSS"); !ok || v != 4096 {
		t.Errorf("VmRSS is %d, %v", v, ok)
	}
}

// FuzzProc: whatever stands in the files of a process, reading them ends and gives
// finite values.
func FuzzProc(f *testing.F) {
	for _, name := range []string{"stat", "status", "io", "limits", "schedstat", "cgroup", "smaps_rollup"} {
		data, err := os.ReadFile("/proc/self/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(name, data)
		f.Add(name, data[:len(data)/2])
	}
	f.Add("cgroup", []byte("0::/../../etc\n1:memory:/\xff\n::::\n"))
	f.Add("cpu.stat", []byte("nr_periods 18446744073709551616\nnr_throttled -1\n"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		if strings.ContainsAny(name, "/\x00") || name == "" || name == "." || name == ".." || len(name) > 100 {
			return
		}
		root := t.TempDir()
		dir := filepath.Join(root, "7", "task", "7")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{filepath.Join(root, "7"), dir} {
			for _, file := range []string{"stat", "status", "schedstat"} {
				if real, err := os.ReadFile("/proc/self/" + file); err == nil {
					_ = os.WriteFile(filepath.Join(d, file), real, 0o600)
				}
			}
			_ = os.WriteFile(filepath.Join(d, name), data, 0o600)
		}
		fs, err := procfs.NewFS(root)
		if err != nil {
			t.Fatal(err)
		}
		s := &Source{o: Options{Proc: root, Process: true}, fs: fs, groups: mounts{"": root, "memory": root}, groupValues: map[group]groupValues{}}
		p := &process{s: s, dir: s.path(7, ""), key: telemetry.ProcessKey{PID: 7}, threads: map[int]threadTotals{}}
		check := func(i *telemetry.Instrument, v float64, _ attribute.Set) {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Errorf("%s is %v", i.Name, v)
			}
		}
		p.read(check)
		p.read(check)
		parseKeyValues(data)
		pressureTotals(data)
		pair(data)
		(&group{v2: root, cpu: root, memory: root}).read(check)
	})
}

// BenchmarkProcess is what one idle process costs at each collection.
func BenchmarkProcess(b *testing.B) {
	read, _ := source(b).Open(idle(b))
	n := 0
	before := cpuTime(b)
	for b.Loop() {
		read(func(*telemetry.Instrument, float64, attribute.Set) { n++ })
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(n)/float64(b.N), "values/op")
}

func cpuTime(b *testing.B) time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
