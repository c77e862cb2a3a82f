package hostmetrics

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/metrics"
)

// words are the fields of each line of a file.
func words(t *testing.T, path string) (lines [][]string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		lines = append(lines, strings.Fields(strings.ReplaceAll(line, ":", " ")))
	}
	return lines
}

func num(t *testing.T, text string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// interfaces is what /proc/net/dev says of one metric of bytes, in columns of what is named.
func interfaces(t *testing.T, path string, columns map[string]int) values {
	t.Helper()
	v := values{}
	for _, f := range words(t, path)[2:] {
		for name, n := range columns {
			for i, direction := range []string{"receive", "transmit"} {
				v[fmt.Sprintf("%s{network.interface.name=%s,network.io.direction=%s}", name, f[0], direction)] = num(t, f[1+8*i+n])
			}
		}
	}
	return v
}

// files is what the host's files in /proc say now.
func files(t *testing.T) values {
	t.Helper()
	v := interfaces(t, "/proc/1/net/dev", map[string]int{
		"system.network.io": 0, "system.network.packet.count": 1, "system.network.errors": 2, "system.network.packet.dropped": 3,
	})
	for _, f := range words(t, "/proc/diskstats") {
		if len(f) < 13 || num(t, f[3])+num(t, f[7]) == 0 || strings.HasPrefix(f[2], "loop") || strings.HasPrefix(f[2], "ram") {
			continue
		}
		v["system.disk.operations{disk.io.direction=read,system.device="+f[2]+"}"] = num(t, f[3])
		v["system.disk.operations{disk.io.direction=write,system.device="+f[2]+"}"] = num(t, f[7])
		v["system.disk.io{disk.io.direction=read,system.device="+f[2]+"}"] = num(t, f[5]) * 512
		v["system.disk.io{disk.io.direction=write,system.device="+f[2]+"}"] = num(t, f[9]) * 512
		v["system.disk.io_time{system.device="+f[2]+"}"] = num(t, f[12]) / 1000
	}
	for _, resource := range []string{"cpu", "memory", "io"} {
		path := "/proc/pressure/" + resource
		if _, err := os.ReadFile(path); err != nil {
			continue // no PSI
		}
		for _, f := range words(t, path) {
			v[fmt.Sprintf("system.pressure.stall_time{resource=%s,share=%s}", resource, f[0])] = num(t, strings.TrimPrefix(f[4], "total=")) / 1e6
		}
	}
	for _, f := range words(t, "/proc/stat") {
		if f[0] == "processes" {
			v["system.process.created"] = num(t, f[1])
		}
	}
	return v
}

// TestHostAgreesWithFiles: what counts is between what the files said before and after.
func TestHostAgreesWithFiles(t *testing.T) {
	read, _ := source(t).Open(metrics.Agent)
	take(read)
	before := files(t)
	got := take(read)
	after := files(t)
	shown := map[string]bool{}
	for name, low := range before {
		g, ok := got[name]
		if high, still := after[name]; !ok || still && (g < low-1e-6 || g > high+1e-6) {
			t.Errorf("%s is %v (read: %v), the file says %v, then %v", name, g, ok, low, high)
		}
		metric, _, _ := strings.Cut(name, "{")
		shown[metric] = true
	}
	t.Logf("%d values of %d metrics agree", len(before), len(shown))
	if len(shown) < 5 {
		t.Errorf("only %v were compared", shown)
	}
	load := words(t, "/proc/loadavg")[0]
	for i, name := range []string{"1m", "5m", "15m"} {
		if g := got["system.cpu.load_average."+name]; g < num(t, load[i])*0.8-0.5 || g > num(t, load[i])*1.2+0.5 {
			t.Errorf("load average of %s is %v, the file says %s", name, g, load[i])
		}
	}
	if g := got["system.memory.linux.available"]; g <= 0 || g > got["system.memory.limit"] {
		t.Errorf("%v bytes are available of %v", g, got["system.memory.limit"])
	}
	all := 0.0
	for deadline := time.Now().Add(10 * time.Second); all == 0 && time.Now().Before(deadline); got = take(read) { // a tick is 10 ms
		for name, v := range got {
			if strings.HasPrefix(name, "system.cpu.utilization{") {
				all += v
			}
		}
	}
	if all < 0.99 || all > 1.01 {
		t.Errorf("utilizations add up to %v", all)
	}
}

// TestOwnNetwork: a process in a network namespace of its own has that one's traffic.
func TestOwnNetwork(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	key := start(t, "unshare", "-n", "bash", "-c", "ip link set lo up && echo x > /dev/udp/127.0.0.1/9; exec cat")
	dev := fmt.Sprintf("/proc/%d/net/dev", key.PID)
	const name = "container.network.io{network.interface.name=lo,network.io.direction=transmit}"
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", key.PID))
		if err == nil && string(comm) == "cat\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the process is %q: %v", comm, err)
		}
	}
	read, _ := source(t).Open(key)
	got := take(read)
	if want := interfaces(t, dev, map[string]int{"container.network.io": 0}); got[name] != want[name] || want[name] == 0 {
		t.Errorf("%s is %v, the file says %v", name, got[name], want[name])
	}
}

// TestStartTime compares with what ps says.
func TestStartTime(t *testing.T) {
	key := idle(t)
	read, _ := source(t).Open(key)
	got := take(read)["process.start_time"]
	out, err := exec.Command("date", "-d", strings.TrimSpace(psField(t, key.PID, "lstart")), "+%s").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := num(t, strings.TrimSpace(string(out))); got < want-2 || got > want+2 {
		t.Errorf("started at %v, ps says %v", got, want)
	}
}

func psField(t *testing.T, pid int32, name string) string {
	t.Helper()
	out, err := exec.Command("ps", "-o", name+"=", "-p", strconv.Itoa(int(pid))).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
