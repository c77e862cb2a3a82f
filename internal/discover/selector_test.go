package discover

import (
	"errors"
	"strings"
	"testing"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

func TestGlob(t *testing.T) {
	tests := []struct {
		pattern string
		yes, no []string
	}{
		{"server", []string{"/usr/bin/server", "server"}, []string{"/usr/bin/server2", "/server/x", ""}},
		{"serv*", []string{"/a/server", "/a/serv"}, []string{"/serv/a"}},
		{"s?rver", []string{"/a/server"}, []string{"/a/srver"}},
		{"/usr/bin/*", []string{"/usr/bin/x"}, []string{"/usr/bin/a/x", "/opt/usr/bin/x"}},
		{"/opt/**", []string{"/opt/x", "/opt/a/b/x"}, []string{"/opt", "/usr/opt/x"}},
		{"/opt/**/x", []string{"/opt/x", "/opt/a/x", "/opt/a/b/x"}, []string{"/opt/ax", "/opt/x/y"}},
		{"**/x", []string{"/x", "/a/b/x"}, []string{"/a/bx"}},
		{"app[0-9]", []string{"/app7"}, []string{"/appx", "/app"}},
		{"app[!0-9]", []string{"/appx"}, []string{"/app7"}},
		{"/a[!b]c", []string{"/axc"}, []string{"/a/c", "/abc"}},
		{"{api,web}-server", []string{"/x/api-server", "/web-server"}, []string{"/x/db-server", "/api"}},
		{"a,b}", []string{"/a,b}"}, []string{"/a"}},
		{"a.b+c(d)|$", []string{"/a.b+c(d)|$"}, []string{"/axb+c(d)|$"}},
		{`a\*b`, []string{"/a*b"}, []string{"/axb"}},
		{"dienst-ü*", []string{"/dienst-übung"}, []string{"/dienst-u"}},
	}
	for _, tt := range tests {
		g, err := compileGlob(tt.pattern)
		if err != nil {
			t.Errorf("%q: %v", tt.pattern, err)
			continue
		}
		for _, p := range tt.yes {
			if !g.match(p) {
				t.Errorf("%q does not match %q", tt.pattern, p)
			}
		}
		for _, p := range tt.no {
			if g.match(p) {
				t.Errorf("%q matches %q", tt.pattern, p)
			}
		}
	}
	for _, pattern := range []string{"", "[", "[]", "a[b", "{a", `a\`, "[z-a]", strings.Repeat("a", maxGlob+1)} {
		if _, err := compileGlob(pattern); !errors.Is(err, ErrGlob) {
			t.Errorf("%.20q: got %v, want %v", pattern, err, ErrGlob)
		}
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("/opt/**/a[!b-c]*{x,y}?", "/opt/a/axx")
	f.Add(`\*{[`, "")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		g, err := compileGlob(pattern)
		if err != nil {
			if !errors.Is(err, ErrGlob) {
				t.Fatalf("%q: %v does not wrap ErrGlob", pattern, err)
			}
			return
		}
		if g.match("") {
			t.Fatalf("%q matches the unknown path", pattern)
		}
		g.match(path)
	})
}

func TestSelect(t *testing.T) {
	proc := func(pid int32, path string) Process {
		return Process{Key: telemetry.ProcessKey{PID: pid}, Path: path, Exe: ExeID{Dev: 1, Ino: uint64(pid)}}
	}
	tests := []struct {
		name  string
		sel   Selection
		p     Process
		ports []uint16
		want  Reason
	}{
		{"nothing asked", Selection{}, proc(1, "/a"), []uint16{80}, NotSelected},
		{"pid", Selection{PIDs: []int32{7, 8}}, proc(8, "/a"), nil, ByPID},
		{"other pid", Selection{PIDs: []int32{7}}, proc(8, "/a"), nil, NotSelected},
		{"pid of unknown path", Selection{PIDs: []int32{8}}, proc(8, ""), nil, ByPID},
		{"base name", Selection{Exes: []string{"ap*"}}, proc(8, "/usr/bin/app"), nil, ByExe},
		{"path", Selection{Exes: []string{"/x", "/usr/**"}}, proc(8, "/usr/bin/app"), nil, ByExe},
		{"unknown path", Selection{Exes: []string{"**"}}, proc(8, ""), nil, NotSelected},
		{"port", Selection{Ports: []uint16{80, 443}}, proc(8, "/a"), []uint16{22, 443}, ByPort},
		{"no port yet", Selection{Ports: []uint16{80}}, proc(8, "/a"), nil, NotSelected},
		{"all", Selection{AllGo: true}, proc(8, "/a"), nil, ByAllGo},
		{"excluded from all", Selection{AllGo: true, Exclude: []string{"a"}}, proc(8, "/x/a"), nil, NotSelected},
		{"excluded from exe", Selection{Exes: []string{"a"}, Exclude: []string{"/x/*"}}, proc(8, "/x/a"), nil, NotSelected},
		{"excluded from port", Selection{Ports: []uint16{80}, Exclude: []string{"a"}}, proc(8, "/a"), []uint16{80}, NotSelected},
		{"pid beats exclude", Selection{PIDs: []int32{8}, Exclude: []string{"a"}}, proc(8, "/a"), nil, ByPID},
		{"never itself by pid", Selection{PIDs: []int32{8}, AllGo: true, SelfPID: 8}, proc(8, "/a"), nil, NotSelected},
		{"never its executable", Selection{AllGo: true, SelfExe: ExeID{1, 8}}, proc(8, "/a"), nil, NotSelected},
		{"exe before port", Selection{Exes: []string{"a"}, Ports: []uint16{80}, AllGo: true}, proc(8, "/a"), []uint16{80}, ByExe},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := NewSelector(tt.sel)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Select(tt.p, tt.ports).Reason; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if _, err := NewSelector(Selection{Exclude: []string{"[x"}}); !errors.Is(err, ErrGlob) {
		t.Errorf("bad pattern: got %v, want %v", err, ErrGlob)
	}
	for r, want := range map[Reason]bool{NotSelected: false, ByPID: false, ByPort: false, ByExe: true, ByAllGo: true} {
		if r.Whole() != want {
			t.Errorf("%q: Whole is %v", r, !want)
		}
	}
}
