package goexe

import (
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"testing"
)

// patched is a real executable with a few bytes changed, without a copy of it.
type patched struct {
	base    []byte
	size    int64
	changes map[int64]byte
}

func (p *patched) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off >= p.size {
		return 0, io.EOF
	}
	n := copy(b, p.base[off:p.size])
	for at, v := range p.changes {
		if at >= off && at < off+int64(n) {
			b[at-off] = v
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// fuzzBase is an executable and the places of it that parsers look at.
func fuzzBase(f *testing.F, mode string) (data []byte, regions [][2]int64) {
	path := gobin(f, "std", "amd64", "1.26.8", mode)
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	file, err := elf.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	shoff := int64(binary.LittleEndian.Uint64(data[40:]))
	regions = [][2]int64{{0, 64}, {64, 56 * int64(len(file.Progs))}, {shoff, 64 * int64(len(file.Sections))}}
	for _, s := range file.Sections {
		switch s.Name {
		case ".go.buildinfo", ".gopclntab", ".go.module", ".debug_abbrev", ".debug_info", ".shstrtab", ".rela", ".symtab", ".strtab":
			regions = append(regions, [2]int64{int64(s.Offset), int64(min(s.Size, 1<<16))})
		}
	}
	e, err := newExe(&sliceReader{data}, int64(len(data)))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"net/http.serverHandler.ServeHTTP", "net/http.(*Transport).roundTrip", "net/http.(*conn).serve.func1", AllGsFunc} {
		fn, _ := e.Func(name)
		off, err := e.FileOffset(fn.Addr)
		if err != nil {
			f.Fatal(err)
		}
		regions = append(regions, [2]int64{int64(off), int64(fn.Size)})
	}
	t := e.funcs.tab
	return data, append(regions, [2]int64{int64(t.off + t.names), 1 << 12}, [2]int64{int64(t.off + t.funcs), 1 << 16})
}

// decodePatches turns fuzz input into changes: records of region, offset, value.
func decodePatches(in []byte, base []byte, regions [][2]int64) *patched {
	p := &patched{base: base, size: int64(len(base)), changes: make(map[int64]byte)}
	for ; len(in) >= 5 && len(p.changes) < 64; in = in[5:] {
		if in[0] == 0xff { // cut the file off
			p.size = min(p.size, int64(binary.LittleEndian.Uint32(in[1:]))%int64(len(base)))
			continue
		}
		r := regions[int(in[0])%len(regions)]
		at := r[0] + int64(binary.LittleEndian.Uint16(in[1:]))%max(r[1], 1)
		for i, v := range in[3:5] {
			if at+int64(i) < int64(len(base)) {
				p.changes[at+int64(i)] = v
			}
		}
	}
	return p
}

// FuzzOpen changes bytes of real executables where the parsers look.
func FuzzOpen(f *testing.F) {
	plain, plainRegions := fuzzBase(f, "plain")
	pie, pieRegions := fuzzBase(f, "pie")
	f.Add(false, []byte{0, 16, 0, 3, 0})
	f.Add(true, []byte{1, 8, 0, 255, 255, 2, 32, 0, 0, 16})
	f.Add(false, []byte{0xff, 0, 0, 16, 0})
	f.Add(true, []byte{4, 8, 0, 0, 255, 5, 0, 0, 0xf0, 0xff})
	f.Fuzz(func(t *testing.T, usePIE bool, in []byte) {
		p := decodePatches(in, plain, plainRegions)
		if usePIE {
			p = decodePatches(in, pie, pieRegions)
		}
		e, err := newExe(p, p.size)
		if err != nil {
			return
		}
		e.exercise()
	})
}

// FuzzBuildInfo parses arbitrary bytes as the linker's record.
func FuzzBuildInfo(f *testing.F) {
	e := open(f, "std", "amd64", "1.26.8", "sw")
	s, _ := e.im.section(".go.buildinfo")
	record, err := e.im.bytesAt(s.off, s.size)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(record)
	f.Add([]byte(buildInfoMagic + "\x08\x02"))
	f.Fuzz(func(t *testing.T, in []byte) {
		im := flatImage(in, 0x1000)
		info, err := readBuildInfo(im)
		if err == nil && len(info.GoVersion) > maxGoVersion {
			t.Errorf("version of %d bytes", len(info.GoVersion))
		}
		if err == nil {
			parseGoVersion(info.GoVersion)
		}
	})
}

// flatImage is an image whose only segment is data, at an address.
func flatImage(data []byte, addr uint64) *image {
	n := uint64(len(data))
	return &image{
		budget: readFloor,
		r:      &sliceReader{data}, size: int64(n), machine: elf.EM_X86_64, typ: elf.ET_EXEC,
		segs: []segment{{vaddr: addr, filesz: n, memsz: n}},
	}
}

// FuzzPclntab parses arbitrary bytes as a function table.
func FuzzPclntab(f *testing.F) {
	f.Add(smallPclntab())
	f.Fuzz(func(t *testing.T, in []byte) {
		e := &Exe{im: flatImage(in, 0x1000)}
		tab, err := e.findPclntab()
		if err != nil {
			return
		}
		e.funcs = funcIndex{ready: true, tab: tab, text: 0x400000, byName: map[string]Func{}, info: map[uint64]uint32{}}
		e.Index(func([]byte) bool { return true })
		for _, fn := range e.funcs.sorted {
			if fn.Size == 0 || len(fn.Name) > maxFuncName {
				t.Errorf("function %+v", fn)
			}
		}
	})
}

// smallPclntab is a table of two functions.
func smallPclntab() []byte {
	le := binary.LittleEndian
	names := []byte("\x00main.main\x00main.f\x00")
	const namesAt = pcHeaderBytes
	funcsAt := uint64(namesAt + len(names) + 12)
	b := le.AppendUint32(nil, magic120)
	b = append(b, 0, 0, 1, 8)
	for _, v := range []uint64{2, 1, 0, namesAt, namesAt + uint64(len(names)), funcsAt, funcsAt, funcsAt} {
		b = le.AppendUint64(b, v)
	}
	b = append(append(b, names...), make([]byte, 12)...)
	for _, v := range []uint32{0x10, 20, 0x40, 64, 0x80} { // functab, end
		b = le.AppendUint32(b, v)
	}
	for _, v := range []uint32{0x10, 1} { // _func of main.main
		b = le.AppendUint32(b, v)
	}
	b = append(b, make([]byte, 36)...)
	for _, v := range []uint32{0x40, 11} {
		b = le.AppendUint32(b, v)
	}
	return append(b, make([]byte, 36)...)
}

func TestSmallPclntab(t *testing.T) {
	e := &Exe{im: flatImage(smallPclntab(), 0x1000)}
	tab, err := e.findPclntab()
	if err != nil {
		t.Fatal(err)
	}
	e.funcs = funcIndex{ready: true, tab: tab, text: 0x400000, byName: map[string]Func{}, info: map[uint64]uint32{}}
	for _, want := range []Func{{"main.main", 0x400010, 0x30}, {"main.f", 0x400040, 0x40}} {
		if got, ok := e.Func(want.Name); !ok || got != want {
			t.Errorf("%+v, %v, want %+v", got, ok, want)
		}
	}
}

// FuzzDWARF parses arbitrary bytes as debug information.
func FuzzDWARF(f *testing.F) {
	file, err := elf.Open(gobin(f, "std", "amd64", "1.26.8", "plain"))
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	abbrev, err := file.Section(".debug_abbrev").Data()
	if err != nil {
		f.Fatal(err)
	}
	info := make([]byte, 12000) // the first units
	if _, err := io.ReadFull(file.Section(".debug_info").Open(), info); err != nil {
		f.Fatal(err)
	}
	f.Add(abbrev, info)
	f.Add([]byte{1, 0x13, 1, 3, 8, 0, 0, 0}, []byte{20, 0, 0, 0, 4, 0, 0, 0, 0, 0, 8, 1, 'a', 0, 1, 'b', 0, 0, 0})
	f.Fuzz(func(t *testing.T, abbrev, info []byte) {
		im := flatImage(append(append([]byte(nil), abbrev...), info...), 0)
		im.sections = []section{
			{name: ".debug_abbrev", size: uint64(len(abbrev))},
			{name: ".debug_info", off: uint64(len(abbrev)), size: uint64(len(info))},
		}
		e := &Exe{im: im}
		out, err := e.DWARFOffsets([]Field{
			{Module: "std", Type: "runtime.g", Name: "goid"}, {Module: "std", Type: "a", Name: "b"}, {Module: "std", Type: "b", Name: SizeField},
		})
		if err == nil && len(out) > 3 {
			t.Errorf("%d answers to 3 questions", len(out))
		}
	})
}

// FuzzInflate parses arbitrary bytes as a compressed section.
func FuzzInflate(f *testing.F) {
	f.Add([]byte("ZLIB\x00\x00\x00\x00\x00\x00\x00\x10junk"), false)
	f.Add(binary.LittleEndian.AppendUint64([]byte{1, 0, 0, 0, 0, 0, 0, 0}, 100), true)
	f.Fuzz(func(t *testing.T, in []byte, modern bool) {
		im := flatImage(in, 0)
		s := section{name: ".zdebug_info", size: uint64(len(in))}
		if modern {
			s = section{name: ".debug_info", size: uint64(len(in)), flags: elf.SHF_COMPRESSED}
		}
		im.sections = []section{s}
		r, size, err := im.debugSection("info")
		if err != nil {
			return
		}
		st := newStream(r, size)
		for st.err == nil && st.pos < min(size, 1<<20) {
			st.skip(64)
		}
	})
}

// FuzzWalk disassembles arbitrary bytes as a function of either architecture.
func FuzzWalk(f *testing.F) {
	for _, arch := range []string{"amd64", "arm64"} {
		e := open(f, "std", arch, "1.26.8", "plain")
		for _, name := range []string{"net/http.serverHandler.ServeHTTP", "net/http.(*Transport).roundTrip"} {
			fn, _ := e.Func(name)
			b, err := e.body(fn)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b.code, arch == "arm64")
		}
	}
	f.Fuzz(func(t *testing.T, code []byte, arm bool) {
		if len(code) == 0 {
			return
		}
		im := flatImage(code, 0x400000)
		if arm {
			im.machine = elf.EM_AARCH64
		}
		fn := Func{Name: "f", Addr: 0x400000, Size: uint64(len(code))}
		e := &Exe{im: im}
		e.funcs = funcIndex{ready: true, byName: map[string]Func{"f": fn, "g": {Name: "g", Addr: 0x400000 + 5, Size: 1}}}
		e.funcs.asked = append(e.funcs.asked, func([]byte) bool { return true })
		inside := func(p Point, err error) {
			if err == nil && (p.Addr < fn.Addr || p.Addr >= fn.Addr+fn.Size || p.Class == ClassUnknown) {
				t.Errorf("%+v outside of %+v", p, fn)
			}
		}
		inside(e.EntryPoint("f"))
		inside(e.CallSite("f", []string{"g", "f"}))
		inside(e.AfterCall("f", []string{"g", "f"}, 3))
		im.segs[0].write = true
		at, err := e.FindVars(map[string][]Use{"v": {{Func: "f", Offsets: []uint64{8}}}})
		if v := at["v"]; err == nil && (v+8 < fn.Addr || v+8 >= fn.Addr+fn.Size) {
			t.Errorf("a variable at %#x", v)
		}
	})
}
