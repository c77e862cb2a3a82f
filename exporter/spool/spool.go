// Package spool is a bounded queue on disk for encoded batches, which outlives the
// process. What is taken out of it is taken out for good only when its owner says so: a
// batch can be seen twice after a crash, never not at all. When there is no more room
// the oldest batch goes.
package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	fileName = "spans.db"
	// damagedName is where a file goes that cannot be read.
	damagedName = fileName + ".damaged"
	lockTimeout = 2 * time.Second
	countBytes  = 4
	keyBytes    = 8
)

var bucket = []byte("batches")

// ErrTooLarge says that a batch alone is larger than the queue may be.
var ErrTooLarge = errors.New("batch is larger than the queue on disk")

// Batch is one entry of the queue.
type Batch struct {
	// Spans is how many spans it holds, for counting losses.
	Spans int
	Data  []byte
	key   uint64
}

// Queue is safe for concurrent use.
type Queue struct {
	db       *bbolt.DB
	maxBytes int64

	mu    sync.Mutex
	bytes int64
	n     int
	next  uint64
}

// Open opens or makes the queue in a folder that belongs to this agent alone. A file
// that is damaged is put aside: damaged says so.
func Open(dir string, maxBytes int64) (q *Queue, damaged error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("open queue on disk: %w", err)
	}
	path := filepath.Join(dir, fileName)
	q, err = open(path, maxBytes)
	if err == nil || errors.Is(err, bolterrors.ErrTimeout) || errors.Is(err, os.ErrPermission) {
		return q, nil, err
	}
	damaged = err
	if err := os.Rename(path, filepath.Join(dir, damagedName)); err != nil {
		return nil, nil, fmt.Errorf("%w; put it aside: %w", damaged, err)
	}
	q, err = open(path, maxBytes)
	return q, damaged, err
}

func open(path string, maxBytes int64) (q *Queue, err error) {
	defer func() {
		if r := recover(); r != nil { // the library trusts the file's pages
			err = fmt.Errorf("open queue on disk: damaged: %v", r)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, NoFreelistSync: true})
	if err != nil {
		return nil, fmt.Errorf("open queue on disk %s: %w", path, err)
	}
	q = &Queue{db: db, maxBytes: maxBytes}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		if err != nil {
			return err
		}
		return b.ForEach(func(k, v []byte) error {
			if len(k) != keyBytes || len(v) < countBytes {
				return errors.New("an entry is none of ours")
			}
			q.bytes += int64(len(v))
			q.n++
			q.next = binary.BigEndian.Uint64(k) + 1
			return nil
		})
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read queue on disk %s: %w", path, err), db.Close())
	}
	return q, nil
}

// Put adds a batch and says how many spans had to make room for it.
func (q *Queue) Put(data []byte, spans int) (dropped int, err error) {
	size := int64(len(data) + countBytes)
	if size > q.maxBytes {
		return 0, ErrTooLarge
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	bytes, n := q.bytes, q.n
	err = q.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		c := b.Cursor()
		for k, v := c.First(); k != nil && bytes+size > q.maxBytes; k, v = c.First() {
			bytes -= int64(len(v))
			n--
			dropped += int(binary.BigEndian.Uint32(v))
			if err := c.Delete(); err != nil {
				return err
			}
		}
		key := binary.BigEndian.AppendUint64(nil, q.next)
		value := binary.BigEndian.AppendUint32(make([]byte, 0, size), uint32(spans))
		return b.Put(key, append(value, data...))
	})
	if err != nil {
		return 0, fmt.Errorf("write queue on disk: %w", err)
	}
	q.bytes, q.n, q.next = bytes+size, n+1, q.next+1
	return dropped, nil
}

// First returns a copy of the oldest batch, nil when there is none.
func (q *Queue) First() (*Batch, error) {
	var out *Batch
	err := q.db.View(func(tx *bbolt.Tx) error {
		if k, v := tx.Bucket(bucket).Cursor().First(); k != nil {
			out = &Batch{
				key: binary.BigEndian.Uint64(k), Spans: int(binary.BigEndian.Uint32(v)), Data: append([]byte(nil), v[countBytes:]...),
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read queue on disk: %w", err)
	}
	return out, nil
}

// Done removes a batch; one that had to make room meanwhile is gone already.
func (q *Queue) Done(done *Batch) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	removed := 0
	err := q.db.Update(func(tx *bbolt.Tx) error {
		b, key := tx.Bucket(bucket), binary.BigEndian.AppendUint64(nil, done.key)
		v := b.Get(key)
		if v == nil {
			return nil
		}
		removed = len(v)
		return b.Delete(key)
	})
	if err != nil {
		return fmt.Errorf("write queue on disk: %w", err)
	}
	if removed > 0 {
		q.bytes -= int64(removed)
		q.n--
	}
	return nil
}

// Len is the number of batches and their size.
func (q *Queue) Len() (batches int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n, q.bytes
}

// Close closes the file; what is in it stays.
func (q *Queue) Close() error { return q.db.Close() }
