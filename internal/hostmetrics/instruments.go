package hostmetrics

import "github.com/tracer-agent/tracer-agent/internal/telemetry"

// all are the instruments of this package, for the documentation.
var all []*telemetry.Instrument

func instrument(kind telemetry.InstrumentKind, name, unit, description string) *telemetry.Instrument {
	i := &telemetry.Instrument{Name: name, Unit: unit, Description: description, Kind: kind}
	all = append(all, i)
	return i
}

const (
	counter       = telemetry.Counter
	upDownCounter = telemetry.UpDownCounter
	gauge         = telemetry.Gauge
)

// Of a process.
var (
	procCPUTime = instrument(counter, "process.cpu.time", "s", "CPU time used, by cpu.mode.")
	procCPUUtil = instrument(gauge, "process.cpu.utilization", "1",
		"CPU time since the last collection, divided by elapsed time and number of CPUs, by cpu.mode.")
	procRunqueue = instrument(counter, "process.cpu.runqueue.wait", "s", "Time that threads were runnable and waited for a CPU.")
	procMemory   = instrument(upDownCounter, "process.memory.usage", "By", "Physical memory in use (resident set).")
	procVirtual  = instrument(upDownCounter, "process.memory.virtual", "By", "Committed virtual memory.")
	procPSS      = instrument(upDownCounter, "process.memory.pss", "By", "Proportional set size: shared pages divided by their users. Read once a minute at most.")
	procUSS      = instrument(upDownCounter, "process.memory.uss", "By", "Unique set size: memory that would be free without this process. Read once a minute at most.")
	procThreads  = instrument(upDownCounter, "process.thread.count", "{thread}", "Threads.")
	procFDs      = instrument(upDownCounter, "process.unix.file_descriptor.count", "{file_descriptor}", "Open file descriptors.")
	procFDLimit  = instrument(gauge, "process.unix.file_descriptor.limit", "{file_descriptor}", "Most file descriptors it may open (soft limit); absent without a limit.")
	procSwitches = instrument(counter, "process.context_switches", "{context_switch}", "Context switches of all threads, by process.context_switch.type.")
	procFaults   = instrument(counter, "process.paging.faults", "{fault}", "Page faults, by system.paging.fault.type.")
	procDiskIO   = instrument(counter, "process.disk.io", "By", "Bytes that reached or came from storage, by disk.io.direction.")
	procUptime   = instrument(gauge, "process.uptime", "s", "Time since the process started.")
	procStart    = instrument(gauge, "process.start_time", "s", "Start of the process, seconds since the epoch.")
)

// Of the control group a process is in, unless that is the root.
var (
	contCPUTime   = instrument(counter, "container.cpu.time", "s", "CPU time used by the container, by cpu.mode where the kernel tells.")
	contCPULimit  = instrument(gauge, "container.cpu.limit", "{cpu}", "CPUs the container may use; absent without a limit.")
	contPeriods   = instrument(counter, "container.cpu.periods", "{period}", "Enforcement periods in which the container wanted to run.")
	contThrottled = instrument(counter, "container.cpu.throttled_periods", "{period}", "Periods in which it was throttled.")
	contThrottle  = instrument(counter, "container.cpu.throttled_time", "s", "Time it was throttled.")
	contMemory    = instrument(upDownCounter, "container.memory.usage", "By", "Memory of the container, page cache included.")
	contWorking   = instrument(upDownCounter, "container.memory.working_set", "By", "Memory of the container without inactive page cache.")
	contMemLimit  = instrument(gauge, "container.memory.limit", "By", "Memory the container may use; absent without a limit.")
	contOOM       = instrument(counter, "container.memory.oom_kills", "{process}", "Processes of the container that the kernel killed for lack of memory.")
	contNetwork   = instrument(counter, "container.network.io", "By", "Bytes, by network.io.direction and network.interface.name; only with a network namespace of its own.")
	contPressure  = instrument(counter, "container.pressure.stall_time", "s", "Time tasks of the container were stalled, by resource and share (some, full); cgroup v2.")
)

// Of the host.
var (
	sysCPUTime     = instrument(counter, "system.cpu.time", "s", "CPU time of all CPUs, by cpu.mode.")
	sysCPUUtil     = instrument(gauge, "system.cpu.utilization", "1", "Share of all CPUs' time since the last collection, by cpu.mode.")
	sysCPUCount    = instrument(upDownCounter, "system.cpu.logical.count", "{cpu}", "CPUs.")
	sysLoad1       = instrument(gauge, "system.cpu.load_average.1m", "{thread}", "Load average over 1 minute.")
	sysLoad5       = instrument(gauge, "system.cpu.load_average.5m", "{thread}", "Load average over 5 minutes.")
	sysLoad15      = instrument(gauge, "system.cpu.load_average.15m", "{thread}", "Load average over 15 minutes.")
	sysMemory      = instrument(upDownCounter, "system.memory.usage", "By", "Memory, by system.memory.state.")
	sysMemLimit    = instrument(upDownCounter, "system.memory.limit", "By", "Memory there is.")
	sysMemAvail    = instrument(upDownCounter, "system.memory.linux.available", "By", "Memory that programs can have without swapping.")
	sysDiskIO      = instrument(counter, "system.disk.io", "By", "Bytes, by system.device and disk.io.direction.")
	sysDiskOps     = instrument(counter, "system.disk.operations", "{operation}", "Operations, by system.device and disk.io.direction.")
	sysDiskTime    = instrument(counter, "system.disk.io_time", "s", "Time the device was busy, by system.device.")
	sysNetIO       = instrument(counter, "system.network.io", "By", "Bytes, by network.interface.name and network.io.direction.")
	sysNetPackets  = instrument(counter, "system.network.packet.count", "{packet}", "Packets, by network.interface.name and network.io.direction.")
	sysNetErrors   = instrument(counter, "system.network.errors", "{error}", "Errors, by network.interface.name and network.io.direction.")
	sysNetDropped  = instrument(counter, "system.network.packet.dropped", "{packet}", "Dropped packets, by network.interface.name and network.io.direction.")
	sysFS          = instrument(upDownCounter, "system.filesystem.usage", "By", "Space of local file systems, by mountpoint and state.")
	sysPressure    = instrument(counter, "system.pressure.stall_time", "s", "Time tasks were stalled, by resource and share (some, full).")
	sysUptime      = instrument(gauge, "system.uptime", "s", "Time since the host started.")
	sysProcCreated = instrument(counter, "system.process.created", "{process}", "Processes created.")
)

// Instruments are all of them, in the order of the documentation.
func Instruments() []*telemetry.Instrument { return all }
