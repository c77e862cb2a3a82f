package resource

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/procfs"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/hostuser"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// child starts a process that waits for its standard input to close.
func child(t *testing.T, env []string, args ...string) telemetry.ProcessKey {
	t.Helper()
	cmd := exec.Command("/bin/cat")
	cmd.Args = append([]string{"/bin/cat"}, args...)
	if len(args) == 0 {
		cmd.Args = append(cmd.Args, "-")
	}
	cmd.Env = env
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	// Start returns when execve has closed its pipe, a little before the new program's
	// environment is in its place: only what the program says proves that it runs.
	if _, err := in.Write([]byte{'x'}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return keyOf(t, cmd.Process.Pid)
}

func keyOf(t *testing.T, pid int) telemetry.ProcessKey {
	t.Helper()
	p, err := procfs.NewProc(pid)
	if err != nil {
		t.Fatal(err)
	}
	stat, err := p.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return telemetry.ProcessKey{PID: int32(pid), StartNs: stat.Starttime*nsPerTick + 12345}
}

func builder(t *testing.T, o Options) *Builder {
	t.Helper()
	b, err := NewBuilder(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func build(t *testing.T, b *Builder, p Process) map[string]string {
	t.Helper()
	r, err := b.Build(p)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range r.Attributes {
		if _, dup := out[string(kv.Key)]; dup {
			t.Errorf("attribute %s is there twice", kv.Key)
		}
		out[string(kv.Key)] = kv.Value.String()
	}
	return out
}

func TestPrecedence(t *testing.T) {
	service := config.Service{Name: "from-config", Attributes: map[string]string{"deployment.environment.name": "prod", "team": "a"}}
	tests := []struct {
		name    string
		env     []string
		service config.Service
		want    map[string]string
	}{
		{"executable", nil, config.Service{}, map[string]string{"service.name": "cat"}},
		{"config", nil, service, map[string]string{"service.name": "from-config", "deployment.environment.name": "prod"}},
		{"own attributes", []string{"OTEL_RESOURCE_ATTRIBUTES=service.name=own%20ra,team=b,host.name=h"}, service,
			map[string]string{"service.name": "own ra", "team": "b", "deployment.environment.name": "prod", "host.name": "h"}},
		{"own name", []string{"OTEL_RESOURCE_ATTRIBUTES=service.name=ra", "OTEL_SERVICE_NAME=own"}, service,
			map[string]string{"service.name": "own"}},
		{"malformed attributes", []string{"OTEL_RESOURCE_ATTRIBUTES=service.name=ra,broken"}, service,
			map[string]string{"service.name": "from-config"}},
		{"version", []string{"OTEL_RESOURCE_ATTRIBUTES=service.version=7"}, service, map[string]string{"service.version": "7"}},
		{"not ours to lie about", []string{"OTEL_RESOURCE_ATTRIBUTES=telemetry.sdk.name=x"}, service,
			map[string]string{"telemetry.sdk.name": "tracer-agent"}},
		{"not UTF-8", []string{"OTEL_SERVICE_NAME=a\xffb"}, service, map[string]string{"service.name": "a\uFFFDb"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := builder(t, Options{Service: tt.service, AgentVersion: "1.2.3"})
			got := build(t, b, Process{Key: child(t, tt.env), ModuleVersion: "v1.0.0"})
			for key, want := range tt.want {
				if got[key] != want {
					t.Errorf("%s = %q, want %q", key, got[key], want)
				}
			}
		})
	}
}

func TestProcessAttributes(t *testing.T) {
	key := child(t, nil, "-", "/dev/null")
	b := builder(t, Options{AgentVersion: "1.2.3"})
	got := build(t, b, Process{Key: key, GoVersion: "go1.26.1", ModuleVersion: "(devel)"})
	host, _ := os.Hostname()
	exe, _ := filepath.EvalSymlinks("/bin/cat")
	want := map[string]string{
		"process.command": "/bin/cat", "process.executable.name": "cat", "process.executable.path": exe,
		"process.runtime.name": "go", "process.runtime.version": "go1.26.1", "process.owner": "root", "os.type": "linux",
		"host.name": host, "telemetry.distro.name": "tracer-agent", "telemetry.distro.version": "1.2.3", "service.version": "",
	}
	if os.Getuid() != 0 {
		delete(want, "process.owner")
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s = %q, want %q", k, got[k], v)
		}
	}
	for k, v := range got {
		if strings.Contains(v, "/dev/null") {
			t.Errorf("%s = %q shows an argument", k, v)
		}
	}
	if id := got["service.instance.id"]; len(id) != 36 {
		t.Errorf("service.instance.id = %q, want a UUID", id)
	}
	again := build(t, builder(t, Options{}), Process{Key: key})
	if again["service.instance.id"] != got["service.instance.id"] {
		t.Error("service.instance.id differs for the same process")
	}
	other := build(t, b, Process{Key: child(t, nil)})
	if other["service.instance.id"] == got["service.instance.id"] {
		t.Error("service.instance.id is the same for two processes")
	}
}

func TestGone(t *testing.T) {
	b := builder(t, Options{})
	key := child(t, nil)
	reused := key
	reused.StartNs -= 50 * nsPerTick
	if _, err := b.Build(Process{Key: reused}); !errors.Is(err, ErrGone) {
		t.Errorf("other start time: %v, want ErrGone", err)
	}
	if _, err := b.Build(Process{Key: telemetry.ProcessKey{PID: 1 << 22}}); !errors.Is(err, ErrGone) {
		t.Errorf("no such pid: %v, want ErrGone", err)
	}
	cmd := exec.Command("/bin/true") // a zombie until Wait
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, err := b.Build(Process{Key: telemetry.ProcessKey{PID: int32(cmd.Process.Pid)}})
		if errors.Is(err, ErrGone) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("zombie: %v, want ErrGone", err)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestHugeEnvironment(t *testing.T) {
	env := []string{"OTEL_SERVICE_NAME=" + strings.Repeat("n", 5000)}
	for range 12 {
		env = append(env, "PAD="+strings.Repeat("x", 120_000))
	}
	var pairs []string
	for i := range 1000 {
		pairs = append(pairs, "k"+strings.Repeat("i", i%7)+string(rune('a'+i%26))+strings.Repeat("z", i/26)+"=v")
	}
	env = append([]string{"OTEL_RESOURCE_ATTRIBUTES=" + strings.Join(pairs, ",")}, env...)
	got := build(t, builder(t, Options{}), Process{Key: child(t, env)})
	if n := len(got["service.name"]); n != maxTextBytes {
		t.Errorf("service.name has %d bytes, want it cut at %d", n, maxTextBytes)
	}
	if len(got) > maxAttributes+20 {
		t.Errorf("%d attributes, want at most %d of the process's own", len(got), maxAttributes)
	}
}

func TestContainerID(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	other := strings.Repeat("fedcba9876543210", 4)
	tests := []struct{ name, in, want string }{
		{"root", "/", ""},
		{"none", "/user.slice/user-0.slice/session-1.scope", ""},
		{"docker v1", "/docker/" + id, id},
		{"docker systemd", "/system.slice/docker-" + id + ".scope", id},
		{"kubernetes v1", "/kubepods/besteffort/pod2c48913c-b29f-11e7-9350-020968147796/" + id, id},
		{"containerd systemd", "/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope", id},
		{"containerd colon", "/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:" + id, id},
		{"crio", "/kubepods.slice/kubepods-pod1.slice/crio-" + id + ".scope", id},
		{"crio child", "/kubepods.slice/crio-" + id + ".scope/container", id},
		{"conmon", "/kubepods.slice/crio-conmon-" + id + ".scope", ""},
		{"podman", "/machine.slice/libpod-" + id + ".scope/container", id},
		{"nested", "/docker/" + id + "/kubepods/pod1/" + other, other},
		{"namespaced", "/../../kubepods-pod1.slice/cri-containerd-" + id + ".scope", id},
		{"ecs", "/ecs/55091c13-b8cf-4801-b527-f4601742204d/" + id[:32] + "-1234567890", id[:32] + "-1234567890"},
		{"too long", "/docker/" + id + "0", ""},
		{"capitals", "/docker/" + strings.ToUpper(id), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := discover.ContainerID(tt.in); got != tt.want {
				t.Errorf("discover.ContainerID(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestPasswd(t *testing.T) {
	got := hostuser.Parse([]byte("root:x:0:0:root:/root:/bin/sh\nbroken\n:x:5:\napp:x:1000:1000::/:\ntwin:x:1000:1::/:\nx:y:-1:\nlast:x:7"))
	want := map[string]string{"0": "root", "1000": "app"}
	want["7"] = "last"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestStore(t *testing.T) {
	s := NewStore()
	now := time.Unix(1000, 0)
	s.now = func() time.Time { return now }
	a, b := telemetry.ProcessKey{PID: 1, StartNs: 1}, telemetry.ProcessKey{PID: 1, StartNs: 2}
	ra, rb := &telemetry.Resource{}, &telemetry.Resource{SchemaURL: "b"}
	s.Put(a, ra)
	s.Put(b, rb)
	if s.ResourceOf(a) != ra || s.ResourceOf(b) != rb {
		t.Fatal("a pid used twice is confused")
	}
	s.Remove(a)
	if s.ResourceOf(a) != ra {
		t.Error("forgotten at once: records may still be on their way")
	}
	now = now.Add(lateGrace + time.Second)
	s.Remove(telemetry.ProcessKey{PID: 99})
	if s.ResourceOf(a) != nil {
		t.Error("not forgotten after the grace period")
	}
	for i := range maxProcesses + 10 {
		s.Put(telemetry.ProcessKey{PID: int32(i + 10)}, ra)
	}
	if n := len(s.entries); n != maxProcesses {
		t.Errorf("%d entries, want %d", n, maxProcesses)
	}
	if s.Evicted() != 11 {
		t.Errorf("%d evicted, want 11", s.Evicted())
	}
}

func FuzzContainerID(f *testing.F) {
	f.Add("/docker/" + strings.Repeat("a", 64))
	f.Add("///:-.scope")
	f.Fuzz(func(t *testing.T, s string) {
		id := discover.ContainerID(s)
		if id == "" {
			return
		}
		if !strings.Contains(s, id) || len(id) < 34 || len(id) > 64 && !strings.Contains(id, "-") {
			t.Errorf("discover.ContainerID(%q) = %q", s, id)
		}
	})
}

func FuzzEnviron(f *testing.F) {
	f.Add("OTEL_SERVICE_NAME=a\x00OTEL_RESOURCE_ATTRIBUTES=b=c,d=%20")
	f.Add("OTEL_RESOURCE_ATTRIBUTES==,=,%")
	f.Fuzz(func(t *testing.T, s string) {
		w := parseEnviron(strings.Split(s, "\x00"))
		var set set
		set.text("service.name", w.service)
		set.texts(w.attributes)
		for _, kv := range set.sorted() {
			if v := kv.Value.AsString(); v == "" || len(v) > 3*maxTextBytes || !utf8.ValidString(v) || kv.Key == "" {
				t.Errorf("attribute %q=%q", kv.Key, v)
			}
		}
	})
}

func FuzzPasswd(f *testing.F) {
	f.Add([]byte("root:x:0:0\n::"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for uid, name := range hostuser.Parse(data) {
			if uid == "" || name == "" {
				t.Errorf("%q -> %q", uid, name)
			}
		}
	})
}
