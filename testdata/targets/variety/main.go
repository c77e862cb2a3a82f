// Command variety sends HTTP requests of every kind to one address: the same ones for
// the same seed, whoever watches. It knows nothing of tracing.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	line, err := json.Marshal(map[string]any{"pid": os.Getpid(), "http": l.Addr().String()})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("ready %s\n", line)
	http.HandleFunc("/send", send)
	http.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	go func() { log.Fatal(http.Serve(l, nil)) }()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}

// send makes the requests number from to from+n-1 of seed to the address to, in the way
// kind, with workers goroutines. A worker's requests go one after the other, over a
// transport of its own. Answered is the first error, or nothing.
func send(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	num := func(name string) int {
		n, err := strconv.Atoi(q.Get(name))
		if err != nil {
			log.Fatalf("%s: %v", name, err)
		}
		return n
	}
	from, n, workers := num("from"), num("n"), num("workers")
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for i := 0; i < workers; i++ {
		wg.Add(1)
		go func(first int) {
			defer wg.Done()
			s := &sender{kind: q.Get("kind"), to: q.Get("to"), seed: int64(num("seed"))}
			defer s.close()
			for k := first; k < n; k += workers {
				if err := s.one(from + k); err != nil {
					errs <- fmt.Errorf("request %d: %w", from+k, err)
					return
				}
			}
		}(i)
	}
	wg.Wait()
	close(errs)
	if err := <-errs; err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
	}
}

// sender is one worker.
type sender struct {
	kind, to string
	seed     int64
	used     int
	client   *http.Client
	closeOld func()
}

// perTransport is how many requests share a transport, and so a connection.
const perTransport = 25

func (s *sender) one(i int) error {
	if s.used%perTransport == 0 {
		s.close()
		s.client, s.closeOld = newClient(s.kind, s.to, s.used/perTransport)
	}
	s.used++
	req, err := request(s.kind, s.seed, i)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

func (s *sender) close() {
	if s.closeOld != nil {
		s.closeOld()
	}
}

// patience is long: the machine may be slow, and a test has its own limit.
const patience = 2 * time.Minute
