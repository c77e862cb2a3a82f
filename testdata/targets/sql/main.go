// Command sql is a program whose HTTP requests make SQL calls, one route for each
// driver and kind of call: GET /{pq|stdlib|skip|bare|pgx|pgxpool}/{call}. It knows nothing
// of the agent. main.go serves; calls are in std.go and pgx.go.
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
	"time"
)

// canary is in every value that a call sends.
const canary = "CANARY"

// caller makes the call of that name and returns what the program sees of it.
type caller interface {
	call(ctx context.Context, name string) error
}

func main() {
	dsn := flag.String("dsn", "", "PostgreSQL's URL")
	flag.Parse()
	ctx := context.Background()
	libs := map[string]caller{}
	for name, open := range map[string]func(context.Context, string) (caller, error){
		"pq": openPQ, "stdlib": openStdlib, "pgx": openPgx, "pgxpool": openPool,
		"skip": openSkip, "bare": openBare,
	} {
		c, err := open(ctx, *dsn)
		if err != nil {
			fmt.Fprintln(os.Stderr, name, err)
			os.Exit(1)
		}
		libs[name] = c
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { serve(w, r, libs) })
	ready, _ := json.Marshal(map[string]interface{}{"pid": os.Getpid(), "go": runtime.Version(), "http": ln.Addr().String()})
	fmt.Printf("ready %s\n", ready)
	fmt.Fprintln(os.Stderr, http.Serve(ln, nil))
}

// serve makes ?n= calls, ?par= at a time, ?ms= as their deadline, ended after ?cancel=.
func serve(w http.ResponseWriter, r *http.Request, libs map[string]caller) {
	part := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	lib := libs[part[0]]
	if lib == nil || len(part) != 2 {
		fmt.Fprint(w, "ok") // the tests' fence
		return
	}
	ctx := r.Context()
	if ms := number(r, "ms", 0); ms > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		defer cancel()
	}
	if ms := number(r, "cancel", 0); ms > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer time.AfterFunc(time.Duration(ms)*time.Millisecond, cancel).Stop()
	}
	n, par := number(r, "n", 1), number(r, "par", 1)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	calls := func() {
		defer wg.Done()
		for i := 0; i < n; i++ {
			if err := lib.call(ctx, part[1]); err != nil {
				mu.Lock()
				first = err
				mu.Unlock()
			}
		}
	}
	wg.Add(par)
	for p := 1; p < par; p++ {
		go calls()
	}
	calls()
	wg.Wait()
	if first != nil {
		fmt.Fprintf(w, "error: %v", first)
		return
	}
	fmt.Fprint(w, "ok")
}

func number(r *http.Request, name string, def int) int {
	n, err := strconv.Atoi(r.FormValue(name))
	if err != nil || n < 1 {
		return def
	}
	return n
}
