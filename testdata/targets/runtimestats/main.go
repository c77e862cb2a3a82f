// Command runtimestats says, for every line that it reads, what its own runtime counts.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
)

var kept [][]byte

// power is how many bits the nanoseconds of a bucket have, 10 to 34.
func power(seconds float64) int {
	if seconds < 0 {
		return 10
	}
	n := bits.Len64(uint64(seconds*1e9 + 0.5))
	if n < 10 {
		return 10
	}
	if n > 34 {
		return 34
	}
	return n
}

func main() {
	park := make(chan struct{})
	for i := 0; i < 57; i++ {
		go func() { <-park }()
	}
	done := make(chan struct{})
	for i := 0; i < 200; i++ { // goroutines that have ended are kept for later ones
		go func() { done <- struct{}{} }()
		<-done
	}
	fmt.Printf("ready {\"pid\":%d}\n", os.Getpid())
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		n, err := strconv.Atoi(in.Text())
		if err != nil {
			os.Exit(2)
		}
		for i := 0; i < n; i++ {
			kept = append(kept, make([]byte, 100+i%50000))
			if len(kept) > 500 {
				kept = kept[:0]
			}
		}
		if n > 0 {
			runtime.GC() // what was swept while metrics are read would move them
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		samples := make([]metrics.Sample, 0, 16)
		for _, d := range metrics.All() {
			if d.Kind == metrics.KindUint64 || d.Name == "/sched/latencies:seconds" || d.Name == "/gc/pauses:seconds" {
				samples = append(samples, metrics.Sample{Name: d.Name})
			}
		}
		metrics.Read(samples)
		out := map[string]uint64{"pause": m.PauseTotalNs, "procs": uint64(runtime.GOMAXPROCS(0))}
		for _, s := range samples {
			if s.Value.Kind() == metrics.KindUint64 {
				out[s.Name] = s.Value.Uint64()
				continue
			}
			h := s.Value.Float64Histogram()
			for i, n := range h.Counts {
				out[s.Name+"#"+strconv.Itoa(power(h.Buckets[i]))] += n
			}
		}
		if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
			os.Exit(1)
		}
	}
}
