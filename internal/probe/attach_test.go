package probe

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
)

// notedLink notes its end.
type notedLink struct {
	link.Link
	note func()
}

func (l notedLink) Close() error {
	l.note()
	return nil
}

// TestCloseLinksLast: what others count on is taken off when they are off.
func TestCloseLinksLast(t *testing.T) {
	for range 20 { // a map's order
		a := &Attached{detaching: newDetacher(), links: map[pointKey]link.Link{}, last: map[pointKey]bool{{"x", "guard"}: true}}
		var mu sync.Mutex
		var order []string
		for _, name := range []string{"guard", "a", "b", "c"} {
			a.links[pointKey{"x", name}] = notedLink{note: func() {
				mu.Lock()
				defer mu.Unlock()
				order = append(order, name)
			}}
		}
		a.links[pointKey{"y", "stays"}] = notedLink{note: func() { t.Error("a point of another probe is taken off") }}
		n, err := a.closeLinks(func(k pointKey) bool { return k.spec == "x" })
		if n != 4 || err != nil || len(order) != 4 || order[3] != "guard" || len(a.links) != 1 {
			t.Fatalf("%d closed: %v, %v, %d left; want guard at the end", n, order, err, len(a.links))
		}
	}
}

// TestTellOptional: the programs are told anew what is there when the probe comes back, and
// when an optional point does not.
func TestTellOptional(t *testing.T) {
	exe, err := goexe.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	var told [][]string
	s := &Spec{
		Name:   "x",
		Points: []Point{{Name: "guard", Program: "p", Group: "g", Optional: true}},
		Groups: []Group{{Name: "g"}},
		AttachExe: func(_ *ebpf.Collection, p *Placed) error {
			names := []string{}
			for name := range p.Points {
				names = append(names, name)
			}
			slices.Sort(names)
			told = append(told, names)
			return nil
		},
	}
	m := &Manager{
		opts: ManagerOptions{Specs: []*Spec{s}}, log: slog.New(slog.DiscardHandler), colls: map[string]*ebpf.Collection{"x": {}},
		loadErrs: map[string]error{"x p": errors.New("refused by the verifier")},
	}
	a := &Attached{Exe: exe, links: map[pointKey]link.Link{}, failed: map[pointKey]bool{}, last: map[pointKey]bool{},
		Placed: map[string]*Placed{"x": {Groups: map[string]bool{"g": true}, Points: map[string]goexe.Point{"guard": {}, "other": {}}}}}
	for round := range 2 {
		told = nil
		if err := m.attachAgain(a, s); err != nil {
			t.Fatal(err)
		}
		if len(told) != 2 || !slices.Equal(told[0], []string{"guard", "other"}) || !slices.Equal(told[1], []string{"other"}) {
			t.Errorf("round %d: told of %v, want of both and then of what is left", round, told)
		}
	}
	if len(a.Placed["x"].Points) != 2 {
		t.Error("what was found has changed")
	}
}
