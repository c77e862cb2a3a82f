package config

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settleFor is how long a file must be left alone before its change is told: editors
// write in several steps.
const settleFor = 200 * time.Millisecond

// Watch calls changed, from one goroutine, when a file has changed, until
// ctx is done. The folder is watched, because editors and Kubernetes put a new file
// in the old one's place; there it is a symbolic link that changes its target.
func Watch(ctx context.Context, path string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch configuration: %w", err)
	}
	if err := w.Add(filepath.Dir(path)); err != nil {
		w.Close()
		return fmt.Errorf("watch configuration: %w", err)
	}
	last := stampOf(path)
	go func() {
		defer w.Close()
		settled := time.NewTimer(settleFor) // once, for what changed before the watch
		defer settled.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case _, ok := <-w.Events:
				if !ok {
					return
				}
				settled.Reset(settleFor)
			case <-w.Errors: //nolint:errcheck // too many events at once: look
				settled.Reset(settleFor)
			case <-settled.C:
				if now := stampOf(path); now != last {
					last = now
					changed()
				}
			}
		}
	}()
	return nil
}

// stamp tells states of a file apart; one that cannot be read has one of its own.
type stamp struct {
	content  [sha256.Size]byte
	modified time.Time
}

func stampOf(path string) (s stamp) {
	f, err := os.Open(path)
	if err != nil {
		return s
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, maxFileBytes+1)); err != nil {
		return s
	}
	s.content = [sha256.Size]byte(h.Sum(nil))
	// A content that comes back may have been something else meanwhile.
	if st, err := f.Stat(); err == nil {
		s.modified = st.ModTime()
	}
	return s
}
