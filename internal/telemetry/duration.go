package telemetry

import (
	"encoding/binary"

	"go.opentelemetry.io/otel/attribute"
)

// maxDurationSets bounds the attribute sets that a DurationOf keeps.
const maxDurationSets = 4096

// DurationOf measures how long operations took, by some of their attributes. A decoder
// has one for each of its metrics; it is used by one goroutine.
type DurationOf struct {
	instrument *Instrument
	keys       []attribute.Key
	sets       map[string]attribute.Set
	buf        []byte
}

// NewDurationOf measures with i, by the attributes named.
func NewDurationOf(i *Instrument, keys ...attribute.Key) *DurationOf {
	return &DurationOf{instrument: i, keys: keys, sets: map[string]attribute.Set{}}
}

// Measure adds the measurement to op, whose times and attributes are set.
func (d *DurationOf) Measure(op *Operation) {
	seconds := 0.0
	if op.EndKtimeNs > op.StartKtimeNs {
		seconds = float64(op.EndKtimeNs-op.StartKtimeNs) / 1e9
	}
	op.Measurements = append(op.Measurements, Measurement{Instrument: d.instrument, Value: seconds, Attributes: d.set(op.Attributes)})
}

func (d *DurationOf) set(attrs []attribute.KeyValue) attribute.Set {
	d.buf = d.buf[:0]
	for n, k := range d.keys {
		for _, kv := range attrs {
			if kv.Key == k {
				text := kv.Value.String()
				d.buf = binary.AppendUvarint(append(d.buf, byte(n)), uint64(len(text)))
				d.buf = append(d.buf, text...)
			}
		}
	}
	if s, ok := d.sets[string(d.buf)]; ok {
		return s
	}
	var kvs []attribute.KeyValue
	for _, k := range d.keys {
		for _, kv := range attrs {
			if kv.Key == k {
				kvs = append(kvs, kv)
			}
		}
	}
	s := attribute.NewSet(kvs...)
	if len(d.sets) >= maxDurationSets {
		clear(d.sets)
	}
	d.sets[string(d.buf)] = s
	return s
}
