package probe

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
)

// ExeRef names an executable as the kernel sees it, with a path by which it can
// be opened now (/proc/PID/exe).
type ExeRef struct {
	Dev  uint32
	Ino  uint64
	Path string
	// Off says which probes are not to be attached; nil: none.
	Off func(probe string) bool
	// Vet looks at the opened file first; its error is a refusal. Nil: nothing to say.
	Vet func(*goexe.Exe) error
}

func (r ExeRef) vet(exe *goexe.Exe) error {
	if r.Vet == nil {
		return nil
	}
	return r.Vet(exe)
}

// Attached is one executable with probes on it. It stays until Manager.Detach.
type Attached struct {
	ID  uint32
	Ref ExeRef
	Exe *goexe.Exe
	// Placed by spec name.
	Placed map[string]*Placed
	// Propagation says how traces of its calls are handed on; nil if none are.
	Propagation *Propagation
	// NoAncestors is why goroutines' ancestors are not searched; nil: they are.
	NoAncestors error

	writing sync.Mutex
	// held are the groups that write, by spec, while no process wants them.
	held map[string]map[string]bool

	runtime []byte // struct tr_goexe
	tuning  sync.Mutex

	mu        sync.Mutex
	links     map[pointKey]link.Link
	target    *link.Executable
	closed    bool            // no probe any more
	forgotten bool            // Exe is closed
	off       map[string]bool // specs that were taken off while it ran
	muted     map[string]bool // specs that nobody wants now
	changed   map[pointKey]bool
	needed    map[pointKey]bool // Point.Needed
	// detaching closes the links; set before the first one is made.
	detaching *detacher
}

type pointKey struct {
	spec, point string
}

// Points calls f for every point that is attached now.
func (a *Attached) Points(f func(spec, point string, at goexe.Point)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k := range a.links {
		f(k.spec, k.point, a.Placed[k.spec].Points[k.point])
	}
}

// wants says whether a point is placed and not attached.
func (a *Attached) wants(s *Spec, pt Point) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.Placed[s.Name].Points[pt.Name]
	return ok && !a.closed && !a.off[s.Name] && !a.muted[s.Name] && a.links[pointKey{s.Name, pt.Name}] == nil
}

// lazy says that a point is not attached with its group.
func (a *Attached) lazy(s *Spec, pt Point) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return pt.Lazy || a.Placed[s.Name].Lazy[pt.Name] && !a.changed[pointKey{s.Name, pt.Name}]
}

// change says whether a point may be put on or taken off by itself, and that it has been: any
// may be taken off, put on are lazy ones and those that were changed before. The others come with their
// group or not at all. What is lazy in this executable only comes with its group from then on.
func (a *Attached) change(s *Spec, pt Point, on bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := pointKey{s.Name, pt.Name}
	if on && !a.Placed[s.Name].IsLazy(pt) && !a.changed[key] {
		return false
	}
	a.changed[key] = true
	return true
}

// attachPoint puts a program on a point. The link stays referenced in a.links:
// the library closes links that nobody holds.
func (a *Attached) attachPoint(s *Spec, pt Point, prog *ebpf.Program, multi bool) error {
	at, ok := a.Placed[s.Name].Points[pt.Name]
	if !ok {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	key := pointKey{s.Name, pt.Name}
	if a.closed || a.off[s.Name] || a.muted[s.Name] || a.links[key] != nil {
		return nil
	}
	l, err := uprobe(a.target, prog, at.Offset, multi)
	if err != nil {
		return fmt.Errorf("attach %s at %s+0x%x: %w", pt.Program, at.Func, at.Offset, err)
	}
	a.links[key] = l
	a.needed[key] = pt.Needed
	return nil
}

func uprobe(target *link.Executable, prog *ebpf.Program, offset uint64, multi bool) (link.Link, error) {
	if multi {
		return target.UprobeMulti(nil, prog, &link.UprobeMultiOptions{Addresses: []uint64{offset}})
	}
	return target.Uprobe("", prog, &link.UprobeOptions{Address: offset})
}

func (a *Attached) detachPoint(spec, point string) error {
	a.mu.Lock()
	key := pointKey{spec, point}
	l := a.links[key]
	delete(a.links, key)
	a.mu.Unlock()
	if l == nil {
		return nil
	}
	return a.detaching.close(l)
}

// detachSpec takes a probe off for good and says how many points of others are left.
func (a *Attached) detachSpec(s *Spec) (left int, err error) {
	a.mu.Lock()
	if a.off == nil {
		a.off = map[string]bool{}
	}
	a.off[s.Name] = true
	for k := range a.links {
		if k.spec != s.Name {
			left++
		}
	}
	a.mu.Unlock()
	_, err = a.closeLinks(func(k pointKey) bool { return k.spec == s.Name })
	return left, err
}

// closeLinks takes off the points that are wanted, all at the same time but for those that
// others need, which are last, and says how many they were: closing a perf-event uprobe waits
// for an RCU grace period.
func (a *Attached) closeLinks(wanted func(pointKey) bool) (n int, err error) {
	n, err = a.closeAll(func(k pointKey) bool { return wanted(k) && !a.needed[k] })
	needed, neededErr := a.closeAll(wanted)
	return n + needed, errors.Join(err, neededErr)
}

// closeAll calls wanted with a.mu held.
func (a *Attached) closeAll(wanted func(pointKey) bool) (n int, err error) {
	a.mu.Lock()
	var links []link.Link
	for k, l := range a.links {
		if wanted(k) {
			links = append(links, l)
			delete(a.links, k)
		}
	}
	a.mu.Unlock()
	closed := make(chan error, len(links))
	for _, l := range links {
		go func() { closed <- a.detaching.close(l) }()
	}
	var errs []error
	for range links {
		errs = append(errs, <-closed)
	}
	return len(links), errors.Join(errs...)
}

// detachAll takes everything off for good.
func (a *Attached) detachAll() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	_, err := a.closeLinks(func(pointKey) bool { return true })
	return err
}
