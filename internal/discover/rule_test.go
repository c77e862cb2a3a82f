package discover

import (
	"errors"
	"os"
	"os/user"
	"strconv"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/hostuser"
	"github.com/tracer-agent/tracer-agent/internal/policy"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// onePod knows one container's pod; others are unknown, or none when sure.
type onePod struct {
	id   string
	pod  *Pod
	sure bool
}

func (o onePod) PodOf(id string) (*Pod, bool) {
	if id == o.id {
		return o.pod, true
	}
	return nil, o.sure
}

// TestRule asks about this very process, with a cgroup as a container would have it.
func TestRule(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	cart := &Pod{
		Namespace: "shop", Name: "cart-abc", Owners: map[string]string{"Pod": "cart-abc", "ReplicaSet": "cart-1", "Deployment": "cart"},
		Labels: map[string]string{"app": "cart", "empty": ""}, Annotations: map[string]string{"trace": "yes/always"}, Container: "app",
	}
	p := Process{Key: telemetry.ProcessKey{PID: int32(os.Getpid())}, Path: "/srv/shop/api"}
	find := onePod{id: id, pod: cart}
	for _, tt := range []struct {
		name string
		m    config.Match
		pods Pods
		want answer
	}{
		{"pid", config.Match{PIDs: []int{1, os.Getpid()}}, nil, yes},
		{"other pid", config.Match{PIDs: []int{os.Getpid() + 1}}, nil, no},
		{"exe", config.Match{Exes: []string{"x", "/srv/**/api"}}, nil, yes},
		{"exe or port", config.Match{Exes: []string{"x"}, Ports: []int{80}}, nil, yes},
		{"neither", config.Match{Exes: []string{"x"}, Ports: []int{81}}, nil, no},
		{"exe, narrowed", config.Match{Exes: []string{"api"}, User: "4242"}, nil, no},
		{"every Go program, narrowed", config.Match{AllGo: true, CommandLine: "*test.*"}, nil, yes},
		{"command line", config.Match{CommandLine: "*test.*"}, nil, yes},
		{"command line with a slash", config.Match{CommandLine: "*/discover.test*"}, nil, yes},
		{"other command line", config.Match{CommandLine: "*--role=web"}, nil, no},
		{"user by number", config.Match{User: strconv.Itoa(os.Geteuid())}, nil, yes},
		{"other user", config.Match{User: "4242"}, nil, no},
		{"cgroup", config.Match{Cgroup: "/kubepods/**"}, nil, yes},
		{"other cgroup", config.Match{Cgroup: "/kubepods/*"}, nil, no},
		{"container id", config.Match{Container: id[:12]}, nil, yes},
		{"container id, too short", config.Match{Container: id[:11]}, nil, no},
		{"container name", config.Match{Container: "ap*"}, find, yes},
		{"no Kubernetes", config.Match{K8s: config.K8s{Namespace: "shop"}}, nil, no},
		{"namespace", config.Match{K8s: config.K8s{Namespace: "sh?p"}}, find, yes},
		{"deployment", config.Match{K8s: config.K8s{Kind: "Deployment", Name: "cart"}}, find, yes},
		{"kind and name of different owners", config.Match{K8s: config.K8s{Kind: "Deployment", Name: "cart-1"}}, find, no},
		{"labels", config.Match{K8s: config.K8s{Labels: map[string]string{"app": "c*", "empty": ""}}}, find, yes},
		{"missing label", config.Match{K8s: config.K8s{Labels: map[string]string{"tier": "*"}}}, find, no},
		{"annotation", config.Match{K8s: config.K8s{Annotations: map[string]string{"trace": "yes*"}}}, find, yes},
		{"pod not known yet", config.Match{K8s: config.K8s{Namespace: "shop"}}, onePod{}, unknown},
		{"no pod", config.Match{K8s: config.K8s{Namespace: "shop"}}, onePod{sure: true}, no},
		{"not known yet, but the executable is another", config.Match{Exes: []string{"x"}, K8s: config.K8s{Namespace: "shop"}}, onePod{}, no},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := compileRule(tt.m)
			if err != nil {
				t.Fatal(err)
			}
			f := &facts{pid: p.Key.PID, ports: []uint16{80}, pods: tt.pods, cgroupRead: true, groups: []string{"/", "/kubepods/pod1/" + id}}
			if got := r.match(p, f); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
	if _, err := compileRule(config.Match{User: "nobody-of-that-name"}); !errors.Is(err, hostuser.ErrUnknown) {
		t.Errorf("unknown user: %v", err)
	}
}

// TestRules: the first selector that fits counts, exclude and pids come first.
func TestRules(t *testing.T) {
	off := false
	rules := Rules{
		Instrument: []config.Selector{
			{Match: config.Match{Exes: []string{"off"}}, Enabled: &off},
			{Match: config.Match{Exes: []string{"a*"}}, Service: config.Service{Name: "first"}},
			{Match: config.Match{Exes: []string{"a*"}, PIDs: []int{7}}, Service: config.Service{Name: "second"}},
			{Match: config.Match{PIDs: []int{8}}, Service: config.Service{Name: "third"}},
		},
		Exclude: []config.Match{{Exes: []string{"app-test"}}},
		Policy: func(s *config.Selector) *policy.Policy {
			cfg := config.Default()
			return policy.New(&cfg, s)
		},
	}
	s, err := NewSelector(Selection{PIDs: []int32{8, 9}, AllGo: true, Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		pid     int32
		path    string
		reason  Reason
		service string
	}{
		{7, "/app", ByPID, "second"},
		{6, "/app", ByExe, "first"},
		{8, "/app", ByPID, "third"},
		{8, "/other", ByPID, "third"},
		{9, "/off", ByPID, ""},
		{9, "/app", ByPID, "first"},
		{1, "/off", NotSelected, ""},
		{1, "/app-test", NotSelected, ""},
		{1, "/other", ByAllGo, ""},
	} {
		got := s.Select(Process{Key: telemetry.ProcessKey{PID: tt.pid}, Path: tt.path}, nil)
		service := ""
		if got.Policy != nil {
			service = got.Policy.Service.Name
		}
		if got.Reason != tt.reason || service != tt.service {
			t.Errorf("%d %s: %q as %q, want %q as %q", tt.pid, tt.path, got.Reason, service, tt.reason, tt.service)
		}
	}
}

// FuzzCgroups: /proc/PID/cgroup is the kernel's text, but a cgroup's name is anybody's.
func FuzzCgroups(f *testing.F) {
	f.Add("12:pids:/kubepods/burstable/pod1/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n0::/\n")
	f.Add("::\n:::x")
	f.Fuzz(func(t *testing.T, file string) {
		for _, path := range cgroupPaths(file) {
			if id := ContainerID(path); id != "" && !strings.Contains(path, id) {
				t.Errorf("container %q is not in %q", id, path)
			}
		}
	})
}

func FuzzEffectiveUser(f *testing.F) {
	f.Add("Name:\tapi\\nUid:\t1\t2\nUid:\t1000\t1001\t1002\t1003\nGid:\t0\n")
	f.Add("Uid:\tx\ty\n")
	f.Add("Uid:")
	f.Fuzz(func(t *testing.T, status string) {
		if u := effectiveUser(status); u != "" && !digitsOnly(u) {
			t.Errorf("user %q", u)
		}
	})
}

// TestEachSelector: every condition, alone, instruments and excludes what it fits and
// nothing else.
func TestEachSelector(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	k8s := func(k config.K8s) config.Match { return config.Match{K8s: k} }
	p := Process{Key: telemetry.ProcessKey{PID: int32(os.Getpid())}, Path: "/srv/shop/api"}
	for _, tt := range []struct {
		name        string
		fits, fits2 config.Match
		misses      config.Match
	}{
		{"pid", config.Match{PIDs: []int{os.Getpid()}}, config.Match{PIDs: []int{1, os.Getpid()}}, config.Match{PIDs: []int{1}}},
		{"exe", config.Match{Exes: []string{"/srv/**/a*"}}, config.Match{Exes: []string{"api"}}, config.Match{Exes: []string{"/srv/a*"}}},
		{"command line", config.Match{CommandLine: "*" + os.Args[0] + "*"}, config.Match{CommandLine: "?*"}, config.Match{CommandLine: os.Args[0] + "x*"}},
		{"port", config.Match{Ports: []int{80}}, config.Match{Ports: []int{443, 80}}, config.Match{Ports: []int{443}}},
		{"user", config.Match{User: me.Username}, config.Match{User: me.Uid}, config.Match{User: "nobody"}},
		{"cgroup", config.Match{Cgroup: "/kubepods/*/*"}, config.Match{Cgroup: "/kubepods/**"}, config.Match{Cgroup: "/system.slice/*"}},
		{"container", config.Match{Container: "app"}, config.Match{Container: id[:12]}, config.Match{Container: "sidecar"}},
		{"namespace", k8s(config.K8s{Namespace: "shop"}), k8s(config.K8s{Namespace: "s*"}), k8s(config.K8s{Namespace: "default"})},
		{"kind", k8s(config.K8s{Kind: "Deployment"}), k8s(config.K8s{Kind: "Pod"}), k8s(config.K8s{Kind: "StatefulSet"})},
		{"name", k8s(config.K8s{Name: "cart"}), k8s(config.K8s{Name: "cart-*"}), k8s(config.K8s{Name: "car"})},
		{"label", k8s(config.K8s{Labels: map[string]string{"app": "cart"}}), k8s(config.K8s{Labels: map[string]string{"app": ""}}), k8s(config.K8s{Labels: map[string]string{"app": "shop"}})},
		{"annotation", k8s(config.K8s{Annotations: map[string]string{"trace": "yes"}}), k8s(config.K8s{Annotations: map[string]string{"trace": "*"}}), k8s(config.K8s{Annotations: map[string]string{"trace": "no"}})},
		{"container of the pod", k8s(config.K8s{Container: "app"}), k8s(config.K8s{Container: "a*"}), k8s(config.K8s{Container: "sidecar"})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pods := onePod{id: id, pod: &Pod{
				Namespace: "shop", Name: "cart-abc", Owners: map[string]string{"Pod": "cart-abc", "Deployment": "cart"},
				Labels: map[string]string{"app": "cart"}, Annotations: map[string]string{"trace": "yes"}, Container: "app",
			}}
			selected := func(r Rules) bool {
				t.Helper()
				s, err := NewSelector(Selection{Rules: r})
				if err != nil {
					t.Fatal(err)
				}
				f := &facts{pid: p.Key.PID, ports: []uint16{80}, pods: pods, cgroupRead: true, groups: []string{"/kubepods/pod1/" + id}}
				sel, _ := s.byRules(p, f)
				return sel.Reason != NotSelected
			}
			off := false
			other := []config.Selector{{Match: config.Match{AllGo: true}}}
			for m, fits := range map[*config.Match]bool{&tt.fits: true, &tt.fits2: true, &tt.misses: false} {
				if got := selected(Rules{Instrument: []config.Selector{{Match: *m}}}); got != fits {
					t.Errorf("instrument %+v: %v, want %v", *m, got, fits)
				}
				if got := selected(Rules{Instrument: other, Exclude: []config.Match{*m}}); got == fits {
					t.Errorf("exclude %+v: watched: %v, want %v", *m, got, !fits)
				}
				first := append([]config.Selector{{Match: *m, Enabled: &off}}, other...)
				if got := selected(Rules{Instrument: first}); got == fits {
					t.Errorf("enabled: false %+v: watched: %v, want %v", *m, got, !fits)
				}
			}
		})
	}
}
