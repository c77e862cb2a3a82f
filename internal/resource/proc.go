package resource

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/tracer-agent/tracer-agent/internal/config"
)

const (
	maxPasswdBytes = 1 << 20
	maxLineBytes   = 256
)

// words are what a process says about itself in its environment.
type words struct {
	service    string
	attributes map[string]string
}

// ownWords reads the environment the process was started with, as much of it
// as procfs gives (1 MiB).
func ownWords(proc procfs.Proc) words {
	environ, err := proc.Environ()
	if err != nil {
		return words{}
	}
	return parseEnviron(environ)
}

// parseEnviron finds the standard variables; the first of several counts, as
// in os.Getenv. A malformed OTEL_RESOURCE_ATTRIBUTES is ignored whole, as the
// specification says.
func parseEnviron(environ []string) words {
	var w words
	service, attributes := "", ""
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "OTEL_SERVICE_NAME="); ok && service == "" {
			service = v
		}
		if v, ok := strings.CutPrefix(kv, "OTEL_RESOURCE_ATTRIBUTES="); ok && attributes == "" {
			attributes = v
		}
	}
	w.service = strings.TrimSpace(service)
	if pairs, err := config.ParsePairs(attributes); err == nil {
		w.attributes = pairs
	}
	return w
}

// containerID finds the container in a cgroup path, version 1 or 2, as Docker,
// containerd, CRI-O, podman and ECS write it; empty when there is none. The
// innermost container counts.
func containerID(cgroup string) string {
	for cgroup != "" {
		i := strings.LastIndexByte(cgroup, '/')
		if id := containerName(cgroup[i+1:]); id != "" {
			return id
		}
		cgroup = cgroup[:max(i, 0)]
	}
	return ""
}

// containerName reads one path element: ID, docker-ID.scope,
// cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope, and containerd's
// "slice:cri-containerd:ID".
func containerName(elem string) string {
	elem = strings.TrimSuffix(elem, ".scope")
	if i := strings.LastIndexByte(elem, ':'); i >= 0 {
		elem = elem[i+1:]
	}
	prefix := ""
	if i := strings.LastIndexByte(elem, '-'); i >= 0 {
		if ecs := elem[:i]; len(ecs) == 32 && hexOnly(ecs) && digitsOnly(elem[i+1:]) {
			return elem
		}
		prefix, elem = elem[:i], elem[i+1:]
	}
	// conmon watches a container from outside, in a cgroup named after it.
	if len(elem) != 64 || !hexOnly(elem) || strings.HasSuffix(prefix, "conmon") {
		return ""
	}
	return elem
}

func hexOnly(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

func digitsOnly(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// parsePasswd maps numeric user ids to names.
func parsePasswd(data []byte) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(line, ":")
		if len(f) < 3 || f[0] == "" || !digitsOnly(f[2]) {
			continue
		}
		if _, ok := out[f[2]]; !ok {
			out[f[2]] = f[0]
		}
	}
	return out
}

// firstLine is the first line of the first file that has one.
func firstLine(paths ...string) string {
	for _, p := range paths {
		data, err := readBounded(p, maxLineBytes)
		if err != nil {
			continue
		}
		line, _, _ := strings.Cut(string(data), "\n")
		if line = strings.TrimSpace(line); line != "" {
			return bounded(line)
		}
	}
	return ""
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}
