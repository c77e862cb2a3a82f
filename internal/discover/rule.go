package discover

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/hostuser"
	"github.com/tracer-agent/tracer-agent/internal/policy"
)

// Pod is what selectors ask of a process's pod.
type Pod struct {
	Namespace, Name string
	// Owners are the pod's owners by kind, the pod itself included: ReplicaSet and
	// Deployment, Job and CronJob.
	Owners              map[string]string
	Labels, Annotations map[string]string
	Container           string
}

// Pods finds the pod of a container. known is false while it may still turn up: then
// the supervisor is told when it does. Nil and known: there is none.
type Pods interface {
	PodOf(containerID string) (pod *Pod, known bool)
}

// answer of a rule about a process.
type answer uint8

const (
	no answer = iota
	yes
	unknown // until Kubernetes has answered
)

// rule is a config.Match, compiled.
type rule struct {
	m                   config.Match
	exes                []glob
	cmdline             *glob
	cgroup, container   *glob
	uid                 string
	namespace, kind     *glob
	name, podContainer  *glob
	labels, annotations []pairGlob
	wantsPod            bool
}

type pairGlob struct {
	key   string
	value glob
}

func compileRule(m config.Match) (*rule, error) {
	r := &rule{m: m}
	for _, g := range []struct {
		dst     **glob
		pattern string
		compile func(string) (glob, error)
	}{
		{&r.cmdline, m.CommandLine, compileText}, {&r.cgroup, m.Cgroup, compilePath},
		{&r.container, m.Container, compileText}, {&r.namespace, m.K8s.Namespace, compileText}, {&r.kind, m.K8s.Kind, compileText},
		{&r.name, m.K8s.Name, compileText}, {&r.podContainer, m.K8s.Container, compileText},
	} {
		if g.pattern == "" {
			continue
		}
		c, err := g.compile(g.pattern)
		if err != nil {
			return nil, fmt.Errorf("selector: %w", err)
		}
		*g.dst = &c
	}
	var err error
	if r.exes, err = compileGlobs(m.Exes); err != nil {
		return nil, err
	}
	if r.labels, err = compilePairs(m.K8s.Labels); err != nil {
		return nil, err
	}
	if r.annotations, err = compilePairs(m.K8s.Annotations); err != nil {
		return nil, err
	}
	r.wantsPod = !m.K8s.Empty() || m.Container != ""
	if m.User != "" {
		if r.uid, err = hostuser.ID(m.User); err != nil {
			return nil, fmt.Errorf("selector: %w: user %q: %w", config.ErrInvalid, m.User, err)
		}
	}
	return r, nil
}

func compilePairs(pairs map[string]string) ([]pairGlob, error) {
	var out []pairGlob
	for key, pattern := range pairs {
		if pattern == "" {
			pattern = "*" // it is enough that there is one
		}
		g, err := compileText(pattern)
		if err != nil {
			return nil, fmt.Errorf("selector: %s: %w", key, err)
		}
		out = append(out, pairGlob{key, g})
	}
	return out, nil
}

// named says how the rule names a process, as Selection does it.
func (r *rule) named(p Process, ports []uint16) Reason {
	switch {
	case !r.m.Named():
		return BySelector
	case slices.Contains(r.m.PIDs, int(p.Key.PID)):
		return ByPID
	case slices.ContainsFunc(r.exes, func(g glob) bool { return g.match(p.Path) }):
		return ByExe
	case slices.ContainsFunc(ports, func(port uint16) bool { return slices.Contains(r.m.Ports, int(port)) }):
		return ByPort
	case r.m.AllGo:
		return ByAllGo
	}
	return NotSelected
}

// match compares in order of cost: what needs no file first, Kubernetes last.
func (r *rule) match(p Process, f *facts) answer {
	switch {
	case r.named(p, f.ports) == NotSelected,
		r.uid != "" && f.uid() != r.uid,
		r.cmdline != nil && !r.cmdline.match(f.commandLine()),
		r.cgroup != nil && !slices.ContainsFunc(f.cgroups(), r.cgroup.match):
		return no
	}
	if !r.wantsPod {
		return yes
	}
	return r.matchPod(f)
}

func (r *rule) matchPod(f *facts) answer {
	id := f.container()
	if id == "" {
		return no
	}
	const shortID = 12
	byID := r.container != nil && len(r.m.Container) >= shortID && strings.HasPrefix(id, r.m.Container)
	if byID && r.m.K8s.Empty() {
		return yes
	}
	if f.pods == nil {
		return no
	}
	pod, known := f.pods.PodOf(id)
	switch {
	case !known:
		return unknown
	case pod == nil:
		return no
	case r.container != nil && !byID && !r.container.match(pod.Container),
		r.namespace != nil && !r.namespace.match(pod.Namespace),
		r.podContainer != nil && !r.podContainer.match(pod.Container),
		!r.ownedAs(pod), !pairsMatch(r.labels, pod.Labels), !pairsMatch(r.annotations, pod.Annotations):
		return no
	}
	return yes
}

// ownedAs says whether one owner has the kind and the name.
func (r *rule) ownedAs(pod *Pod) bool {
	if r.kind == nil && r.name == nil {
		return true
	}
	for kind, name := range pod.Owners {
		if (r.kind == nil || r.kind.match(kind)) && (r.name == nil || r.name.match(name)) {
			return true
		}
	}
	return false
}

func pairsMatch(want []pairGlob, have map[string]string) bool {
	for _, w := range want {
		if v, ok := have[w.key]; !ok || !w.value.matchEmpty(v) {
			return false
		}
	}
	return true
}

// settings are a selector with its policy.
type settings struct {
	*rule
	policy *policy.Policy
	off    bool
}

// Selected is the answer of a Selector.
type Selected struct {
	Reason Reason
	// Policy holds for the process, set unless Reason is NotSelected.
	Policy *policy.Policy
	// Undecided: it depends on a pod that is not known yet.
	Undecided bool
}

// Rules are the selectors of a configuration.
type Rules struct {
	Instrument []config.Selector
	Exclude    []config.Match
	Pods       Pods
	// Policy makes the policy of a selector; nil makes the general one.
	Policy func(*config.Selector) *policy.Policy
}

// compile prepares the rules for matching.
func (s *Selector) compile(r Rules) error {
	s.pods = r.Pods
	if r.Policy == nil {
		r.Policy = func(*config.Selector) *policy.Policy { return &policy.Policy{} }
	}
	s.policy = r.Policy(nil)
	for i := range r.Instrument {
		c, err := compileRule(r.Instrument[i].Match)
		if err != nil {
			return err
		}
		in := &r.Instrument[i]
		s.instrument = append(s.instrument, settings{c, r.Policy(in), in.Enabled != nil && !*in.Enabled})
		s.ports = s.ports || len(in.Ports) > 0
	}
	for _, m := range r.Exclude {
		c, err := compileRule(m)
		if err != nil {
			return err
		}
		s.excludeRules = append(s.excludeRules, c)
		s.ports = s.ports || len(m.Ports) > 0
	}
	return nil
}

// byRules asks the selectors; decided is false where none fits.
func (s *Selector) byRules(p Process, f *facts) (sel Selected, decided bool) {
	undecided := false
	for _, r := range s.excludeRules {
		switch r.match(p, f) {
		case yes:
			return Selected{}, true
		case unknown:
			undecided = true
		}
	}
	for _, r := range s.instrument {
		switch a := r.match(p, f); {
		case a == unknown || a == yes && undecided:
			return Selected{Undecided: true}, true
		case a == yes && r.off:
			return Selected{}, true
		case a == yes:
			return Selected{Reason: r.reason(p, f.ports), Policy: r.policy}, true
		}
	}
	return Selected{Undecided: undecided}, undecided
}

// reason is how a process that matches is named; BySelector where that is not all.
func (r *rule) reason(p Process, ports []uint16) Reason {
	if why := r.named(p, ports); why == ByPID || !r.m.Narrowed() {
		return why
	}
	return BySelector
}

// facts are read from /proc when a rule asks for them, once.
type facts struct {
	pid   int32
	ports []uint16
	pods  Pods

	cmdlineRead, statusRead, cgroupRead bool
	cmdline, owner                      string
	groups                              []string
}

const (
	maxCommandLine = 4096
	maxCgroupFile  = 16 << 10
	maxStatus      = 16 << 10
)

func (f *facts) commandLine() string {
	if !f.cmdlineRead {
		f.cmdlineRead = true
		f.cmdline = strings.TrimRight(strings.ReplaceAll(f.read("cmdline", maxCommandLine), "\x00", " "), " ")
	}
	return f.cmdline
}

// uid is the effective user's number.
func (f *facts) uid() string {
	if !f.statusRead {
		f.statusRead = true
		f.owner = effectiveUser(f.read("status", maxStatus))
	}
	return f.owner
}

// effectiveUser is in a /proc/PID/status file, "" when it is not.
func effectiveUser(status string) string {
	for line := range strings.Lines(status) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			if all := strings.Fields(ids); len(all) > 1 && digitsOnly(all[1]) {
				return all[1]
			}
			return ""
		}
	}
	return ""
}

func (f *facts) cgroups() []string {
	if !f.cgroupRead {
		f.cgroupRead = true
		f.groups = cgroupPaths(f.read("cgroup", maxCgroupFile))
	}
	return f.groups
}

// container is the id of the innermost container, "" for none.
func (f *facts) container() string {
	for _, path := range f.cgroups() {
		if id := ContainerID(path); id != "" {
			return id
		}
	}
	return ""
}

func (f *facts) read(name string, limit int) string {
	file, err := os.Open(fmt.Sprintf("/proc/%d/%s", f.pid, name))
	if err != nil {
		return ""
	}
	defer file.Close()
	buf := make([]byte, limit)
	n := 0
	for n < limit {
		m, err := file.Read(buf[n:])
		n += m
		if err != nil || m == 0 {
			break
		}
	}
	return string(buf[:n])
}
