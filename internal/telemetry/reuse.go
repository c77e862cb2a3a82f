package telemetry

import (
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
)

const (
	// usual is the room for attributes in a new operation.
	usual = 16
	// maxReused is how many one may have room for and still be used again.
	maxReused = 64
)

// spare are operations that nobody uses any more: the memory of one, with its attributes,
// is a kilobyte, and collecting it as garbage was a fifth of the agent's work on a span.
var spare = sync.Pool{New: func() any {
	return &Operation{Attributes: make([]attribute.KeyValue, 0, usual), spare: true}
}}

// NewOperation returns an empty operation, whose Attributes may have room already. It is
// used again after its last Release, or collected when that does not come.
func NewOperation() *Operation { return spare.Get().(*Operation) }

// Share says that n holders are going to Release the operation.
func (op *Operation) Share(n int) { atomic.StoreInt32(&op.holders, int32(n)) }

// Release says that one of them does not use it any more.
func (op *Operation) Release() {
	if !op.spare || atomic.AddInt32(&op.holders, -1) != 0 {
		return
	}
	room := op.Attributes
	if cap(room) > maxReused {
		room = nil
	}
	clear(room)
	*op = Operation{Attributes: room[:0], spare: true}
	spare.Put(op)
}
