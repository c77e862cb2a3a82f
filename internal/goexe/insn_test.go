package goexe

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestClassifyAMD64(t *testing.T) {
	for name, c := range map[string]struct {
		code string
		want Class
	}{
		"push rbp":                 {"55", ClassEmulated},
		"push r12 (REX.B)":         {"41 54", ClassEmulated},
		"push rbp with REX.W":      {"48 55", ClassStepped},
		"push with 66":             {"66 55", ClassStepped},
		"push imm":                 {"6a 01", ClassStepped},
		"push mem":                 {"ff 75 08", ClassStepped},
		"pop rbp":                  {"5d", ClassStepped},
		"jne short":                {"75 0e", ClassEmulated},
		"jbe near":                 {"0f 86 8a 00 00 00", ClassEmulated},
		"jbe near, 66":             {"66 0f 86 8a 00", ClassUnknown},
		"jrcxz":                    {"e3 05", ClassStepped},
		"jmp short":                {"eb 10", ClassEmulated},
		"jmp near":                 {"e9 10 00 00 00", ClassEmulated},
		"jmp rax":                  {"ff e0", ClassStepped},
		"call rel32":               {"e8 10 00 00 00", ClassEmulated},
		"call rcx":                 {"ff d1", ClassStepped},
		"ret":                      {"c3", ClassStepped},
		"nop":                      {"90", ClassEmulated},
		"66 nop":                   {"66 90", ClassEmulated},
		"pause":                    {"f3 90", ClassEmulated},
		"nop of 3 bytes":           {"0f 1f 00", ClassStepped},
		"nop of 5 bytes":           {"0f 1f 44 00 00", ClassTrampoline},
		"nop of 5 bytes, other":    {"0f 1f 44 00 08", ClassStepped},
		"nop of 6 bytes":           {"66 0f 1f 44 00 00", ClassStepped},
		"cmp rsp, 16(r14)":         {"49 3b 66 10", ClassStepped},
		"mov rbp, rsp":             {"48 89 e5", ClassStepped},
		"sub rsp, 0x20":            {"48 83 ec 20", ClassStepped},
		"jcc opcode as an operand": {"b8 75 00 00 00", ClassStepped},
	} {
		if got := classifyAMD64(unhex(t, c.code)); got != c.want {
			t.Errorf("%s: class %d, want %d", name, got, c.want)
		}
	}
}

func TestVexLength(t *testing.T) {
	for code, want := range map[string]int{
		"c5 f8 77 90":                   3, // vzeroupper
		"c5 fe 6f 07 90":                4, // vmovdqu ymm0, [rdi]
		"c5 fe 6f 44 24 20 90":          6, // vmovdqu ymm0, [rsp+0x20]
		"c4 e2 f1 f7 c3 90":             5, // shlx rax, rbx, rcx
		"c4 e3 fb f0 c3 05 90":          6, // rorx rax, rbx, 5
		"c4 e2 f1 b9 05 01 02 03 04 90": 9, // vfmadd231sd xmm0, xmm1, [rip+...]
		"62 f1 fe 48 6f 47 01 90":       7, // vmovdqu64 zmm0, [rdi+0x40]
		"62 f3 75 48 25 c1 ff 90":       7, // vpternlogd zmm0, zmm1, zmm1, 0xff
		"48 89 e5 90":                   0,
		"c4 e2":                         0,
	} {
		if got := vexLen(unhex(t, code)); got != want {
			t.Errorf("%s: %d bytes, want %d", code, got, want)
		}
	}
}

// TestWalkAll disassembles every function of net/http and crypto, also of a
// GOAMD64=v3 build with VEX instructions: each must end where it ends.
func TestWalkAll(t *testing.T) {
	for _, mode := range []string{"plain", "v3"} {
		e := open(t, "std", "amd64", "1.26.8", mode)
		n, vex := 0, 0
		for _, f := range e.FuncsMatch(func(name string) bool {
			return strings.HasPrefix(name, "net/http.") || strings.HasPrefix(name, "math/") || strings.HasPrefix(name, "runtime.")
		}) {
			b, err := e.body(f)
			if err != nil {
				t.Error(err)
				continue
			}
			end := f.Addr
			complete := b.walk(func(in *insn) bool {
				end = in.addr + in.size
				if vexLen(b.code[in.addr-b.Addr:]) > 0 {
					vex++
				}
				return true
			})
			n++
			// Assembly has instructions that no compiler emits; nobody probes it.
			if (!complete || end != f.Addr+f.Size) && strings.HasPrefix(f.Name, "net/http.") {
				t.Errorf("%s: stopped at +%d of %d", f.Name, end-f.Addr, f.Size)
			}
		}
		if n < 2500 || mode == "v3" && vex < 100 {
			t.Errorf("%s: only %d functions with %d VEX instructions", mode, n, vex)
		}
	}
}

// TestTrack follows results through moves, spills and clobbers.
func TestTrack(t *testing.T) {
	for name, c := range map[string]struct {
		code string // behind a call with three results
		want []Loc
		ok   bool
	}{
		"test, jne": {"48 85 db 75 00", []Loc{{Reg: 0}, {Reg: 1}, {Reg: 2}}, true},
		"nop":       {"90 48 85 db", []Loc{{Reg: 0}, {Reg: 1}, {Reg: 2}}, true},
		// mov [rsp+0x40], rax; mov rax, [rdx]; test rbx, rbx; jne
		"spilled, then reused": {"48 89 44 24 40 48 8b 02 48 85 db 75 00", []Loc{{Stack: true, Off: 0x40}, {Reg: 1}, {Reg: 2}}, true},
		// mov rsi, rax; xor eax, eax; test; jne
		"moved to another argument register": {"48 89 c6 31 c0 48 85 db 75 00", []Loc{{Reg: 4}, {Reg: 1}, {Reg: 2}}, true},
		// mov rdx, rax; xor eax, eax; mov rsi, rdx; jne
		"moved through DX": {"48 89 c2 31 c0 48 89 d6 75 00", []Loc{{Reg: 4}, {Reg: 1}, {Reg: 2}}, true},
		// mov [rsp+0x40], rax; mov byte [rsp+0x44], 1; xor eax, eax; jne
		"spill slot overwritten": {"48 89 44 24 40 c6 44 24 44 01 31 c0 75 00", nil, false},
		// xor eax, eax; jne
		"lost": {"31 c0 75 00", nil, false},
		// jmp +0; test; jne
		"after a jump": {"48 89 44 24 08 eb 00 75 00", []Loc{{Reg: 0}, {Reg: 1}, {Reg: 2}}, true},
		// xchg rax, rcx; jne
		"exchanged": {"48 91 75 00", nil, false},
		// vzeroupper; jne
		"unknown instruction": {"c5 f8 77 75 00", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			code := append([]byte{0xe8, 0, 0, 0, 0}, unhex(t, c.code)...)
			code = append(code, 0xc3)
			b := &body{Func: Func{Name: "f", Addr: 0x1000, Size: uint64(len(code))}, code: code, arch: amd64Arch{}}
			call, _ := b.at(0x1000, nil)
			var got *after
			for _, a := range b.afterCall(call, 3) {
				if a.class == ClassEmulated {
					got = &a
					break
				}
			}
			if (got != nil) != c.ok {
				t.Fatalf("found %v, want %v", got != nil, c.ok)
			}
			for i := range c.want {
				if got.results[i] != c.want[i] {
					t.Errorf("results %+v, want %+v", got.results, c.want)
				}
			}
		})
	}
}

func TestDecodeARM64(t *testing.T) {
	for name, c := range map[string]struct {
		word   uint32
		flow   flow
		class  Class
		target uint64
		writes uint32
	}{
		"b":            {0x14000004, flowJump, ClassEmulated, 0x1010, 0},
		"b backwards":  {0x17ffffff, flowJump, ClassEmulated, 0xffc, 0},
		"bl":           {0x94000b6e, flowCall, ClassEmulated, 0x1000 + 0xb6e*4, 0},
		"b.ls":         {0x54000129, flowCond, ClassEmulated, 0x1024, 0},
		"cbz":          {0xb4000f41, flowCond, ClassEmulated, 0x1000 + 122*4, 0},
		"cbnz w":       {0x35000061, flowCond, ClassEmulated, 0x100c, 0},
		"tbnz":         {0x37600081, flowCond, ClassEmulated, 0x1010, 0},
		"ret":          {0xd65f03c0, flowStop, ClassEmulated, 0, 0},
		"br x1":        {0xd61f0020, flowStop, ClassEmulated, 0, 0},
		"blr x1":       {0xd63f0020, flowIndirect, ClassEmulated, 0, 0},
		"adrp x27":     {0x9000001b, flowNext, ClassEmulated, 0, 1 << 27},
		"ldr literal":  {0x58000040, flowNext, ClassUnknown, 0, 1},
		"nop":          {0xd503201f, flowNext, ClassStepped, 0, 0},
		"udf":          {0x00000000, flowStop, ClassUnknown, 0, 0},
		"ldxr":         {0xc85f7c20, flowNext, ClassUnknown, 0, 0},
		"add x3":       {0x91000423, flowNext, ClassStepped, 0, 1 << 3},
		"cmp":          {0xf10018df, flowNext, ClassStepped, 0, 0},
		"ldr x6, [x0]": {0xf9400006, flowNext, ClassStepped, 0, 1 << 6},
		"str to heap":  {0xf9000041, flowNext, ClassStepped, 0, 0},
		"ldp":          {0xa9400c22, flowNext, ClassStepped, 0, 1<<2 | 1<<3},
	} {
		in, ok := arm64Arch{}.decode(binary.LittleEndian.AppendUint32(nil, c.word), 0x1000, nil)
		if !ok || in.flow != c.flow || in.class != c.class || in.target != c.target || in.effect.writes != c.writes {
			t.Errorf("%s: %+v, want flow %d class %d target %#x writes %#x", name, in, c.flow, c.class, c.target, c.writes)
		}
	}
	// str x0, [sp, #88]
	in, _ := arm64Arch{}.decode(binary.LittleEndian.AppendUint32(nil, 0xf9002fe0), 0, nil)
	if e := in.effect; e.ncopies != 1 || e.copies[0] != (copyOf{place{}, place{stack: true, off: 88}}) || e.lo != 88 || e.hi != 96 {
		t.Errorf("spill: %+v", in.effect)
	}
	// str x30, [sp, #-48]!
	if in, _ = (arm64Arch{}).decode(binary.LittleEndian.AppendUint32(nil, 0xf81d0ffe), 0, nil); !in.effect.movesSP || in.effect.unknown {
		t.Errorf("prologue store: %+v", in.effect)
	}
}

func TestCountArgs(t *testing.T) {
	for desc, want := range map[string]int{
		"ff":                         0,
		"00 08 ff":                   1,
		"00 08 fe 08 08 10 08 fd ff": 3,
		"00 08 fc ff":                9,
		"00 08 fb ff":                9,
		"00 08":                      9,
	} {
		if got := countArgs(unhex(t, desc), 9); got != want {
			t.Errorf("%s: %d words, want %d", desc, got, want)
		}
	}
}
