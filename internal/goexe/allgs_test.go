package goexe

import (
	"debug/elf"
	"errors"
	"testing"
)

// TestAllGs compares the place that the code tells with the symbol table's. That of a
// stripped executable, whose variables lie elsewhere than its twin's, is proven by the
// parents that an agent finds with it.
func TestAllGs(t *testing.T) {
	eachStd(t, func(t *testing.T, e *Exe, arch, version, mode string) {
		got, err := e.AllGs()
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.Open(gobin(t, "std", arch, version, mode))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if !hasSymtab(mode) {
			bss := f.Section(".bss")
			if bss == nil || got < bss.Addr || got > bss.Addr+bss.Size-24 {
				t.Errorf("runtime.allgs at %#x, which is not in .bss", got)
			}
			return
		}
		syms, err := f.Symbols()
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(0)
		for _, s := range syms {
			if s.Name == "runtime.allgs" {
				want = s.Value
			}
		}
		if got != want {
			t.Errorf("runtime.allgs at %#x, the symbol table says %#x", got, want)
		}
	})
}

// TestAllGsOfCode: code of another shape is refused.
func TestAllGsOfCode(t *testing.T) {
	for _, c := range []struct {
		name, code string
		want       []uint64
	}{
		{"three words", "48 8b 05 f9 0f 00 00 48 8b 0d fa 0f 00 00 48 89 15 fb 0f 00 00", []uint64{0x2000, 0x2008, 0x2010}},
		{"four bytes only", "8b 05 fa 0f 00 00", nil},
		{"an address", "48 8d 05 f9 0f 00 00", nil},
		{"cut off", "48 8b 05 f9 0f", nil},
	} {
		code := unhex(t, c.code)
		b := &body{Func: Func{Addr: 0x1000, Size: uint64(len(code))}, code: code, arch: amd64Arch{}}
		got := amd64Arch{}.fixedWords(b)
		if len(got) != len(c.want) {
			t.Errorf("%s: %v", c.name, got)
		}
		for _, w := range c.want {
			if !got[w] {
				t.Errorf("%s: %#x is missing in %v", c.name, w, got)
			}
		}
	}
	e := open(t, "std", "amd64", "1.26.8", "plain")
	if err := e.Index(func([]byte) bool { return false }); err != nil {
		t.Fatal(err)
	}
	e.funcs.asked = append(e.funcs.asked, func([]byte) bool { return true })
	if _, err := e.AllGs(); !errors.Is(err, ErrNoFunc) {
		t.Errorf("without the function: %v", err)
	}
	e.funcs.byName[AllGsFunc], _ = open(t, "std", "amd64", "1.26.8", "plain").Func("runtime.main")
	if addr, err := e.AllGs(); !errors.Is(err, ErrNoOffsets) {
		t.Errorf("of other code: %#x, %v", addr, err)
	}
}
