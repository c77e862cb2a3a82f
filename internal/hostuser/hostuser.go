// Package hostuser knows the users of the host, as far as their names stand in its
// passwd file; it asks no directory service.
package hostuser

import (
	"errors"
	"io"
	"os"
	"strings"
)

const maxPasswdBytes = 1 << 20

// files in order: PID 1's view is the host's, also when the agent runs in a container.
var files = []string{"/proc/1/root/etc/passwd", "/etc/passwd"}

// ErrUnknown says that a name is not in the host's passwd file.
var ErrUnknown = errors.New("not in the host's /etc/passwd; use the number")

// ID returns the number of a user by name; a number is its own.
func ID(name string) (string, error) {
	if numeric(name) {
		return name, nil
	}
	for _, file := range files {
		data, err := read(file)
		if err != nil {
			continue
		}
		for uid, n := range Parse(data) {
			if n == name {
				return uid, nil
			}
		}
	}
	return "", ErrUnknown
}

// Parse maps numeric user ids to names; the first name of an id counts.
func Parse(passwd []byte) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(string(passwd)) {
		f := strings.Split(line, ":")
		if len(f) < 3 || f[0] == "" || !numeric(f[2]) {
			continue
		}
		if _, ok := out[f[2]]; !ok {
			out[f[2]] = f[0]
		}
	}
	return out
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPasswdBytes))
}

func numeric(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
