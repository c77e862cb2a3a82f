package discover

import (
	"slices"
	"strings"
)

// cgroupPaths are the paths in a /proc/PID/cgroup file, each once: lines of
// hierarchy:controllers:path, of version 1, 2 or both.
func cgroupPaths(file string) []string {
	var out []string
	for line := range strings.Lines(file) {
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(f) == 3 && !slices.Contains(out, f[2]) {
			out = append(out, f[2])
		}
	}
	return out
}

// ContainerOf is the id of the container that a process runs in, "" for none.
func ContainerOf(pid int32) string { return (&facts{pid: pid}).container() }

// ContainerID finds the container in a cgroup path, version 1 or 2, as Docker,
// containerd, CRI-O, podman and ECS write it; empty when there is none. The
// innermost container counts.
func ContainerID(cgroup string) string {
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
