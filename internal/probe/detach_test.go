package probe

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/cilium/ebpf/link"
)

// slowLink takes until release is closed to close.
type slowLink struct {
	link.Link
	release chan struct{}
	closed  bool
}

func (l *slowLink) Close() error {
	<-l.release
	l.closed = true
	return nil
}

// TestDetacherLeave: leave waits for what is being closed and nothing else is.
func TestDetacherLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, release := newDetacher(), make(chan struct{})
		links := make([]*slowLink, maxDetaching+5)
		errs := make(chan error, len(links))
		for i := range links {
			links[i] = &slowLink{release: release}
			go func() { errs <- d.close(links[i]) }()
		}
		synctest.Wait() // as many as may are closing, the others wait
		left := make(chan struct{})
		go func() { d.leave(); close(left) }()
		synctest.Wait()
		select {
		case <-left:
			t.Fatal("leave came back while links were being closed")
		default:
		}
		close(release)
		<-left
		kept, closed := 0, 0
		for range links {
			switch err := <-errs; {
			case errors.Is(err, errLeft):
				kept++
			case err != nil:
				t.Error(err)
			}
		}
		for _, l := range links {
			if l.closed {
				closed++
			}
		}
		if kept != 5 || closed != maxDetaching || len(d.kept) != kept {
			t.Errorf("%d links left, %d held, %d closed; want 5, 5 and %d", kept, len(d.kept), closed, maxDetaching)
		}
	})
}
