// Target mongo makes MongoDB commands as its requests ask for: one command a route,
// and bursts of them. The driver's version is the module's.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	uri := flag.String("uri", "mongodb://127.0.0.1:27017/", "server")
	tls := flag.Bool("tls", false, "encrypted, whatever the certificate")
	http10 := flag.String("http", "127.0.0.1:0", "address to listen on")
	flag.Parse()
	c, err := connect(*uri, *tls)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mongo:", err)
		os.Exit(1)
	}
	s := &server{client: c, jobs: make(chan job)}
	for i := 0; i < workers; i++ {
		go s.work()
	}
	ln, err := net.Listen("tcp", *http10)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mongo:", err)
		os.Exit(1)
	}
	ready, _ := json.Marshal(map[string]interface{}{"pid": os.Getpid(), "go": runtime.Version(), "http": ln.Addr().String()})
	fmt.Printf("ready %s\n", ready)
	http.HandleFunc("/do", s.do)
	http.HandleFunc("/pool", s.pool)
	http.HandleFunc("/burst", s.burst)
	http.HandleFunc("/own/", s.own)
	http.HandleFunc("/plain", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	http.HandleFunc("/fence/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	_ = http.Serve(ln, nil)
}

const workers = 16

// ownSteps is how many commands a request for /own/ID makes.
const ownSteps = 10

type server struct {
	client *client
	jobs   chan job
}

type job struct {
	ctx  context.Context
	op   string
	n    int
	done chan error
}

// work makes calls for requests on a goroutine that no request has started.
func (s *server) work() {
	for j := range s.jobs {
		j.done <- s.run(j.ctx, j.op, j.n)
	}
}

// run makes one call; n tells calls of a burst apart.
func (s *server) run(ctx context.Context, op string, n int) error {
	f := ops[op]
	if f == nil {
		return fmt.Errorf("no operation %q", op)
	}
	return f(ctx, s.client, n)
}

func (s *server) answer(w http.ResponseWriter, err error) {
	if err != nil {
		fmt.Fprint(w, "error: ", err)
		return
	}
	fmt.Fprint(w, "ok")
}

// do makes the calls op, one after the other, on the request's goroutine; exit=1 ends the
// program then.
func (s *server) do(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	if d, err := time.ParseDuration(r.FormValue("timeout")); err == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	var err error
	for _, op := range r.Form["op"] {
		if e := s.run(ctx, op, 0); e != nil {
			err = e
		}
	}
	if r.FormValue("exit") != "" {
		os.Exit(0)
	}
	s.answer(w, err)
}

// pool has the call made by a worker, with the request's context.
func (s *server) pool(w http.ResponseWriter, r *http.Request) {
	j := job{ctx: r.Context(), op: r.FormValue("op"), done: make(chan error, 1)}
	s.jobs <- j
	s.answer(w, <-j.done)
}

// busy is in the error of a server whose storage has two writers that wait for each other.
const busy = "SQLITE_BUSY"

func (s *server) ownStep(ctx context.Context, n int) error {
	if n%3 != 0 {
		return s.run(ctx, "own", n)
	}
	j := job{ctx: ctx, op: "own", n: n, done: make(chan error, 1)}
	s.jobs <- j
	return <-j.done
}

// own makes a request's own commands, one after the other, one of three on a worker.
func (s *server) own(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.URL.Path[len("/own/"):])
	for step := 0; step < ownSteps && err == nil; step++ {
		n := ownSteps*id + step
		for try := 0; try < 10; try++ {
			if err = s.ownStep(r.Context(), n); err == nil || !strings.Contains(err.Error(), busy) {
				break
			}
		}
	}
	s.answer(w, err)
}

// burst makes n calls of op, c at a time, and says how many succeeded.
func (s *server) burst(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.Atoi(r.FormValue("n"))
	c, _ := strconv.Atoi(r.FormValue("c"))
	_ = r.FormValue("op")
	names := r.Form["op"]
	var next, ok int64
	var wg sync.WaitGroup
	for i := 0; i < c; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				k := int(atomic.AddInt64(&next, 1)) - 1
				if k >= n {
					return
				}
				if s.run(r.Context(), names[k%len(names)], k) == nil {
					atomic.AddInt64(&ok, 1)
				}
			}
		}()
	}
	wg.Wait()
	fmt.Fprint(w, ok)
}
