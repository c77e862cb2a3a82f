// Command redis is a program whose HTTP requests make Redis calls, one route for
// each library and kind of call: GET /{v8|v9|redigo|redigo-tls}/{call}?db=N. It knows nothing
// of the agent. main.go serves; calls are in goredis.go and redigo.go.
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

	"github.com/gomodule/redigo/redis"
)

// canary is in every key and value that a call sends.
const canary = "CANARY"

// library makes calls with one client library.
type library interface {
	// call makes the call of that name and returns what the program sees of it.
	call(ctx context.Context, name, arg string) error
}

func main() {
	addr := flag.String("redis", "127.0.0.1:6379", "address of the server")
	encrypted := flag.String("redis-tls", "127.0.0.1:6380", "address of the server with TLS, whatever its certificate")
	db := flag.Int("db", 0, "database number")
	flag.Parse()

	libs := map[string]library{
		"v8":     newV8(*addr, *db),
		"v9":     newV9(*addr, *db),
		"redigo": newRedigo(*addr, *db),

		"redigo-tls": newRedigo(*encrypted, *db, redis.DialUseTLS(true), redis.DialTLSSkipVerify(true)),
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

// serve makes ?n= calls, ?par= at a time, ?ms= as their deadline; ?exit=1 ends the program then.
func serve(w http.ResponseWriter, r *http.Request, libs map[string]library) {
	part := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	lib := libs[part[0]]
	if lib == nil || len(part) != 2 {
		fmt.Fprint(w, "ok") // the tests' fence
		return
	}
	ctx := r.Context()
	if ms, _ := strconv.Atoi(r.FormValue("ms")); ms > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		defer cancel()
	}
	if ms, _ := strconv.Atoi(r.FormValue("cancel")); ms > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer time.AfterFunc(time.Duration(ms)*time.Millisecond, cancel).Stop()
	}
	n, par := number(r, "n"), number(r, "par")
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	calls := func() {
		defer wg.Done()
		for i := 0; i < n; i++ {
			if err := lib.call(ctx, part[1], r.FormValue("arg")); err != nil {
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
	if r.FormValue("exit") != "" {
		os.Exit(0)
	}
	if first != nil {
		fmt.Fprintf(w, "error: %v", first)
		return
	}
	fmt.Fprint(w, "ok")
}

func number(r *http.Request, name string) int {
	n, err := strconv.Atoi(r.FormValue(name))
	if err != nil || n < 1 {
		return 1
	}
	return n
}
