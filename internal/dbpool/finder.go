package dbpool

import (
	"strconv"
	"time"

	"github.com/tracer-agent/tracer-agent/internal/telemetry"
)

const (
	// seekNs is how long the point stays: it runs once more for each call of the program.
	seekNs = uint64(time.Second)
	// maxSought bounds the processes that are remembered.
	maxSought = 8192
)

// Finder looks for the pools of processes that are seen for the first time, where a
// library's calls do not say which pool they use: new pools tell of themselves, those that
// are open already are found by a point that is attached for a moment. Used by one decoder.
type Finder struct {
	// Pools takes note of what is found; nil: nothing is looked for.
	Pools *Registry
	// Point is attached and taken off by SetPoint.
	Point    string
	SetPoint func(exeID uint32, on bool, points ...string)
	// Library is Lib.Name.
	Library string

	// sought are the processes that were looked at, or told their pools by themselves.
	sought map[telemetry.ProcessKey]bool
	// seeking: by executable, when the point is to be taken off.
	seeking map[uint32]seeking
}

type seeking struct {
	until uint64
	asked int // a request may be dropped when there are many
}

// Seek has the point attached for a while when a process makes its first call, and
// taken off by a later one; nowNs is the call's time.
func (f *Finder) Seek(key telemetry.ProcessKey, exeID uint32, nowNs uint64) {
	if f.Pools == nil {
		return
	}
	if f.seeking == nil {
		f.seeking = map[uint32]seeking{}
	}
	if !f.sought[key] {
		f.remember(key)
		f.seeking[exeID] = seeking{until: nowNs + seekNs}
		f.SetPoint(exeID, true, f.Point)
		return
	}
	if s, ok := f.seeking[exeID]; ok && nowNs > s.until {
		f.seeking[exeID] = seeking{until: nowNs + seekNs, asked: s.asked + 1}
		if s.asked == 2 {
			delete(f.seeking, exeID)
		}
		f.SetPoint(exeID, false, f.Point)
	}
}

func (f *Finder) remember(key telemetry.ProcessKey) {
	if f.sought == nil || len(f.sought) >= maxSought {
		f.sought = map[telemetry.ProcessKey]bool{}
	}
	f.sought[key] = true
}

// Found takes note of a pool. It is named by its database and, from the second on, a number.
func (f *Finder) Found(key telemetry.ProcessKey, exeID uint32, at uint64, name string) {
	lib := Lib{Exe: exeID, Name: f.Library}
	f.remember(key)
	if f.Pools.Known(key, lib, at) {
		return
	}
	if n := f.Pools.Count(key, lib); n > 0 {
		name += "-" + strconv.Itoa(n+1)
	}
	f.Pools.Add(key, lib, at, Pool{Name: name, Sticky: true})
}
