package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// loadSpec says what one run of the load generator does: closed loop on conns
// connections, or at a fixed rate over them.
type loadSpec struct {
	addr, path string        // several addresses, comma separated, take turns
	conns      int           // to each of them
	rate       int           // requests a second over all connections; 0 = as fast as it goes
	duration   time.Duration // when the run ends, unless
	requests   int           // so many were sent first; 0 = no limit
}

// loadResult is what the generator saw.
type loadResult struct {
	Requests int     `json:"requests"` // answered in full
	Errors   int     `json:"errors"`
	Seconds  float64 `json:"seconds"`
	P50us    float64 `json:"p50_us"`
}

// runLoad runs the generator as a process of its own on the second processor.
func runLoad(s loadSpec) (loadResult, error) {
	res, err := runLoads(s)
	if err != nil {
		return loadResult{}, err
	}
	return res[0], nil
}

// runLoads is runLoad for several addresses, a result for each.
func runLoads(s loadSpec) ([]loadResult, error) {
	var res []loadResult
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("taskset", "-c", loadCPU, self, "load", "-addr", s.addr, "-path", s.path, "-conns", strconv.Itoa(s.conns),
		"-rate", strconv.Itoa(s.rate), "-duration", s.duration.String(), "-requests", strconv.Itoa(s.requests))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return res, fmt.Errorf("load on %s%s: %w", s.addr, s.path, err)
	}
	if err := json.Unmarshal(out, &res); err != nil {
		return res, fmt.Errorf("load on %s%s: answer %q: %w", s.addr, s.path, out, err)
	}
	for _, r := range res {
		if r.Errors > 0 || r.Requests == 0 {
			return res, fmt.Errorf("load on %s%s: %d requests, %d errors", s.addr, s.path, r.Requests, r.Errors)
		}
	}
	return res, nil
}

// loadMain is the generator's own process.
func loadMain(args []string) error {
	var s loadSpec
	f := flag.NewFlagSet("load", flag.ExitOnError)
	f.StringVar(&s.addr, "addr", "", "host:port")
	f.StringVar(&s.path, "path", "/", "request path")
	f.IntVar(&s.conns, "conns", 16, "connections")
	f.IntVar(&s.rate, "rate", 0, "requests a second, 0 = closed loop")
	f.DurationVar(&s.duration, "duration", 3*time.Second, "how long")
	f.IntVar(&s.requests, "requests", 0, "how many at most, 0 = no limit")
	if err := f.Parse(args); err != nil {
		return err
	}
	runtime.GOMAXPROCS(1)
	res, err := generate(s)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(res)
}

// sample is one connection's part of a result.
type sample struct {
	n       int
	latency []time.Duration
	err     error
}

func generate(s loadSpec) ([]loadResult, error) {
	addrs := strings.Split(s.addr, ",")
	req := []byte("GET " + s.path + " HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n\r\n")
	conns := make([][]net.Conn, len(addrs))
	for i, addr := range addrs {
		for range s.conns {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				return nil, err
			}
			defer c.Close()
			conns[i] = append(conns[i], c)
		}
	}
	if s.rate == 0 && s.requests == 0 {
		return saturate(conns, req, s.duration)
	}
	budget := newBudget(s.requests)
	samples := make([][]sample, s.conns)
	start := time.Now()
	end := start.Add(s.duration)
	var wg sync.WaitGroup
	for i := range samples {
		samples[i] = make([]sample, len(addrs))
		wg.Go(func() {
			w := worker{req: req, budget: budget, start: start, end: end}
			if s.rate > 0 {
				w.every = time.Second * time.Duration(s.conns) / time.Duration(s.rate)
				w.next = start.Add(w.every * time.Duration(i) / time.Duration(s.conns))
			}
			for _, c := range conns {
				_ = c[i].SetDeadline(end.Add(30 * time.Second))
				w.conns = append(w.conns, c[i])
			}
			w.run(samples[i])
		})
	}
	wg.Wait()

	res := make([]loadResult, len(addrs))
	for i := range res {
		var all []time.Duration
		res[i].Seconds = time.Since(start).Seconds()
		for _, of := range samples {
			res[i].Requests += of[i].n
			all = append(all, of[i].latency...)
			if of[i].err != nil {
				res[i].Errors++
				fmt.Fprintln(os.Stderr, "load:", of[i].err)
			}
		}
		if len(all) > 0 {
			slices.Sort(all)
			res[i].P50us = float64(all[len(all)/2].Nanoseconds()) / 1e3
		}
	}
	return res, nil
}

// slice is how long one of several addresses has the load before the next one: shorter than
// what the machine's speed takes to change, and longer than what a switch disturbs.
const slice = 40 * time.Millisecond

// turnOf is which of n has turn number i. Every other round goes backwards: what one leaves
// to be done, another has to bear, and it shall not always be the same.
func turnOf(i, n int) int {
	if at := i % n; i/n%2 == 0 {
		return at
	} else {
		return n - 1 - at
	}
}

type worker struct {
	conns      []net.Conn // to each address
	req        []byte
	budget     *budget
	start, end time.Time
	every      time.Duration // pause between starts, 0 = none
	next       time.Time
	answer     []byte
}

// run sends requests until time or budget is up. Latency counts from the moment
// a request is written: the rates used here leave the server idle in between.
func (w *worker) run(samples []sample) {
	for time.Now().Before(w.end) && w.budget.take() {
		if w.every > 0 {
			time.Sleep(time.Until(w.next))
			w.next = w.next.Add(w.every)
		}
		began := time.Now()
		at := turnOf(int(began.Sub(w.start)/slice), len(w.conns))
		s := &samples[at]
		if s.err = w.one(w.conns[at]); s.err != nil {
			return
		}
		s.n++
		if w.every > 0 {
			s.latency = append(s.latency, time.Since(began))
		}
	}
}

// one sends a request and reads the answer.
func (w *worker) one(c net.Conn) error {
	if _, err := c.Write(w.req); err != nil {
		return err
	}
	if w.answer == nil {
		n, err := answerLen(c)
		w.answer = make([]byte, n)
		return err
	}
	if _, err := io.ReadFull(c, w.answer); err != nil {
		return err
	}
	if !bytes.HasPrefix(w.answer, []byte("HTTP/1.1 200")) {
		return fmt.Errorf("answer %q", w.answer)
	}
	return nil
}

// answerLen reads the first answer and returns its length; the target's answers
// all have the same.
func answerLen(r io.Reader) (int, error) {
	buf, n := make([]byte, 4096), 0
	for n < len(buf) {
		k, err := r.Read(buf[n:])
		if err != nil {
			return 0, err
		}
		n += k
		head, body, ok := bytes.Cut(buf[:n], []byte("\r\n\r\n"))
		if !ok {
			continue
		}
		_, length, ok := bytes.Cut(head, []byte("Content-Length: "))
		if !ok {
			return 0, fmt.Errorf("answer without a length: %q", head)
		}
		length, _, _ = bytes.Cut(length, []byte("\r\n"))
		want, err := strconv.Atoi(string(length))
		if err != nil {
			return 0, err
		}
		if len(body) >= want {
			return len(head) + 4 + want, nil
		}
	}
	return 0, errors.New("answer is longer than 4096 bytes")
}

// budget hands out a number of requests.
type budget struct {
	mu    sync.Mutex
	left  int
	bound bool
}

func newBudget(n int) *budget { return &budget{left: n, bound: n > 0} }

func (b *budget) take() bool {
	if !b.bound {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left--
	return b.left >= 0
}
