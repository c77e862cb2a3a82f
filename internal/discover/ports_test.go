package discover

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"
)

const tcpHead = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func TestParseListeners(t *testing.T) {
	const (
		v4   = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n"
		v6   = "   1: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n"
		open = "   2: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0\n"
	)
	got, err := parseListeners(strings.NewReader(tcpHead + v4 + v6 + open + "garbage that must not be reached\n"))
	want := []listener{{4711, 8080}, {4712, 443}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{
		"short line\n",
		strings.Replace(v4, ":1F90", ":1", 1),
		strings.Replace(v4, "1F90", "XXXX", 1),
		strings.Replace(v4, "4711", "-1", 1),
		strings.Repeat("x", 1<<17),
	} {
		if got, err := parseListeners(strings.NewReader(tcpHead + bad)); err == nil {
			t.Errorf("%.40q: got %v and no error", bad, got)
		}
	}
	if got, err := parseListeners(strings.NewReader("")); err != nil || len(got) != 0 {
		t.Errorf("empty file: %v, %v", got, err)
	}
	many := tcpHead + strings.Repeat(v4, maxListeners+10)
	if got, err := parseListeners(strings.NewReader(many)); err != nil || len(got) != maxListeners {
		t.Errorf("%d listeners, %v, want the first %d", len(got), err, maxListeners)
	}
}

func FuzzParseListeners(f *testing.F) {
	f.Add(tcpHead + "   0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 4711 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		if got, _ := parseListeners(strings.NewReader(text)); len(got) > maxListeners {
			t.Fatalf("%d listeners", len(got))
		}
	})
}

func TestListeningPorts(t *testing.T) {
	var want []uint16
	for _, addr := range []string{"127.0.0.1:0", "127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Logf("%s: %v", addr, err) // a host without IPv6
			continue
		}
		defer l.Close()
		want = append(want, uint16(l.Addr().(*net.TCPAddr).Port))
	}
	slices.Sort(want)
	got, err := ListeningPorts(int32(os.Getpid()))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := ListeningPorts(1 << 30); err == nil {
		t.Error("no error for a process that does not exist")
	}
}
