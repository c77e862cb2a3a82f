package goexe

import (
	"debug/elf"
	"maps"
	"strings"
	"testing"
)

// TestFuncsAgainstSymtab compares the function table with the symbol table of
// the same executable, and of a stripped one with its twin's names and sizes.
func TestFuncsAgainstSymtab(t *testing.T) {
	eachStd(t, func(t *testing.T, e *Exe, arch, version, mode string) {
		got := make(map[string]Func)
		for _, f := range e.FuncsMatch(func(name string) bool { return strings.HasPrefix(name, "net/http") }) {
			got[f.Name] = f
		}
		if len(got) < 900 {
			t.Fatalf("%d functions of net/http", len(got))
		}
		if !hasSymtab(mode) {
			compareTwin(t, got, arch, version)
			return
		}
		path := gobin(t, "std", arch, version, mode)
		syms := symbols(t, path)
		for name, f := range got {
			sym, ok := syms[name]
			if !ok {
				// Symbols of instantiated generics spell the type arguments out.
				if !strings.Contains(name, "[...]") {
					t.Errorf("%s is not in the symbol table", name)
				}
				continue
			}
			if f.Addr != sym.Value || f.Size < sym.Size || f.Size > sym.Size+64 {
				t.Errorf("%s at %#x+%d, symbol table says %#x+%d", name, f.Addr, f.Size, sym.Value, sym.Size)
			}
		}
		for name := range syms {
			if _, ok := got[name]; !ok && strings.HasPrefix(name, "net/http.(*") && !strings.Contains(name, "[") {
				t.Errorf("%s is in the symbol table only", name)
			}
		}
	})
}

func symbols(t *testing.T, path string) map[string]elf.Symbol {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	syms, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]elf.Symbol)
	for _, s := range syms {
		if elf.ST_TYPE(s.Info) == elf.STT_FUNC {
			out[s.Name] = s
		}
	}
	return out
}

func compareTwin(t *testing.T, got map[string]Func, arch, version string) {
	t.Helper()
	twin := open(t, "std", arch, version, "plain")
	want := make(map[string]uint64)
	for _, f := range twin.FuncsMatch(func(name string) bool { return strings.HasPrefix(name, "net/http") }) {
		want[f.Name] = f.Size
	}
	sizes := make(map[string]uint64)
	for name, f := range got {
		sizes[name] = f.Size
	}
	if !maps.Equal(sizes, want) {
		t.Errorf("%d functions, the unstripped twin has %d of the same or other sizes", len(sizes), len(want))
	}
}

func TestFuncWithoutIndex(t *testing.T) {
	e := open(t, "std", "amd64", "1.26.8", "sw")
	if _, ok := e.Func("net/http.noSuchFunction"); ok {
		t.Error("found a function that does not exist")
	}
	f, ok := e.Func("net/http.(*Transport).roundTrip")
	if !ok || f.Size == 0 {
		t.Errorf("roundTrip: %+v, %v", f, ok)
	}
	passes := len(e.funcs.asked)
	e.Func("net/http.noSuchFunction")
	e.Func("net/http.(*Transport).roundTrip")
	if got := len(e.funcs.asked); got != passes {
		t.Errorf("%d passes over the table for questions already answered", got-passes)
	}
}

func TestNames(t *testing.T) {
	keep := Names([]string{"a.F"}, []string{"a.(*T).M", "a.G"})
	for name, want := range map[string]bool{
		"a.F": true, "a.F.func1": false, "a.G": false, "a.G.func1": true, "a.G.func12.3": true,
		"a.(*T).M.deferwrap1": true, "a.(*T).M.gowrap2": true, "a.(*T).M.function": false,
		"a.(*T).M.func": false, "b.a.G.func1": false, "a.(*T).M.func1.2.deferwrap1": true,
	} {
		if got := keep([]byte(name)); got != want {
			t.Errorf("keep(%s) = %v", name, got)
		}
	}
}

func TestTypeName(t *testing.T) {
	eachStd(t, func(t *testing.T, e *Exe, arch, version, mode string) {
		const want = "*net.OpError"
		found, err := e.TypeNameOffsets([]string{want})
		if err != nil {
			t.Fatal(err)
		}
		if len(found[want]) == 0 {
			t.Fatalf("no %s among the types", want)
		}
		got, err := e.TypeName(found[want][0])
		if err != nil || got != want {
			t.Errorf("TypeName = %q, %v, want %q", got, err, want)
		}
		for _, off := range []int32{-1, 0, 1 << 30} {
			if name, err := e.TypeName(off); err == nil {
				t.Errorf("TypeName(%d) = %q", off, name)
			}
		}
	})
}
