package config

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Match says which processes a selector is for: one of PIDs, Exes, Ports or AllGo names
// it, if any of them is given, and all else that is said holds.
type Match struct {
	PIDs  []int    `yaml:"pids"`
	Exes  []string `yaml:"exes"`
	Ports []int    `yaml:"ports"`
	AllGo bool     `yaml:"all_go"`
	// CommandLine is a pattern over the arguments joined by spaces, where * matches
	// anything.
	CommandLine string `yaml:"command_line"`
	// User is the name or number of the effective user.
	User string `yaml:"user"`
	// Cgroup is a pattern over the process's cgroup path, for example
	// /system.slice/shop.service.
	Cgroup string `yaml:"cgroup"`
	// Container is a pattern over the name of the Kubernetes container, or the
	// beginning of a container's id, at least 12 digits.
	Container string `yaml:"container"`
	K8s       K8s    `yaml:"k8s"`
}

// K8s selects by what Kubernetes says about a process's pod. All are patterns.
type K8s struct {
	Namespace string `yaml:"namespace"`
	// Kind and Name are the owner's, for example Deployment and cart; kind Pod is the pod itself.
	Kind        string            `yaml:"kind"`
	Name        string            `yaml:"name"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
	Container   string            `yaml:"container"`
}

// Empty says that nothing is asked of the pod.
func (k K8s) Empty() bool {
	return k.Namespace == "" && k.Kind == "" && k.Name == "" && len(k.Labels) == 0 && len(k.Annotations) == 0 && k.Container == ""
}

// Named says that processes are named as Select does it.
func (m Match) Named() bool { return len(m.PIDs) > 0 || len(m.Exes) > 0 || len(m.Ports) > 0 || m.AllGo }

// Narrowed says that there are further conditions.
func (m Match) Narrowed() bool {
	return m.CommandLine != "" || m.User != "" || m.Cgroup != "" || m.Container != "" || !m.K8s.Empty()
}

// Selector watches the processes that match, with settings of their own. The first
// selector that fits a process counts.
type Selector struct {
	Match `yaml:",inline"`
	// Enabled: false leaves the processes alone.
	Enabled *bool   `yaml:"enabled"`
	Service Service `yaml:"service"`
	// Sampling keeps a share of what the general sampler has kept.
	Sampling SelectorSampling `yaml:"sampling"`
	// Propagation overrules Config.Propagation.
	Propagation SelectorPropagation `yaml:"propagation"`
	// Probes switches probes by name.
	Probes map[string]bool `yaml:"probes"`
	Redact SelectorRedact  `yaml:"redact"`
	// Exporting: watch these also when they export spans of their own.
	Exporting *bool `yaml:"exporting"`
}

// SelectorPropagation is the part of Propagation that may differ between processes.
type SelectorPropagation struct {
	// Mode is one of the Propagate constants; empty: as for all others.
	Mode string `yaml:"mode"`
}

// SelectorSampling is the share of traces kept, by trace id.
type SelectorSampling struct {
	Ratio *float64 `yaml:"ratio"`
}

// SelectorRedact is what else is left out of spans.
type SelectorRedact struct {
	// QueryNames are further names of query parameters whose values are secret.
	QueryNames []string `yaml:"query_names"`
	// QueryText: true leaves db.query.text out.
	QueryText bool `yaml:"query_text"`
}

// maxSelectors bounds what every process of the host is compared with.
const maxSelectors = 256

func (l *loader) validateSelectors() error {
	var errs []error
	if n := len(l.cfg.Instrument) + len(l.cfg.Exclude); n > maxSelectors {
		errs = append(errs, l.invalid("instrument", "%d selectors with those of exclude: at most %d", n, maxSelectors))
	}
	errs = append(errs, l.probes("probes", l.cfg.Probes))
	for i := range l.cfg.Instrument {
		s := &l.cfg.Instrument[i]
		key := fmt.Sprintf("instrument[%d]", i)
		errs = append(errs, l.match(key, &s.Match), l.probes(key, s.Probes))
		if r := s.Sampling.Ratio; r != nil && !(*r >= 0 && *r <= 1) {
			errs = append(errs, l.invalid(key, "sampling.ratio %v: want a number from 0 to 1", *r))
		}
		if p := s.Propagation.Mode; p != "" && !slices.Contains(propagationModes, p) {
			errs = append(errs, l.invalid(key, "propagation.mode %q: want one of %s", p, strings.Join(propagationModes, ", ")))
		}
	}
	for i := range l.cfg.Exclude {
		errs = append(errs, l.match(fmt.Sprintf("exclude[%d]", i), &l.cfg.Exclude[i]))
	}
	return errors.Join(errs...)
}

func (l *loader) probes(key string, probes map[string]bool) error {
	for _, name := range slices.Sorted(maps.Keys(probes)) {
		if len(l.probeNames) > 0 && !slices.Contains(l.probeNames, name) {
			return l.invalid(key, "probe %q: want one of %s", name, strings.Join(l.probeNames, ", "))
		}
	}
	return nil
}

func (l *loader) match(key string, m *Match) error {
	if !m.Named() && !m.Narrowed() {
		return l.invalid(key, "names no process: want pids, exes, ports, all_go, or another condition")
	}
	errs := []error{l.named(key, key, key, m.PIDs, m.Ports, m.Exes)}
	patterns := map[string]string{
		"command_line": m.CommandLine, "cgroup": m.Cgroup, "container": m.Container,
		"k8s.namespace": m.K8s.Namespace, "k8s.kind": m.K8s.Kind, "k8s.name": m.K8s.Name, "k8s.container": m.K8s.Container,
	}
	for where, from := range map[string]map[string]string{"k8s.labels.": m.K8s.Labels, "k8s.annotations.": m.K8s.Annotations} {
		for name, p := range from {
			patterns[where+name] = p
		}
	}
	for _, name := range slices.Sorted(maps.Keys(patterns)) {
		if _, err := path.Match(patterns[name], ""); err != nil {
			errs = append(errs, l.invalid(key, "%s: pattern %q: %v", name, patterns[name], err))
		}
	}
	return errors.Join(errs...)
}
