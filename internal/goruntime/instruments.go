package goruntime

import "github.com/tracer-agent/tracer-agent/internal/telemetry"

// The names are those of the semantic conventions for the Go runtime, except
// go.memory.heap.objects.size and go.memory.gc.pause.time, which are not in them.
var (
	goroutines  = instrument(telemetry.UpDownCounter, "go.goroutine.count", "{goroutine}", "Count of live goroutines.")
	processors  = instrument(telemetry.UpDownCounter, "go.processor.limit", "{thread}", "OS threads that can run Go code at once (GOMAXPROCS).")
	gogc        = instrument(telemetry.UpDownCounter, "go.config.gogc", "%", "Heap size target of the garbage collector (GOGC); absent when it is off.")
	memoryUsed  = instrument(telemetry.UpDownCounter, "go.memory.used", "By", "Memory used by the Go runtime, by go.memory.type.")
	memoryLimit = instrument(telemetry.UpDownCounter, "go.memory.limit", "By", "Memory limit (GOMEMLIMIT); absent without one.")
	allocated   = instrument(telemetry.Counter, "go.memory.allocated", "By", "Memory allocated to the heap by the application.")
	allocations = instrument(telemetry.Counter, "go.memory.allocations", "{allocation}", "Allocations to the heap by the application.")
	gcGoal      = instrument(telemetry.UpDownCounter, "go.memory.gc.goal", "By", "Heap size at which the next collection should end; absent with a memory limit.")
	heapObjects = instrument(telemetry.UpDownCounter, "go.memory.heap.objects.size", "By", "Memory of live objects and of dead ones that are not swept yet.")
	gcCycles    = instrument(telemetry.Counter, "go.memory.gc.cycles", "{gc_cycle}", "Completed collections.")
	gcPause     = instrument(telemetry.Counter, "go.memory.gc.pause.time", "s", "Time that collections stopped the program.")
	gcPauses    = instrument(telemetry.Histogram, "go.memory.gc.pause.duration", "s", "Time from the decision to stop the program for a collection until it went on.")
	schedule    = instrument(telemetry.Histogram, "go.schedule.duration", "s", "Time that goroutines waited to run.")
)

// all is filled by the declarations above it; the compiler orders them.
var all []*telemetry.Instrument

func instrument(kind telemetry.InstrumentKind, name, unit, description string) *telemetry.Instrument {
	i := &telemetry.Instrument{Name: name, Unit: unit, Description: description, Kind: kind}
	all = append(all, i)
	return i
}

// Instruments lists the metrics of this package, for documentation.
func Instruments() []*telemetry.Instrument { return all }
