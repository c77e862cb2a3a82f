package probe

import (
	"errors"
	"log/slog"
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
		a := &Attached{detaching: newDetacher(), links: map[pointKey]link.Link{}, needed: map[pointKey]bool{{"x", "guard"}: true}}
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

// TestNeeded: a group does not attach without a point that its others need, though it is an
// optional one, and is not left half attached.
func TestNeeded(t *testing.T) {
	exe, err := goexe.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	s := &Spec{Name: "x", Points: []Point{{Name: "guard", Program: "p", Group: "g", Optional: true}}, Groups: []Group{{Name: "g"}}}
	refused := errors.New("refused by the verifier")
	m := &Manager{log: slog.New(slog.DiscardHandler), colls: map[string]*ebpf.Collection{"x": {}}, loadErrs: map[string]error{"x p": refused}}
	a := &Attached{Exe: exe, links: map[pointKey]link.Link{}, needed: map[pointKey]bool{},
		Placed: map[string]*Placed{"x": {Groups: map[string]bool{"g": true}, Points: map[string]goexe.Point{"guard": {}}}}}
	if err := m.attachGroup(t.Context(), a, s, s.Groups[0]); err != nil {
		t.Errorf("a point that nobody needs: %v", err)
	}
	s.Points[0].Needed = true
	if err := m.attachGroup(t.Context(), a, s, s.Groups[0]); !errors.Is(err, refused) {
		t.Errorf("a point that others need: %v, want %v", err, refused)
	}
}
