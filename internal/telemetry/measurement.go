package telemetry

import "go.opentelemetry.io/otel/attribute"

// InstrumentKind says how the values of an instrument add up.
type InstrumentKind uint8

const (
	// Counter only grows. A measurement adds to it; an observation is its total
	// since the process began.
	Counter InstrumentKind = iota
	// UpDownCounter grows and falls; values of several series may be added up.
	UpDownCounter
	// Gauge is the last value.
	Gauge
	// Histogram is a distribution; it is measured, or observed as a whole.
	Histogram
)

// String is the kind's name in documentation.
func (k InstrumentKind) String() string {
	return [...]string{"counter", "up-down counter", "gauge", "histogram"}[k]
}

// Instrument describes a metric. It is declared once, as a package variable: its
// address is its identity, and it is never changed.
type Instrument struct {
	// Name and Unit are those of the semantic conventions; the unit is UCUM.
	Name, Unit, Description string
	Kind                    InstrumentKind
	// Bounds are the explicit bucket boundaries of a histogram.
	Bounds []float64
	// Scored is set on durations of served operations, from which an Apdex score and a
	// ratio of errors are derived: the attribute that is the operation's route.
	Scored attribute.Key
}

// Measurement is one value of an instrument, of one process. Attributes must be of
// low cardinality; a decoder keeps the sets it has made and uses them again.
type Measurement struct {
	Instrument *Instrument
	Value      float64
	Attributes attribute.Set
}

// Observe takes the value an instrument has now.
type Observe func(i *Instrument, value float64, attributes attribute.Set)

// Distribution is a histogram that somebody else keeps: how many values there were since
// the process began that are at most each bound, and above the last.
type Distribution struct {
	Bounds []float64 // ascending
	Counts []uint64  // one more than bounds
	Sum    float64
}

// ObserveDistribution takes what a histogram is now. It does not keep d.
type ObserveDistribution func(i *Instrument, d Distribution)

// DurationBounds are the boundaries that the conventions advise for durations of
// requests, in seconds.
var DurationBounds = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}
