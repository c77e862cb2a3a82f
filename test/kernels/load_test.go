package kernels

import (
	"bytes"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"

	"github.com/tracer-agent/tracer-agent/internal/discover"
	"github.com/tracer-agent/tracer-agent/internal/httpbody"
	"github.com/tracer-agent/tracer-agent/internal/kernel"
	"github.com/tracer-agent/tracer-agent/internal/probe"
	"github.com/tracer-agent/tracer-agent/internal/testkernel"
	"github.com/tracer-agent/tracer-agent/probes/fasthttp"
	"github.com/tracer-agent/tracer-agent/probes/grpc"
	"github.com/tracer-agent/tracer-agent/probes/mongodriver"
	"github.com/tracer-agent/tracer-agent/probes/nethttp"
	"github.com/tracer-agent/tracer-agent/probes/redis"
	"github.com/tracer-agent/tracer-agent/probes/sql"
	"github.com/tracer-agent/tracer-agent/probes/websocket"
)

// maxStack is the largest frame that is rounded up, to 16 bytes, to less than
// BPF_PRIV_STACK_MIN_SIZE, 64: kernels from 6.13 on give a program with a larger one a
// stack per processor, which a preempted uprobe program and its successor would share.
// Programs on tracepoints are not run a second time on a processor before the first run
// has ended, and iterators get no such stack.
const maxStack = 48

// maxInsns is how many instructions the verifier may look at for one program, of the
// 1,000,000 that it allows: a program is waited for when an executable is instrumented
// (ADR 38). The counts differ from kernel to kernel.
const maxInsns = 130_000

// privateStack is how a program on x86-64 begins that has such a stack:
// add %gs:offset, %r9.
var privateStack = []byte{0x65, 0x4c, 0x03, 0x0c, 0x25}

// collection is a set of programs and how the agent would load it.
type collection struct {
	name    string
	spec    *ebpf.CollectionSpec
	uprobes bool
}

func collections(t *testing.T) []collection {
	t.Helper()
	disc, err := discover.CollectionSpec()
	if err != nil {
		t.Fatal(err)
	}
	// bodies and headers are looked at: what is switched off is not verified
	fields := httpbody.Fields{Request: []string{"a"}, Response: []string{"a"}}
	out := []collection{{name: "discover", spec: disc}}
	for _, s := range []*probe.Spec{
		must(nethttp.New(nethttp.Config{Bodies: fields, AnswerHeaders: []string{"X-Fee"}})),
		redis.New(redis.Config{}),
		mongodriver.New(mongodriver.Config{}),
		grpc.New(grpc.Config{}),
		sql.New(sql.Config{}),
		must(fasthttp.New(fasthttp.Config{
			Bodies: fields, CaptureHeaders: []string{"X-Request-Id"}, AnswerHeaders: []string{"X-Fee"},
		})),
		websocket.New(),
	} {
		spec, err := s.Load()
		if err != nil {
			t.Fatal(err)
		}
		if s.Prepare != nil {
			if err := s.Prepare(spec); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, collection{name: s.Name, spec: spec, uprobes: true})
	}
	return out
}

func must(s *probe.Spec, err error) *probe.Spec {
	if err != nil {
		panic(err)
	}
	return s
}

// TestLoadAll: the verifier accepts every program, except those that call a helper
// which this kernel does not offer; those it must refuse.
func TestLoadAll(t *testing.T) {
	testkernel.Require(t, testkernel.Root, testkernel.BTF, testkernel.RingBuf)
	if err := kernel.RaiseMemlock(); err != nil {
		t.Log(err)
	}
	multi := features.HaveBPFLinkUprobeMulti() == nil
	for _, c := range collections(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // the verifier takes minutes in an emulated machine
			facts := report(t, "")
			maps := loadMaps(t, c.spec)
			var loaded, refused []string
			total, most, stack := 0, 0, 0
			for name, ps := range c.spec.Programs {
				if c.uprobes && multi {
					ps.AttachType = ebpf.AttachTraceUprobeMulti
				}
				missing := missingHelper(ps)
				log, code, err := loadOne(c.spec, name, maps)
				switch {
				case missing != "" && err == nil:
					t.Errorf("%s: accepted although the kernel lacks %s", name, missing)
					continue
				case missing != "":
					refused = append(refused, name)
					continue
				case err != nil:
					t.Errorf("%s: %v\n%s", name, err, tail(err))
					continue
				}
				loaded = append(loaded, name)
				insns, depth, err := parseStats(log)
				if err != nil {
					t.Errorf("%s: %v in verifier log %q", name, err, log)
				}
				t.Logf("%s: %d instructions verified, deepest frame %d bytes", name, insns, depth)
				total, most, stack = total+insns, max(most, insns), max(stack, depth)
				if insns > maxInsns {
					t.Errorf("%s: %d instructions verified, want at most %d", name, insns, maxInsns)
				}
				if c.uprobes && depth > maxStack {
					t.Errorf("%s: a frame of %d bytes, want at most %d", name, depth, maxStack)
				}
				if c.uprobes && bytes.Contains(code, privateStack) {
					t.Errorf("%s: the kernel gave it a stack per processor", name)
				}
			}
			slices.Sort(refused)
			facts["programs"], facts["verified_instructions"], facts["largest"] = len(loaded), total, most
			facts["deepest_frame"], facts["left_out"] = stack, strings.Join(refused, " ")
			if len(loaded) == 0 {
				t.Error("no program was loaded")
			}
		})
	}
}

// loadMaps creates a collection's maps.
func loadMaps(t *testing.T, spec *ebpf.CollectionSpec) map[string]*ebpf.Map {
	t.Helper()
	only := spec.Copy()
	only.Programs = nil
	coll, err := ebpf.NewCollection(only)
	if err != nil {
		t.Fatalf("create maps: %v", err)
	}
	t.Cleanup(coll.Close)
	return coll.Maps
}

// loadOne loads one program and returns the verifier's statistics and, where the kernel
// shows it, the machine code.
func loadOne(spec *ebpf.CollectionSpec, name string, maps map[string]*ebpf.Map) (string, []byte, error) {
	one := spec.Copy()
	for other := range one.Programs {
		if other != name {
			delete(one.Programs, other)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{
		MapReplacements: maps,
		Programs:        ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	if err != nil {
		return "", nil, err
	}
	defer coll.Close()
	info, err := coll.Programs[name].Info()
	if err != nil {
		return "", nil, err
	}
	code, _ := info.JitedInsns()
	return coll.Programs[name].VerifierLog, code, nil
}

// missingHelper names the first helper that a program calls and that this kernel
// does not offer, of those that the agent can do without.
func missingHelper(ps *ebpf.ProgramSpec) string {
	for _, ins := range ps.Instructions {
		if !ins.IsBuiltinCall() {
			continue
		}
		switch fn := asm.BuiltinFunc(ins.Constant); fn {
		case asm.FnFindVma:
			if features.HaveProgramHelper(ebpf.RawTracepoint, fn) != nil {
				return fn.String()
			}
		case asm.FnProbeWriteUser:
			if testkernel.Have(testkernel.WriteUser) != nil {
				return fn.String()
			}
		}
	}
	return ""
}

// The verifier prints "stack depth 48+16", a number per function, and from Linux 7
// on "subprog 0 (name) ... stack 48" for each.
var (
	processed = regexp.MustCompile(`processed (\d+) insns`)
	frames    = regexp.MustCompile(`stack depth ([\d+]+)\n`)
	subprog   = regexp.MustCompile(`(?m)^subprog .* stack (\d+)$`)
)

// parseStats reads the instructions the verifier looked at and the largest frame.
func parseStats(log string) (insns, depth int, err error) {
	m := processed.FindStringSubmatch(log)
	if m == nil {
		return 0, 0, errors.New("no count of instructions")
	}
	var sizes []string
	if f := frames.FindStringSubmatch(log); f != nil {
		sizes = strings.Split(f[1], "+")
	}
	for _, f := range subprog.FindAllStringSubmatch(log, -1) {
		sizes = append(sizes, f[1])
	}
	if len(sizes) == 0 {
		return 0, 0, errors.New("no stack depth")
	}
	for _, s := range sizes {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, 0, err
		}
		depth = max(depth, n)
	}
	insns, err = strconv.Atoi(m[1])
	return insns, depth, err
}

// tail is the end of the verifier's log, where it says what it refuses.
func tail(err error) string {
	var verr *ebpf.VerifierError
	if !errors.As(err, &verr) {
		return ""
	}
	return strings.Join(verr.Log[max(0, len(verr.Log)-30):], "\n")
}
