package dbpool

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// nsPerTick is the unit of /proc/PID/stat's start time.
const nsPerTick = 10_000_000

// startTicks is when a process began.
func startTicks(pid int32) (uint64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStart(raw)
}

// parseStart reads field 22 of /proc/PID/stat; the second one, a name, may hold anything.
func parseStart(stat []byte) (uint64, error) {
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(f) < 20 {
		return 0, fmt.Errorf("/proc/PID/stat has %d fields", len(f))
	}
	return strconv.ParseUint(string(f[19]), 10, 64)
}
