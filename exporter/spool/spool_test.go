package spool

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func must(t *testing.T, dir string, max int64) *Queue {
	t.Helper()
	q, damaged, err := Open(dir, max)
	if err != nil || damaged != nil {
		t.Fatal(err, damaged)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// TestQueue: order, survival of a restart, the oldest makes room.
func TestQueue(t *testing.T) {
	dir := t.TempDir()
	q := must(t, dir, 1000)
	for i := range 5 {
		if dropped, err := q.Put(bytes.Repeat([]byte{byte(i)}, 100), i+1); err != nil || dropped != 0 {
			t.Fatal(dropped, err)
		}
	}
	first, err := q.First()
	if err != nil || first.Spans != 1 || first.Data[0] != 0 {
		t.Fatalf("got %+v, %v", first, err)
	}
	if err := errors.Join(q.Done(first), q.Done(first)); err != nil {
		t.Fatal(err)
	}
	q.Close()

	q = must(t, dir, 1000)
	if n, size := q.Len(); n != 4 || size != 4*104 {
		t.Errorf("%d batches of %d bytes after a restart, want 4 of 416", n, size)
	}
	// 584 bytes are left: 700 cost the two oldest, of 2 and 3 spans.
	if dropped, err := q.Put(make([]byte, 700), 9); err != nil || dropped != 2+3 {
		t.Errorf("dropped %d, %v; want 5", dropped, err)
	}
	if _, err := q.Put(make([]byte, 1000), 1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a batch larger than the queue: %v", err)
	}
	var spans []int
	for {
		b, err := q.First()
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			break
		}
		spans = append(spans, b.Spans)
		if err := q.Done(b); err != nil {
			t.Fatal(err)
		}
	}
	if len(spans) != 3 || spans[0] != 4 || spans[1] != 5 || spans[2] != 9 {
		t.Errorf("left %v, want 4, 5, 9", spans)
	}
	if n, size := q.Len(); n != 0 || size != 0 {
		t.Errorf("%d batches of %d bytes in an empty queue", n, size)
	}
}

// TestDamaged: a file that is no queue is put aside, and kept.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	q := must(t, dir, 1<<20)
	if _, err := q.Put(make([]byte, 100<<10), 1); err != nil {
		t.Fatal(err)
	}
	q.Close()
	path := filepath.Join(dir, fileName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty pages": make([]byte, 1<<16), "text": bytes.Repeat([]byte("not a queue "), 1000), "cut": whole[:5000],
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			q, damaged, err := Open(dir, 1000)
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			if damaged == nil {
				t.Error("nobody is told that the file was damaged")
			}
			if kept, err := os.ReadFile(filepath.Join(dir, damagedName)); err != nil || !bytes.Equal(kept, data) {
				t.Errorf("the damaged file is not kept: %v", err)
			}
			if _, err := q.Put([]byte("x"), 1); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOneOwner: two agents do not share a queue.
func TestOneOwner(t *testing.T) {
	dir := t.TempDir()
	must(t, dir, 1000)
	if _, _, err := Open(dir, 1000); err == nil {
		t.Error("opened twice")
	}
}
