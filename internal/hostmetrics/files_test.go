package hostmetrics

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
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
