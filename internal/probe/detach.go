package probe

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf/link"
)

// errLeft says that a link was left for the kernel to close.
var errLeft = errors.New("left to the kernel")

// maxDetaching bounds the links that are being closed at one time.
const maxDetaching = 16

// detacher closes links so that the process can end while many are still open. A
// process must not end inside such a call: a thread with a fatal signal cannot write
// the target's memory (get_user_pages says EINTR), and the kernel would then leave
// the breakpoint behind for as long as the target lives. Links that nobody has begun
// to close are closed by the kernel after the process's end, which does work.
type detacher struct {
	left  atomic.Bool
	slots chan struct{}

	leaving sync.Mutex // two that take some slots each would wait for ever

	mu   sync.Mutex
	kept []link.Link // the library closes links that nobody holds
}

func newDetacher() *detacher { return &detacher{slots: make(chan struct{}, maxDetaching)} }

func (d *detacher) close(l link.Link) error {
	d.slots <- struct{}{}
	defer func() { <-d.slots }()
	if d.left.Load() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.kept = append(d.kept, l)
		return errLeft
	}
	return l.Close()
}

// leave makes every further close return errLeft and waits for those under way.
func (d *detacher) leave() {
	d.left.Store(true)
	d.leaving.Lock()
	defer d.leaving.Unlock()
	for range cap(d.slots) {
		d.slots <- struct{}{}
	}
	for range cap(d.slots) {
		<-d.slots
	}
}

// LeaveToKernel makes a Close that takes too long come to its end: probes that it
// has not begun to take off are taken off by the kernel when the process ends. Call
// it before the process ends while Close runs. It takes as long as the calls under
// way, one grace period of the kernel as a rule.
func (m *Manager) LeaveToKernel() { m.detaching.leave() }
