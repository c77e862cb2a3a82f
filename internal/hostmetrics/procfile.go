package hostmetrics

import (
	"bytes"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// The files of every process that are read each time are parsed here, and no more of
// them than is used: package procfs, which reads the others, takes ten times as long.

// errFormat says that a file of /proc is not as it is documented.
var errFormat = errors.New("unexpected format")

// maxProcFile bounds the files; those of a process are some hundred bytes.
const maxProcFile = 16 << 10

// procFile reads files into one buffer.
type procFile struct{ buf []byte }

// read returns a file's content, which is only good until the next read. It does not
// use the runtime's poller, which a file of the kernel's has no use for.
func (p *procFile) read(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if p.buf == nil {
		p.buf = make([]byte, maxProcFile)
	}
	for n := 0; n < len(p.buf); {
		switch m, err := unix.Read(fd, p.buf[n:]); {
		case err == unix.EINTR:
		case err != nil:
			return nil, err
		case m == 0:
			return p.buf[:n], nil
		default:
			n += m
		}
	}
	return nil, errFormat
}

// procStat is what is used of /proc/PID/stat.
type procStat struct {
	minFlt, majFlt, utime, stime, threads, start, vsize uint64
}

// parseStat reads "pid (name) state ppid ..."; the name may hold anything.
func parseStat(data []byte) (s procStat, err error) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return s, errFormat
	}
	rest := data[end+1:]
	// Numbered from 1 in proc(5); the first after the name is 3.
	for field := 3; field <= 23; field++ {
		rest = bytes.TrimLeft(rest, " ")
		word, after, _ := bytes.Cut(rest, []byte(" "))
		rest = after
		var to *uint64
		switch field {
		case 10:
			to = &s.minFlt
		case 12:
			to = &s.majFlt
		case 14:
			to = &s.utime
		case 15:
			to = &s.stime
		case 20:
			to = &s.threads
		case 22:
			to = &s.start
		case 23:
			to = &s.vsize
		default:
			continue
		}
		if *to, err = strconv.ParseUint(string(bytes.TrimSpace(word)), 10, 64); err != nil {
			return procStat{}, errFormat
		}
	}
	return s, nil
}

// lineValue finds the number in the line "key: number" of a file such as status or io.
func lineValue(data []byte, key string) (uint64, bool) {
	for len(data) > 0 {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		data = rest
		if len(line) <= len(key) || line[len(key)] != ':' || string(line[:len(key)]) != key {
			continue
		}
		value, _, _ := bytes.Cut(bytes.TrimLeft(line[len(key)+1:], " \t"), []byte(" "))
		n, err := strconv.ParseUint(string(value), 10, 64)
		return n, err == nil
	}
	return 0, false
}

// parseSchedstat reads the second number, the time that a thread waited.
func parseSchedstat(data []byte) (waitNs uint64, err error) {
	f := bytes.Fields(data)
	if len(f) < 3 {
		return 0, errFormat
	}
	return strconv.ParseUint(string(f[1]), 10, 64)
}

// threadIDs lists a process's threads, at most maxThreads.
func threadIDs(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(maxThreads + 1)
	if err != nil || len(names) > maxThreads {
		return nil, errors.Join(err, errFormat)
	}
	return names, nil
}
