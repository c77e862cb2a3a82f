package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

type ctxKey struct{}

// handler is the root: middleware before the mux, as frameworks do it, only for
// the paths that ask for it.
func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/plain", plain)
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/status", status)
	mux.HandleFunc("/size", size)
	mux.HandleFunc("/chunked", chunked)
	mux.HandleFunc("/hints", hints)
	mux.HandleFunc("/hijack", hijack)
	mux.HandleFunc("/panic", panics)
	mux.HandleFunc("/recovered", recovered(panics))
	mux.HandleFunc("/silent", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/deep", deep)
	mux.HandleFunc("/sleep", sleep)
	mux.HandleFunc("/wait", wait)
	mux.HandleFunc("/redirect", redirect)
	mux.HandleFunc("/headers", headers)
	mux.HandleFunc("/call", a.call)
	mux.HandleFunc("/burst", a.burst)
	mux.HandleFunc("/exec", a.exec)
	mux.HandleFunc("/gen", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, a.gen) })
	addPatterns(mux)
	addClientConn(mux)

	inner := http.NewServeMux()
	inner.HandleFunc("/inner", plain)
	mux.Handle("/sub/", http.StripPrefix("/sub", inner))

	timeout := http.TimeoutHandler(mux, 10*time.Second, "")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/timeout/") {
			timeout.ServeHTTP(w, r)
			return
		}
		if strings.HasPrefix(r.URL.Path, "/mw/") {
			r = r.WithContext(context.WithValue(r.Context(), ctxKey{}, "middleware"))
		}
		if r.URL.Path == "/nomux" {
			plain(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// exec replaces the running program by the executable path, which serves on the same
// address; whatever is in flight ends without an answer.
func (a *app) exec(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Query().Get("path")
	err := syscall.Exec(path, []string{path, "-addr", a.addr, "-gen", strconv.Itoa(a.gen + 1)}, os.Environ())
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

func plain(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }

// num is an integer query parameter.
func num(r *http.Request, name string, def int) int {
	if n, err := strconv.Atoi(r.URL.Query().Get(name)); err == nil {
		return n
	}
	return def
}

func millis(r *http.Request, name string) time.Duration {
	return time.Duration(num(r, name, 0)) * time.Millisecond
}

// echo reads the body and answers its length.
func echo(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%d", n)
}

func status(w http.ResponseWriter, r *http.Request) { w.WriteHeader(num(r, "is", 200)) }

// size answers with n bytes.
func size(w http.ResponseWriter, r *http.Request) {
	buf := make([]byte, 32<<10)
	for n := num(r, "n", 0); n > 0; n -= len(buf) {
		if n < len(buf) {
			buf = buf[:n]
		}
		if _, err := w.Write(buf); err != nil {
			return
		}
	}
}

func chunked(w http.ResponseWriter, r *http.Request) {
	for i := 0; i < 3; i++ {
		io.WriteString(w, "chunk")
		w.(http.Flusher).Flush()
	}
}

// hints sends 103 Early Hints before the answer (Go 1.19 and later).
func hints(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Link", "</style.css>; rel=preload")
	w.WriteHeader(http.StatusEarlyHints)
	w.WriteHeader(http.StatusAccepted)
}

func hijack(w http.ResponseWriter, r *http.Request) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer c.Close()
	time.Sleep(millis(r, "ms"))
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
}

type valueError struct{ code int }

func (e valueError) Error() string { return fmt.Sprintf("value error %d", e.code) }

func panics(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("after") == "write" {
		w.WriteHeader(http.StatusTeapot)
	}
	switch r.URL.Query().Get("with") {
	case "error":
		panic(errors.New("no such order"))
	case "fmt":
		panic(fmt.Errorf("order: %w", errors.New("no such order")))
	case "value":
		panic(valueError{7})
	case "runtime":
		var none []int
		plain(w, r)
		fmt.Fprint(w, none[num(r, "i", 5)])
	case "nilmap":
		var m map[string]int
		m["x"] = 1
	case "abort":
		panic(http.ErrAbortHandler)
	case "nested":
		defer func() { panic(fmt.Sprintf("again: %v", recover())) }()
		panic("first")
	default:
		panic("boom")
	}
}

// recovered is the recovery middleware everybody has.
func recovered(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				http.Error(w, "sorry", http.StatusInternalServerError)
			}
		}()
		next(w, r)
	}
}

// deep grows the goroutine's stack to many times its first size.
func deep(w http.ResponseWriter, r *http.Request) {
	fmt.Fprint(w, recurse(num(r, "n", 10000)))
}

//go:noinline
func recurse(n int) int {
	var pad [64]byte
	if n == 0 {
		return int(pad[0])
	}
	pad[n%64] = byte(n)
	return recurse(n-1) + int(pad[n%64])&1
}

func sleep(w http.ResponseWriter, r *http.Request) {
	time.Sleep(millis(r, "ms"))
	io.WriteString(w, "ok")
}

// wait waits until the client has gone away, at most five seconds.
func wait(w http.ResponseWriter, r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-time.After(5 * time.Second):
	}
}

// redirect answers 302 to itself until n is 0, then to /plain.
func redirect(w http.ResponseWriter, r *http.Request) {
	if n := num(r, "n", 0); n > 1 {
		http.Redirect(w, r, fmt.Sprintf("/redirect?n=%d", n-1), http.StatusFound)
		return
	}
	http.Redirect(w, r, "/plain", http.StatusFound)
}

// headers answers the request's headers, one a line.
func headers(w http.ResponseWriter, r *http.Request) { r.Header.Write(w) }

// pool is a worker pool fed through a channel.
type job struct {
	ctx  context.Context
	run  func(context.Context)
	done *sync.WaitGroup
}

func startPool(n int) chan<- job {
	ch := make(chan job)
	for i := 0; i < n; i++ {
		go work(ch)
	}
	return ch
}

func work(ch <-chan job) {
	for j := range ch {
		j.run(j.ctx)
		j.done.Done()
	}
}
