package resource

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/tracer-agent/tracer-agent/internal/config"
	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/hostuser"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

// ErrGone says that the process has ended, or that its pid now belongs to
// another one.
var ErrGone = errors.New("process is gone")

const (
	// Bounds on what a process may say about itself.
	maxAttributes = 128
	maxTextBytes  = 1024
	// nsPerTick is the unit of /proc/PID/stat's start time: USER_HZ is 100 on
	// every architecture that Linux supports here.
	nsPerTick = 10_000_000
)

// distro is the product's name in telemetry.sdk.name (an SDK that is not
// OpenTelemetry's own must say so) and telemetry.distro.name.
const distro = "tracer-agent"

// Options are what a Builder needs.
type Options struct {
	// Service is the user's word on processes that do not describe themselves.
	Service config.Service
	// AgentVersion is the agent's own version.
	AgentVersion string
	// Proc is where procfs is mounted; "/proc" when empty.
	Proc string
	// MachineID are the files to try for host.id, in order; by default PID 1's
	// view first, which is the host's also when the agent runs in a container.
	MachineID []string
}

// Builder makes resources. It is safe for concurrent use.
type Builder struct {
	o      Options
	fs     procfs.FS
	host   []attribute.KeyValue
	seed   string // machine and boot, for service.instance.id
	mntNS  string
	passwd map[string]string // uid -> name, of the agent's own mount namespace
}

// NewBuilder reads what is the same for all processes of the host.
func NewBuilder(o Options) (*Builder, error) {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.MachineID == nil {
		o.MachineID = []string{filepath.Join(o.Proc, "1/root/etc/machine-id"), "/etc/machine-id", "/var/lib/dbus/machine-id"}
	}
	fs, err := procfs.NewFS(o.Proc)
	if err != nil {
		return nil, fmt.Errorf("read process information: %w", err)
	}
	b := &Builder{o: o, fs: fs}
	hostID := firstLine(o.MachineID...)
	b.seed = hostID + "/" + firstLine(filepath.Join(o.Proc, "sys/kernel/random/boot_id"))
	if name, err := os.Hostname(); err == nil {
		b.host = append(b.host, semconv.HostName(name))
	}
	if hostID != "" {
		b.host = append(b.host, semconv.HostID(hostID))
	}
	b.host = append(b.host, semconv.HostArchKey.String(hostArch(runtime.GOARCH)), semconv.OSTypeLinux)
	// Errors leave the names out: owners are then numbers.
	b.mntNS, _ = os.Readlink(filepath.Join(o.Proc, "self/ns/mnt"))
	if data, err := readBounded("/etc/passwd", maxPasswdBytes); err == nil {
		b.passwd = hostuser.Parse(data)
	}
	return b, nil
}

// hostArch is the semantic conventions' word for an architecture.
func hostArch(goarch string) string {
	switch goarch {
	case "386":
		return "x86"
	case "arm":
		return "arm32"
	default:
		return goarch
	}
}

// Process is what the caller already knows about a process.
type Process struct {
	Key telemetry.ProcessKey
	// Exe is the path of the executable as the kernel shows it; read from
	// /proc when empty.
	Exe string
	// GoVersion is the executable's, for example go1.26.1.
	GoVersion string
	// ModuleVersion is the version of the main module, if it has one.
	ModuleVersion string
	// Platform is what runs the process says of it, for example Kubernetes; it counts after
	// what the process and the user say.
	Platform []attribute.KeyValue
	// Service overrules Options.Service for this process; nil does not.
	Service *config.Service
}

// Build reads a process's resource. Its only error is ErrGone; everything else
// that cannot be read is left out.
func (b *Builder) Build(p Process) (*telemetry.Resource, error) {
	proc, err := b.fs.Proc(int(p.Key.PID))
	if err != nil {
		return nil, fmt.Errorf("pid %d: %w", p.Key.PID, ErrGone)
	}
	// Read first, check afterwards that the pid still is the same process: then
	// what was read is that process's.
	own := ownWords(proc)
	cgroups, _ := proc.Cgroups()
	if p.Exe == "" {
		p.Exe, _ = proc.Executable()
	}
	p.Exe = strings.TrimSuffix(p.Exe, " (deleted)")
	command := argv0(proc)
	owner := b.owner(proc)
	if err := b.same(proc, p.Key); err != nil {
		return nil, err
	}

	service := &b.o.Service
	if p.Service != nil {
		service = p.Service
	}
	s := &set{}
	// In order of precedence: the first to set a key wins.
	s.add(semconv.TelemetrySDKName(distro), semconv.TelemetrySDKLanguageGo,
		semconv.TelemetrySDKVersion(b.o.AgentVersion),
		semconv.TelemetryDistroName(distro), semconv.TelemetryDistroVersion(b.o.AgentVersion))
	s.text(semconv.ServiceNameKey, own.service)
	s.texts(own.attributes)
	s.text(semconv.ServiceNameKey, service.Name)
	s.texts(service.Attributes)
	for _, kv := range p.Platform {
		if kv.Value.Type() == attribute.STRING {
			s.text(kv.Key, kv.Value.AsString())
		} else {
			s.add(kv)
		}
	}

	s.text(semconv.ServiceNameKey, path.Base(p.Exe))
	s.add(semconv.ServiceInstanceID(b.instanceID(p.Key)))
	if p.ModuleVersion != "(devel)" {
		s.text(semconv.ServiceVersionKey, p.ModuleVersion)
	}
	s.add(semconv.ProcessPID(int(p.Key.PID)))
	s.text(semconv.ProcessExecutableNameKey, path.Base(p.Exe))
	s.text(semconv.ProcessExecutablePathKey, p.Exe)
	s.text(semconv.ProcessCommandKey, command)
	s.text(semconv.ProcessOwnerKey, owner)
	s.add(semconv.ProcessRuntimeName("go"))
	s.text(semconv.ProcessRuntimeVersionKey, p.GoVersion)
	s.add(b.host...)
	for _, cg := range cgroups {
		s.text(semconv.ContainerIDKey, discover.ContainerID(cg.Path))
	}
	return &telemetry.Resource{SchemaURL: semconv.SchemaURL, Attributes: s.sorted()}, nil
}

// Self is the resource of the agent, which the host's metrics belong to as well.
func (b *Builder) Self() *telemetry.Resource {
	pid := os.Getpid()
	s := &set{}
	s.add(semconv.TelemetrySDKName(distro), semconv.TelemetrySDKLanguageGo,
		semconv.TelemetrySDKVersion(b.o.AgentVersion),
		semconv.TelemetryDistroName(distro), semconv.TelemetryDistroVersion(b.o.AgentVersion),
		semconv.ServiceName(distro), semconv.ServiceVersion(b.o.AgentVersion))
	key := telemetry.ProcessKey{PID: int32(pid)}
	if proc, err := b.fs.Proc(pid); err == nil {
		if stat, err := proc.Stat(); err == nil {
			key.StartNs = stat.Starttime * nsPerTick
		}
	}
	s.add(semconv.ServiceInstanceID(b.instanceID(key)), semconv.ProcessPID(pid))
	s.add(b.host...)
	return &telemetry.Resource{SchemaURL: semconv.SchemaURL, Attributes: s.sorted()}
}

// same says whether proc still is the process of key.
func (b *Builder) same(proc procfs.Proc, key telemetry.ProcessKey) error {
	stat, err := proc.Stat()
	if err != nil || stat.State == "Z" {
		return fmt.Errorf("pid %d: %w", key.PID, ErrGone)
	}
	if key.StartNs != 0 && stat.Starttime != key.StartNs/nsPerTick {
		return fmt.Errorf("pid %d: %w: the pid was used again", key.PID, ErrGone)
	}
	return nil
}

// instanceID is a UUID that names one process for as long as the host is up,
// and that the next process with the same pid does not share.
func (b *Builder) instanceID(key telemetry.ProcessKey) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%d", b.seed, key.PID, key.StartNs))
	id := sum[:16]
	id[6] = id[6]&0x0f | 0x80 // version 8: made by a rule of our own
	id[8] = id[8]&0x3f | 0x80
	h := hex.EncodeToString(id)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// owner is the user's name where the process sees the same user database as
// the agent, else the number.
func (b *Builder) owner(proc procfs.Proc) string {
	status, err := proc.NewStatus()
	if err != nil {
		return ""
	}
	uid := strconv.FormatUint(status.UIDs[1], 10)
	ns, err := os.Readlink(filepath.Join(b.o.Proc, strconv.Itoa(proc.PID), "ns/mnt"))
	if name, ok := b.passwd[uid]; ok && err == nil && ns == b.mntNS {
		return name
	}
	return uid
}

// argv0 is the first argument only: the others may hold secrets, and so may
// what follows a space when a program has overwritten its title.
func argv0(proc procfs.Proc) string {
	args, err := proc.CmdLine()
	if err != nil || len(args) == 0 {
		return ""
	}
	name, _, _ := strings.Cut(args[0], " ")
	return name
}

// set collects attributes; the first value of a key stays.
type set struct {
	seen  map[attribute.Key]struct{}
	attrs []attribute.KeyValue
}

func (s *set) add(kvs ...attribute.KeyValue) {
	if s.seen == nil {
		s.seen = map[attribute.Key]struct{}{}
	}
	for _, kv := range kvs {
		if _, ok := s.seen[kv.Key]; !ok {
			s.seen[kv.Key] = struct{}{}
			s.attrs = append(s.attrs, kv)
		}
	}
}

// text adds a value that a process or a user chose; an empty one says nothing.
func (s *set) text(key attribute.Key, value string) {
	if value = bounded(value); value != "" && value != "." {
		s.add(key.String(value))
	}
}

func (s *set) texts(m map[string]string) {
	for n, key := range slices.Sorted(maps.Keys(m)) {
		if n == maxAttributes {
			return
		}
		if k := bounded(key); k != "" {
			s.text(attribute.Key(k), m[key])
		}
	}
}

func (s *set) sorted() []attribute.KeyValue {
	slices.SortFunc(s.attrs, func(a, b attribute.KeyValue) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return s.attrs
}

// bounded makes a text valid UTF-8 of bounded length.
func bounded(s string) string {
	if len(s) > maxTextBytes {
		s = s[:maxTextBytes]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
