package discover

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/tracer-agent/tracer-agent/internal/ring"
	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const (
	// rescanEvery is the least time between two scans caused by lost records.
	rescanEvery = 50 * time.Millisecond
	// lostEvery is how many records may be read before the loss is looked at, if the ring
	// does not run empty before.
	lostEvery = 32
	// busyPoll is how soon the ring is looked at again after it had something: the
	// kernel side wakes us at most every WAKE_EVERY_NS, which is a little less.
	busyPoll = 52 * time.Millisecond
	// restPoll is how long the end of a process that nobody watches may wait.
	restPoll = 2 * time.Second
)

// Options say what a Watcher is given and what it looks for.
type Options struct {
	// Logger gets the rare message (a scan that failed). Nil: discard.
	Logger *slog.Logger
	// Procs and ExeAuto are the shared maps tr_procs and tr_exe_auto, owned by the
	// caller. Nil: the Watcher makes its own, and nobody reads them.
	Procs, ExeAuto *ebpf.Map
	// Ports: also report listening TCP sockets, from the beginning; see WatchPorts.
	Ports bool
	// Buffer is the capacity of the event channel, 0 for 256. While it is full
	// records wait in the kernel's ring; when that is full too they are lost and
	// made up for by a scan.
	Buffer int
}

// Stats are counters since the start; all only grow, except Processes.
type Stats struct {
	Lost      uint64 // records that did not fit into the ring
	Scans     uint64 // scans of all processes, the first one included
	Overflow  uint64 // processes not watched because of MaxProcesses
	Processes int64  // running processes known now
}

// known is what a Watcher remembers of a running process.
type known struct {
	startNs, execID uint64
}

// Watcher reports processes as they begin and end.
type Watcher struct {
	opts    Options
	log     *slog.Logger
	objs    *objects
	scanner *scanner
	links   []link.Link
	ring    *ring.Reader
	events  chan Event
	done    chan struct{}
	ended   sync.WaitGroup
	once    sync.Once

	// Owned by run.
	procs    map[int32]known
	lostSeen uint64
	scanNs   uint64    // start of the last scan, CLOCK_MONOTONIC
	scanTime time.Time // the same, for the rate limit

	lost, scans, overflow atomic.Uint64
	count                 atomic.Int64

	ports    atomic.Bool
	attaches sync.Mutex // links
}

// New loads and attaches the programs and starts to report: first the processes
// that run already, then what happens. It needs CAP_BPF and CAP_PERFMON (or
// CAP_SYS_ADMIN) and the initial pid namespace.
func New(opts Options) (*Watcher, error) {
	if opts.Buffer <= 0 {
		opts.Buffer = 256
	}
	w := &Watcher{
		opts:   opts,
		log:    opts.Logger,
		events: make(chan Event, opts.Buffer),
		done:   make(chan struct{}),
		procs:  make(map[int32]known),
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if err := w.attach(); err != nil {
		w.release()
		return nil, fmt.Errorf("discover: %w", err)
	}
	// The first scan here, so that a host that cannot do it says so at once. The
	// hooks are in place by now: nothing falls between scan and records.
	first, err := w.scan()
	if err != nil {
		w.release()
		return nil, fmt.Errorf("discover: %w", err)
	}
	w.ended.Add(1)
	go w.run(first)
	return w, nil
}

func (w *Watcher) attach() (err error) {
	if w.objs, err = load(w.opts, false); err != nil {
		return err
	}
	if w.scanner, err = newScanner(w.objs.tasks, w.objs.findVMA); err != nil {
		return err
	}
	if w.ring, err = ring.NewReader(w.objs.coll.Maps[bpfMapDiEvents]); err != nil {
		return err
	}
	if err := w.attachExec(); err != nil {
		return err
	}
	if err := w.attachRaw("sched_process_exit", bpfProgDiExit); err != nil {
		return err
	}
	if w.opts.Ports {
		return w.WatchPorts()
	}
	return nil
}

// WatchPorts begins to report listening sockets, from now on; it may be called again.
func (w *Watcher) WatchPorts() error {
	if w.ports.Swap(true) {
		return nil
	}
	if err := w.attachRaw("inet_sock_set_state", bpfProgDiListen); err != nil {
		w.ports.Store(false)
		return err
	}
	return nil
}

func (w *Watcher) attachExec() error {
	if !w.objs.findVMA {
		return w.attachRaw("sched_process_exec", bpfProgDiExecOld)
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: w.objs.exec})
	if err != nil {
		return fmt.Errorf("attach to tracepoint sched_process_exec: %w", err)
	}
	w.links = append(w.links, l)
	return nil
}

func (w *Watcher) attachRaw(tracepoint, program string) error {
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{
		Name: tracepoint, Program: w.objs.coll.Programs[program],
	})
	if err != nil {
		return fmt.Errorf("attach to tracepoint %s: %w", tracepoint, err)
	}
	w.attaches.Lock()
	defer w.attaches.Unlock()
	w.links = append(w.links, l)
	return nil
}

// Events is where everything is reported. It is closed when the Watcher ends.
func (w *Watcher) Events() <-chan Event { return w.events }

// Stats returns the counters.
func (w *Watcher) Stats() Stats {
	return Stats{w.lost.Load(), w.scans.Load(), w.overflow.Load(), w.count.Load()}
}

// Check says whether a process still runs the same program, by asking the kernel.
// A file that was opened through /proc/PID/exe before a true answer is that
// program's file.
func (w *Watcher) Check(p Process) (bool, error) {
	procs, err := w.scanner.list()
	if err != nil {
		return false, err
	}
	for _, q := range procs {
		if q.Key == p.Key {
			return q.ExecID == p.ExecID, nil
		}
	}
	return false, nil
}

// Close detaches everything, waits for the reporting goroutine and closes Events.
// It may be called more than once.
func (w *Watcher) Close() error {
	w.once.Do(func() {
		close(w.done)
		w.ring.Wake() // run closes Events
		w.ended.Wait()
		w.release()
	})
	return nil
}

func (w *Watcher) release() {
	w.attaches.Lock()
	for _, l := range w.links {
		l.Close()
	}
	w.links = nil
	w.attaches.Unlock()
	if w.ring != nil {
		w.ring.Close()
	}
	if w.scanner != nil {
		w.scanner.close()
	}
	w.objs.Close()
}

func (w *Watcher) run(first []Process) {
	defer w.ended.Done()
	defer close(w.events)

	if !w.reconcile(first) || !w.send(Scanned{}) {
		return
	}
	var rec ringbuf.Record
	busy, since := true, 0
	for !w.closing() {
		empty := w.ring.Available() == 0
		if since++; empty || since >= lostEvery {
			since = 0
			if !w.makeUp() {
				return
			}
		}
		var err error
		if empty {
			until := time.Now().Add(w.pollIn(busy))
			err = w.ring.Wait(until, 1)
			// A wait that ends early may have been woken for a record that was read before.
			busy = busy && time.Now().Before(until)
		}
		ok := false
		if err == nil {
			ok, err = w.ring.Read(&rec)
		}
		if err != nil {
			w.log.Error("process records unreadable", "error", err)
			return
		}
		if !ok {
			continue
		}
		busy = true
		var e bpfDiscoverEvent
		if _, err := binary.Decode(rec.RawSample, binary.NativeEndian, &e); err != nil {
			continue // cannot be: the kernel side writes this one size
		}
		if !w.handle(&e) {
			return
		}
	}
}

func (w *Watcher) closing() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// pollIn is how long to wait for a wake-up before looking anyway.
func (w *Watcher) pollIn(busy bool) time.Duration {
	switch {
	case w.lost.Load() != w.lostSeen:
		return max(0, time.Until(w.scanTime.Add(rescanEvery)))
	case busy:
		return busyPoll
	}
	return restPoll
}

// makeUp scans when records were lost, but not more often than rescanEvery. A record is
// only ever lost while others wait, so looking after those is enough.
func (w *Watcher) makeUp() bool {
	lost := w.readLost()
	w.lost.Store(lost)
	if lost == w.lostSeen {
		return true
	}
	if time.Since(w.scanTime) < rescanEvery {
		return true // see pollIn
	}
	procs, err := w.scan()
	if err != nil {
		w.log.Error("processes could not be listed after records were lost", "error", err)
		return true
	}
	return w.reconcile(procs)
}

func (w *Watcher) readLost() uint64 {
	var n uint64
	if err := w.objs.coll.Maps[bpfMapDiLost].Lookup(uint32(0), &n); err != nil {
		return w.lostSeen
	}
	return n
}

// scan lists the processes. The loss counter and the clock are read before, so
// that whatever happens during the scan is either in it or in a later record.
func (w *Watcher) scan() ([]Process, error) {
	lost, now := w.readLost(), monotonicNs()
	w.scanTime = time.Now()
	procs, err := w.scanner.list()
	if err != nil {
		return nil, err
	}
	w.lostSeen, w.scanNs = lost, now
	w.scans.Add(1)
	return procs, nil
}

// reconcile reports the difference between a scan and what is known. Like all
// functions that report it returns false when the Watcher is closing.
func (w *Watcher) reconcile(procs []Process) bool {
	running := make(map[int32]uint64, len(procs))
	for _, p := range procs {
		running[p.Key.PID] = p.Key.StartNs
	}
	for pid, k := range w.procs {
		if start, ok := running[pid]; !ok || start != k.startNs {
			if !w.gone(telemetry.ProcessKey{PID: pid, StartNs: k.startNs}) {
				return false
			}
		}
	}
	for _, p := range procs {
		if !w.started(p) {
			return false
		}
		if w.ports.Load() && !w.listening(p.Key) {
			return false
		}
	}
	return true
}

func (w *Watcher) handle(e *bpfDiscoverEvent) bool {
	switch e.Type {
	case bpfDiscoverTypeTYPE_EXEC:
		if e.KtimeNs < w.scanNs {
			return true // older than the scan, which saw it if it still runs
		}
		p := processOf(e)
		if !w.started(p) {
			return false
		}
		// Sockets can be handed down through exec.
		return !w.ports.Load() || w.listening(p.Key)
	case bpfDiscoverTypeTYPE_EXIT:
		key := keyOf(e)
		if k, ok := w.procs[key.PID]; ok && k.startNs == key.StartNs {
			return w.gone(key)
		}
	case bpfDiscoverTypeTYPE_LISTEN:
		if e.Port != 0 {
			return w.send(Listening{Key: keyOf(e), Port: e.Port})
		}
	}
	return true
}

func (w *Watcher) started(p Process) bool {
	k, ok := w.procs[p.Key.PID]
	replaced := ok && k.startNs == p.Key.StartNs
	switch {
	case replaced && p.ExecID <= k.execID:
		return true // known from the scan
	case replaced:
	case ok && p.Key.StartNs < k.startNs:
		return true // an old record of a pid that is used again
	case ok:
		if !w.gone(telemetry.ProcessKey{PID: p.Key.PID, StartNs: k.startNs}) {
			return false
		}
	case len(w.procs) >= MaxProcesses:
		w.overflow.Add(1)
		return true
	}
	w.procs[p.Key.PID] = known{startNs: p.Key.StartNs, execID: p.ExecID}
	w.count.Store(int64(len(w.procs)))
	p.Path = exePathOf(p.Key.PID)
	return w.send(Started{Process: p, Replaced: replaced})
}

func (w *Watcher) gone(key telemetry.ProcessKey) bool {
	delete(w.procs, key.PID)
	w.count.Store(int64(len(w.procs)))
	return w.send(Exited{Key: key})
}

func (w *Watcher) listening(key telemetry.ProcessKey) bool {
	ports, err := ListeningPorts(key.PID)
	if err != nil {
		return true // it ended meanwhile; its exit record follows
	}
	for _, port := range ports {
		if !w.send(Listening{Key: key, Port: port}) {
			return false
		}
	}
	return true
}

func (w *Watcher) send(e Event) bool {
	select {
	case w.events <- e:
		return true
	case <-w.done:
		return false
	}
}

// monotonicNs is the clock of bpf_ktime_get_ns.
func monotonicNs() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // every record then counts as newer, which is safe
	}
	return uint64(ts.Nano())
}
