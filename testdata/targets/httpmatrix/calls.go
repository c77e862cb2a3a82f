package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

type app struct {
	addr    string // of the plain server
	gen     int
	cert    tls.Certificate
	workers chan<- job
	grown   chan job // done by workers that requests have started
	mu      sync.Mutex
	clients map[string]*http.Client
}

func newApp() *app {
	return &app{workers: startPool(4), grown: make(chan job), clients: map[string]*http.Client{}}
}

// outcome is one call's result as the program itself sees it.
type outcome struct {
	Status int    `json:"status,omitempty"`
	Proto  string `json:"proto,omitempty"`
	Bytes  int64  `json:"bytes"`
	Err    string `json:"err,omitempty"`
}

// call makes outgoing calls as the query says and answers their outcomes.
//
//	url, method, size    what is called, with a body of size bytes
//	style                inline, go, go4, pool, fanout; deep: four goroutines deep, of which
//	                     each waits for the next; grow: start a worker as deep that does
//	                     what requests of style grown send it
//	n                    how many calls (fanout: at once, else one after the other)
//	ctx=0                do not hand on the request's context
//	client               default, insecure, insecure1, strict, short, fresh, h2c
//	ctxms, cancelms      deadline or cancellation of the call's context, in ms
//	deep                 grow the stack by that many frames first
//	header               Name:value to send, any number of times
//	rawheader            the same with the name's letters as they are
//	exit=1               end the program instead of answering
func (a *app) call(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	ctx := r.Context()
	if q.Get("ctx") == "0" {
		ctx = context.Background()
	}
	n := num(r, "n", 1)
	out := make([]outcome, n)
	one := func(ctx context.Context, i int) { out[i] = a.do(ctx, r) }
	var wg sync.WaitGroup
	wg.Add(n)

	switch q.Get("style") {
	case "go":
		go each(ctx, n, &wg, one)
	case "go4":
		go func() { go func() { go func() { go each(ctx, n, &wg, one) }() }() }()
	case "deep":
		deepen(4, func() { each(ctx, n, &wg, one) })
	case "grow":
		go deepen(3, func() { work(a.grown) })
	case "pool", "grown":
		workers := a.workers
		if q.Get("style") == "grown" {
			workers = a.grown
		}
		for i := 0; i < n; i++ {
			i := i
			workers <- job{ctx, func(ctx context.Context) { one(ctx, i) }, &wg}
		}
	case "fanout":
		for i := 0; i < n; i++ {
			i := i
			go func() { defer wg.Done(); one(ctx, i) }()
		}
	default:
		if d := num(r, "deep", 0); d > 0 {
			recurse(d)
		}
		each(ctx, n, &wg, one)
	}
	wg.Wait()
	if q.Get("exit") != "" {
		os.Exit(0)
	}
	json.NewEncoder(w).Encode(out)
}

// deepen runs f n goroutines down, and waits.
func deepen(n int, f func()) {
	if n == 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		deepen(n-1, f)
	}()
	<-done
}

func each(ctx context.Context, n int, wg *sync.WaitGroup, one func(context.Context, int)) {
	for i := 0; i < n; i++ {
		one(ctx, i)
		wg.Done()
	}
}

// do makes one call.
func (a *app) do(ctx context.Context, r *http.Request) (o outcome) {
	q := r.URL.Query()
	if d := millis(r, "ctxms"); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	if d := millis(r, "cancelms"); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		time.AfterFunc(d, cancel)
		defer cancel()
	}
	method := q.Get("method")
	if method == "" {
		method = http.MethodGet
	}
	var body io.Reader
	if n := num(r, "size", 0); n > 0 {
		body = strings.NewReader(strings.Repeat("x", n))
	}
	req, err := http.NewRequestWithContext(ctx, method, q.Get("url"), body)
	if err != nil {
		return outcome{Err: err.Error()}
	}
	if tp := q.Get("traceparent"); tp != "" {
		req.Header.Set("traceparent", tp)
	}
	if ts := q.Get("tracestate"); ts != "" {
		req.Header.Set("tracestate", ts)
	}
	for _, h := range q["header"] {
		name, value, _ := strings.Cut(h, ":")
		req.Header.Set(name, value)
	}
	for _, h := range q["rawheader"] {
		name, value, _ := strings.Cut(h, ":")
		req.Header[name] = append(req.Header[name], value)
	}
	resp, err := a.client(q.Get("client")).Do(req)
	if err != nil {
		return outcome{Err: err.Error()}
	}
	defer resp.Body.Close()
	o.Status, o.Proto = resp.StatusCode, resp.Proto
	o.Bytes, err = io.Copy(io.Discard, resp.Body)
	if err != nil {
		o.Err = err.Error()
	}
	return o
}

// client returns the named client; each has connections of its own.
func (a *app) client(kind string) *http.Client {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.clients[kind]; c != nil {
		return c
	}
	t := &http.Transport{MaxIdleConnsPerHost: 256}
	c := &http.Client{Transport: t, Timeout: 10 * time.Second}
	switch kind {
	case "insecure":
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
		t.ForceAttemptHTTP2 = true
	case "insecure1":
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	case "short":
		c.Timeout = 100 * time.Millisecond
	case "fresh":
		t.DisableKeepAlives = true
	case "h2c":
		c.Transport = h2cTransport()
	}
	a.clients[kind] = c
	return c
}

// burst makes n calls to url, c at a time, and answers how many succeeded.
func (a *app) burst(w http.ResponseWriter, r *http.Request) {
	n, c := num(r, "n", 1), num(r, "c", 1)
	url := r.URL.Query().Get("url")
	cl := a.client(r.URL.Query().Get("client"))
	todo := make(chan struct{}, n)
	for i := 0; i < n; i++ {
		todo <- struct{}{}
	}
	close(todo)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ok := 0
	for i := 0; i < c; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range todo {
				resp, err := cl.Get(url)
				if err != nil {
					continue
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode == 200 {
					mu.Lock()
					ok++
					mu.Unlock()
				}
			}
		}()
	}
	wg.Wait()
	fmt.Fprint(w, ok)
}
