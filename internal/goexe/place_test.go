package goexe

import (
	"errors"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// h2Names returns how HTTP/2 is called in a Go release's own net/http.
func h2Names(v Version) string {
	if v.AtLeast(1, 27) {
		return "net/http/internal/http2.(*"
	}
	return "net/http.(*http2"
}

// firstFunc returns the first of names that the executable has.
func firstFunc(e *Exe, names ...string) string {
	for _, n := range names {
		if _, ok := e.Func(n); ok {
			return n
		}
	}
	return names[0]
}

// steppedBefore121 are the entry points that are single-stepped in Go 1.18 to
// 1.20, whose frames begin without PUSHQ BP, because a register that may hold
// an argument (of a closure: its context) is written before the first branch.
var steppedBefore121 = map[string]bool{
	"net/http.(*conn).serve.func1": true, "net/http.(*Transport).getConn": true,
	"net/http.(*http2serverConn).runHandler": true, "net/http.(*http2serverConn).runHandler.func1": true,
	"net/http.(*persistConn).roundTrip": true,
}

func TestEntryPoints(t *testing.T) {
	eachStd(t, func(t *testing.T, e *Exe, arch, version, mode string) {
		h2 := h2Names(e.GoVersion())
		names := []string{
			"net/http.serverHandler.ServeHTTP", "net/http.(*response).shouldReuseConnection",
			"net/http.(*conn).serve.func1", "net/http.(*Transport).getConn",
			"net/http.(*persistConn).roundTrip", "runtime.gopanic",
			firstFunc(e, h2+"ClientConn).roundTrip", h2+"ClientConn).RoundTrip"), h2 + "serverConn).runHandler",
		}
		if e.GoVersion().AtLeast(1, 22) {
			names = append(names, "net/http.(*ServeMux).findHandler")
		}
		closure, ok := e.Closure([]string{h2 + "serverConn).runHandler"}, []string{h2 + "responseWriter).handlerDone"})
		if !ok {
			t.Errorf("no closure of runHandler calls handlerDone")
		}
		for _, name := range append(names, closure.Name) {
			p, err := e.EntryPoint(name)
			if err != nil {
				t.Error(err)
				continue
			}
			checkPoint(t, e, p)
			if arch == "arm64" {
				checkArm64Entry(t, e, p)
				continue
			}
			want := ClassEmulated
			if !e.GoVersion().AtLeast(1, 21) && steppedBefore121[name] {
				want = ClassStepped
			}
			if p.Class != want {
				t.Errorf("%s: %s is of class %d, want %d", name, p.Instr, p.Class, want)
			}
			if e.GoVersion().AtLeast(1, 21) && p.Instr != "PUSHQ BP" {
				t.Errorf("%s: %s, want PUSHQ BP", name, p.Instr)
			}
		}
	})
}

// checkPoint holds for every point: it lies in its function, behind the stack
// check, and the file has the instruction at the offset.
func checkPoint(t *testing.T, e *Exe, p Point) {
	t.Helper()
	f, ok := e.Func(p.Func)
	if !ok || p.Addr <= f.Addr || p.Addr >= f.Addr+f.Size {
		t.Errorf("%s: point at %#x is not inside %+v", p.Func, p.Addr, f)
		return
	}
	var byFile, byAddr [4]byte
	if err := e.im.readAt(byFile[:], p.Offset); err != nil {
		t.Error(err)
	}
	if err := e.im.memory(byAddr[:], p.Addr); err != nil {
		t.Error(err)
	}
	if byFile != byAddr || p.Instr == "" || p.Instr == "?" || p.Class == ClassUnknown {
		t.Errorf("%s: %+v: % x at the offset, % x at the address", p.Func, p, byFile, byAddr)
	}
}

// checkArm64Entry holds for arm64, whose prologue has no simulated instruction:
// whether a cheap one follows is up to the function, but none is the stack check.
func checkArm64Entry(t *testing.T, e *Exe, p Point) {
	t.Helper()
	f, _ := e.Func(p.Func)
	if p.Addr-f.Addr < 8 || strings.HasPrefix(p.Instr, "BLS") || strings.HasPrefix(p.Instr, "CMP") {
		t.Errorf("%s: %s at +%d is in the stack check", p.Func, p.Instr, p.Addr-f.Addr)
	}
}

func TestAfterCall(t *testing.T) {
	eachStd(t, func(t *testing.T, e *Exe, arch, version, mode string) {
		h2 := h2Names(e.GoVersion())
		calls := []struct {
			caller  string
			callees []string
			results int
		}{
			{"net/http.(*Transport).roundTrip", []string{"net/http.(*Transport).getConn"}, 3},
			{"net/http.(*Transport).roundTrip", []string{"net/http.(*persistConn).roundTrip"}, 3},
			{h2 + "Transport).RoundTripOpt", []string{h2 + "ClientConn).RoundTrip", h2 + "ClientConn).roundTrip"}, 3},
		}
		for _, c := range calls {
			p, err := e.AfterCall(c.caller, c.callees, c.results)
			if err != nil {
				t.Error(err)
				continue
			}
			checkPoint(t, e, p)
			if p.Class != ClassEmulated {
				t.Errorf("after %v: %s is of class %d", c.callees, p.Instr, p.Class)
			}
			if len(p.Results) != c.results {
				t.Fatalf("after %v: results %v", c.callees, p.Results)
			}
			// The first result and the error's type are what a program cannot do without.
			for i, loc := range p.Results[1:] {
				if loc.Stack || int(loc.Reg) != i+1 {
					t.Errorf("after %v: the error is at %+v", c.callees, p.Results)
				}
			}
			site, err := e.CallSite(c.caller, c.callees)
			if err != nil {
				t.Error(err)
			}
			checkPoint(t, e, site)
			if site.Class != ClassEmulated || !strings.HasPrefix(site.Instr, "CALL") || site.Addr >= p.Addr {
				t.Errorf("call site %+v, result read at %#x", site, p.Addr)
			}
		}
	})
}

// TestServeMuxRoute is where the route can be read before Go 1.22, whose
// (*ServeMux).match is always inlined: behind the call of Handler, with four words
// of results. No emulated instruction lies before they are overwritten.
func TestServeMuxRoute(t *testing.T) {
	for _, v := range versions() {
		e := open(t, "std", "amd64", v, "plain")
		if e.GoVersion().AtLeast(1, 22) {
			continue
		}
		p, err := e.AfterCall("net/http.(*ServeMux).ServeHTTP", []string{"net/http.(*ServeMux).Handler"}, 4)
		if err != nil {
			t.Errorf("%s: %v", v, err)
			continue
		}
		checkPoint(t, e, p)
		want := []Loc{{Reg: 0}, {Reg: 1}, {Reg: 2}, {Reg: 3}}
		if !slices.Equal(p.Results, want) || p.Class != ClassStepped {
			t.Errorf("%s: %+v, want results %+v", v, p, want)
		}
	}
}

func TestXNet(t *testing.T) {
	const x = "golang.org/x/net/http2.(*"
	for _, v := range versions() {
		if strings.HasPrefix(v, "1.27") {
			continue // a wrapper around net/http there
		}
		t.Run(v, func(t *testing.T) {
			e := open(t, "xnet", "amd64", v, "plain")
			closure, ok := e.Closure([]string{x + "serverConn).runHandler"}, []string{x + "responseWriter).handlerDone"})
			if !ok {
				t.Fatal("no closure of runHandler calls handlerDone")
			}
			for _, name := range []string{x + "serverConn).runHandler", closure.Name, firstFunc(e, x+"ClientConn).roundTrip", x+"ClientConn).RoundTrip")} {
				p, err := e.EntryPoint(name)
				if err != nil {
					t.Error(err)
					continue
				}
				checkPoint(t, e, p)
			}
			caller := firstFunc(e, x+"Transport).roundTripViaPool", x+"Transport).RoundTripOpt")
			p, err := e.AfterCall(caller, []string{x + "ClientConn).roundTrip", x + "ClientConn).RoundTrip"}, 3)
			if err != nil {
				t.Fatal(err)
			}
			checkPoint(t, e, p)
			if p.Class != ClassEmulated {
				t.Errorf("after RoundTrip: %s of class %d", p.Instr, p.Class)
			}
		})
	}
}

// TestBoundaries compares with another disassembly: every point is the start of
// an instruction there too, and of the same one.
func TestBoundaries(t *testing.T) {
	for _, v := range versions() {
		for _, arch := range []string{"amd64", "arm64"} {
			t.Run(arch+"-"+v, func(t *testing.T) {
				e := open(t, "std", arch, v, "plain")
				var points []Point
				add := func(p Point, err error) {
					if err != nil {
						t.Error(err)
					}
					points = append(points, p)
				}
				caller := "net/http.(*Transport).roundTrip"
				add(e.EntryPoint(caller))
				add(e.AfterCall(caller, []string{"net/http.(*Transport).getConn"}, 3))
				add(e.AfterCall(caller, []string{"net/http.(*persistConn).roundTrip"}, 3))
				add(e.CallSite(caller, []string{"net/http.(*persistConn).roundTrip"}))
				out, err := exec.Command("go", "tool", "objdump", "-s", "^"+regexp.QuoteMeta(caller)+"$", gobin(t, "std", arch, v, "plain")).Output()
				if err != nil {
					t.Fatal(err)
				}
				ops := make(map[uint64]string)
				for line := range strings.Lines(string(out)) {
					if f := strings.Fields(line); len(f) >= 4 && strings.HasPrefix(f[1], "0x") {
						addr, _ := strconv.ParseUint(f[1][2:], 16, 64)
						ops[addr] = f[3]
					}
				}
				for _, p := range points {
					if op := ops[p.Addr]; op == "" || op != strings.Fields(p.Instr)[0] {
						t.Errorf("%s at %#x, objdump has %q", p.Instr, p.Addr, op)
					}
				}
			})
		}
	}
}

func TestPlacementErrors(t *testing.T) {
	e := open(t, "std", "amd64", "1.26.8", "plain")
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"no function":  {second(e.EntryPoint("no.such")), ErrNoFunc},
		"no caller":    {second(e.AfterCall("no.such", []string{"runtime.gopanic"}, 1)), ErrNoFunc},
		"no callee":    {second(e.AfterCall("net/http.(*Transport).roundTrip", []string{"no.such"}, 1)), ErrNoFunc},
		"not called":   {second(e.CallSite("net/http.(*Transport).roundTrip", []string{"runtime.schedinit"})), ErrNoPoint},
		"many results": {second(e.AfterCall("net/http.(*Transport).roundTrip", []string{"net/http.(*Transport).getConn"}, 10)), ErrNoPoint},
		"many calls":   {second(e.CallSite("net/http.(*Transport).roundTrip", []string{"runtime.newobject"})), ErrNoPoint},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
	if f, ok := e.Closure([]string{"net/http.(*conn).serve"}, []string{"no.such"}); ok {
		t.Errorf("closure %+v of nothing", f)
	}
}

func second(_ Point, err error) error { return err }
