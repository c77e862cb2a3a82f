package goexe

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOpenFacts(t *testing.T) {
	eachStd(t, func(t *testing.T, e *Exe, arch, version, mode string) {
		if got := e.Arch(); got != arch {
			t.Errorf("Arch() = %s, want %s", got, arch)
		}
		if got := e.GoVersion(); got.String() != version || got.Raw != "go"+version {
			t.Errorf("GoVersion() = %+v, want %s", got, version)
		}
		if got := e.MainPath(); got != "tracer.example/gobins/std" {
			t.Errorf("MainPath() = %q", got)
		}
		if got := e.PIE(); got != isPIE(mode) {
			t.Errorf("PIE() = %v in mode %s", got, mode)
		}
		if got := e.HasDWARF(); got != hasDWARF(mode) {
			t.Errorf("HasDWARF() = %v in mode %s", got, mode)
		}
		if got := e.SymbolSource(); got != "pclntab" {
			t.Errorf("SymbolSource() = %q", got)
		}
	})
}

// TestLoadVaddr compares with what the kernel says of a running process:
// field 26 of /proc/PID/stat is mm->start_code.
func TestLoadVaddr(t *testing.T) {
	for _, mode := range []string{"plain", "pie", "cgo", "cgopie", "staticpie"} {
		t.Run(mode, func(t *testing.T) {
			path := gobin(t, "std", "amd64", "1.26.8", mode)
			e := open(t, "std", "amd64", "1.26.8", mode)
			startCode, textAt := runningAddresses(t, path)
			f, ok := e.Func("main.main")
			if !ok {
				t.Fatal("no main.main")
			}
			off, err := e.FileOffset(f.Addr)
			if err != nil {
				t.Fatal(err)
			}
			bias := startCode - e.LoadVaddr()
			if !e.PIE() && bias != 0 {
				t.Errorf("bias = %#x of an executable at fixed addresses", bias)
			}
			if got, want := f.Addr+bias, textAt(off); got != want {
				t.Errorf("main.main at %#x by start_code and LoadVaddr, at %#x by /proc/PID/maps", got, want)
			}
		})
	}
}

// runningAddresses starts the program stopped at its first instruction and
// returns its start_code and a function that maps a file offset to an address.
func runningAddresses(t *testing.T, path string) (startCode uint64, at func(off uint64) uint64) {
	t.Helper()
	cmd := exec.Command(path)
	// A process that waits for its standard output's reader stays alive long
	// enough; ptrace would stop it earlier but is not allowed everywhere.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	full := make([]byte, 65536)
	if _, err := w.Write(full); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	dir := filepath.Join("/proc", itoa(cmd.Process.Pid))
	var maps []byte
	// Start returns when exec closes files, which is before it sets the addresses.
	for deadline := time.Now().Add(10 * time.Second); startCode == 0; {
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("no start_code: %v", err)
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
		startCode = number(t, fields[26-3], 10)
	}
	if maps, err = os.ReadFile(dir + "/maps"); err != nil {
		t.Fatal(err)
	}
	return startCode, func(off uint64) uint64 {
		for line := range strings.Lines(string(maps)) {
			f := strings.Fields(line)
			if len(f) < 6 || f[5] != path || !strings.Contains(f[1], "x") {
				continue
			}
			lo, hi, _ := strings.Cut(f[0], "-")
			base, mapped := number(t, f[2], 16), number(t, lo, 16)
			if off >= base && off-base < number(t, hi, 16)-mapped {
				return mapped + off - base
			}
		}
		t.Fatalf("file offset %#x is not mapped", off)
		return 0
	}
}

func TestModules(t *testing.T) {
	e := open(t, "xnet", "amd64", "1.26.8", "plain")
	for path, want := range map[string]string{
		"golang.org/x/net":           "v0.62.0",
		"golang.org/x/text":          "v0.43.0",
		"tracer.example/gobins/xnet": "(devel)",
	} {
		got, ok := e.Module(path)
		if !ok || got != want && want != "(devel)" {
			t.Errorf("Module(%s) = %q, %v, want %q", path, got, ok, want)
		}
	}
	if v, ok := e.Module("golang.org/x/crypto"); ok {
		t.Errorf("Module of something not in the build = %q", v)
	}
}

func TestOpenRefuses(t *testing.T) {
	self, err := os.ReadFile(gobin(t, "std", "amd64", "1.26.8", "sw"))
	if err != nil {
		t.Fatal(err)
	}
	patched := func(off int, b ...byte) []byte {
		out := append([]byte(nil), self...)
		copy(out[off:], b)
		return out
	}
	version := patched(0)
	i := strings.Index(string(version), "\x08go1.26.8")
	if i < 0 {
		t.Fatal("no version in the build info")
	}
	old := append([]byte(nil), version...)
	copy(old[i:], "\x08go1.17.8")
	copy(version[i:], "\x08hello123")
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"empty":         {nil, ErrNotELF},
		"script":        {[]byte("#!/bin/sh\n" + strings.Repeat("#", 100)), ErrNotELF},
		"relocatable":   {patched(16, 1, 0), ErrNotELF},
		"32 bits":       {patched(4, 1), ErrUnsupportedArch},
		"big-endian":    {patched(5, 2), ErrUnsupportedArch},
		"riscv":         {patched(18, 0xf3), ErrUnsupportedArch},
		"header only":   {self[:64], ErrCorrupt},
		"half":          {self[:len(self)/2], ErrCorrupt},
		"no segments":   {patched(56, 0, 0), ErrCorrupt},
		"Go 1.17":       {old, ErrUnsupportedGo},
		"strange Go":    {version, ErrUnsupportedGo},
		"segment count": {patched(56, 0xff, 0xff), ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x")
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			e, err := Open(path)
			if err == nil {
				e.Close()
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("Open: %v, want %v", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), path) {
				t.Errorf("not one line that names the file: %q", err)
			}
		})
	}
	t.Run("C program", func(t *testing.T) {
		if _, err := Open("/bin/sh"); !errors.Is(err, ErrNotGo) {
			t.Errorf("Open: %v, want %v", err, ErrNotGo)
		}
	})
	t.Run("folder", func(t *testing.T) {
		if _, err := Open(t.TempDir()); !errors.Is(err, ErrNotELF) {
			t.Errorf("Open: %v, want %v", err, ErrNotELF)
		}
	})
	t.Run("missing", func(t *testing.T) {
		if _, err := Open("/does/not/exist"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Open: %v, want %v", err, os.ErrNotExist)
		}
	})
}

// TestWithoutSections takes away the section headers, as some packers do.
func TestWithoutSections(t *testing.T) {
	for _, mode := range []string{"plain", "sw", "cgo"} {
		data, err := os.ReadFile(gobin(t, "std", "amd64", "1.26.8", mode))
		if err != nil {
			t.Fatal(err)
		}
		binary.LittleEndian.PutUint64(data[40:], 0) // e_shoff
		binary.LittleEndian.PutUint32(data[60:], 0) // e_shnum, e_shstrndx
		e := openBytes(t, data)
		whole := open(t, "std", "amd64", "1.26.8", mode)
		const name = "net/http.serverHandler.ServeHTTP"
		want, ok := whole.Func(name)
		if !ok {
			t.Fatalf("%s: no %s", mode, name)
		}
		if got, ok := e.Func(name); !ok || got != want {
			t.Errorf("%s: %s is %+v without section headers, %+v with them", mode, name, got, want)
		}
	}
}

// TestTruncated cuts a real executable at many places. Whatever is left must
// end in an answer or an error, never a panic or a wrong answer.
func TestTruncated(t *testing.T) {
	data, err := os.ReadFile(gobin(t, "std", "amd64", "1.26.8", "pie"))
	if err != nil {
		t.Fatal(err)
	}
	const name = "net/http.serverHandler.ServeHTTP"
	whole := open(t, "std", "amd64", "1.26.8", "pie")
	want, err := whole.EntryPoint(name)
	if err != nil {
		t.Fatal(err)
	}
	cuts := []int{0, 1, 4, 16, 63, 64, 65, 120, 1000}
	for i := 1; i < 128; i++ {
		cuts = append(cuts, len(data)*i/128)
	}
	for _, n := range cuts {
		e, err := newExe(&sliceReader{data[:n]}, int64(n))
		if err != nil {
			continue
		}
		got, err := e.EntryPoint(name)
		if err == nil && (got.Addr != want.Addr || got.Offset != want.Offset || got.Class != want.Class) {
			t.Errorf("cut at %d: %+v, want %+v or an error", n, got, want)
		}
		e.exercise()
		if _, err := e.DWARFOffsets(nil); err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNoOffsets) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

func TestSymtabFallback(t *testing.T) {
	data, err := os.ReadFile(gobin(t, "std", "amd64", "1.26.8", "plain"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(gobin(t, "std", "amd64", "1.26.8", "plain"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data[f.Section(".gopclntab").Offset] ^= 0xff // another magic, as obfuscators write
	e := openBytes(t, data)
	want, _ := open(t, "std", "amd64", "1.26.8", "plain").Func("net/http.(*Transport).roundTrip")
	got, ok := e.Func("net/http.(*Transport).roundTrip")
	if !ok || got.Addr != want.Addr || e.SymbolSource() != "symtab" {
		t.Errorf("%+v from %s, want %+v from symtab", got, e.SymbolSource(), want)
	}
}
