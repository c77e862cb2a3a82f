// Command websocket echoes messages over WebSocket connections, with one library on each
// path, and dials them on request: /dial?lib=gorilla&url=ws://...&n=3&size=10.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
	nhooyr "nhooyr.io/websocket"
)

// called answers the calls that echoing handlers make, as a database would.
var called string

func call() {
	if resp, err := http.Get(called); err == nil {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

func serveGorilla(w http.ResponseWriter, r *http.Request) {
	var u gorilla.Upgrader
	c, err := u.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	for {
		t, b, err := c.ReadMessage()
		if err != nil {
			return
		}
		if string(b) == "call" {
			call()
		}
		if err := c.WriteMessage(t, b); err != nil {
			return
		}
	}
}

func serveCoder(w http.ResponseWriter, r *http.Request) {
	c, err := coder.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(1 << 20)
	for {
		t, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), t, b); err != nil {
			return
		}
	}
}

func serveNhooyr(w http.ResponseWriter, r *http.Request) {
	c, err := nhooyr.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		t, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), t, b); err != nil {
			return
		}
	}
}

func dialGorilla(url string, n int, msg []byte) error {
	c, _, err := gorilla.DefaultDialer.Dial(url, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	for i := 0; i < n; i++ {
		if err := c.WriteMessage(gorilla.BinaryMessage, msg); err != nil {
			return err
		}
		if _, _, err := c.ReadMessage(); err != nil {
			return err
		}
	}
	bye := gorilla.FormatCloseMessage(gorilla.CloseGoingAway, "bye")
	if err := c.WriteMessage(gorilla.CloseMessage, bye); err != nil {
		return err
	}
	_, _, err = c.ReadMessage()
	if gorilla.IsCloseError(err, gorilla.CloseGoingAway) {
		return nil
	}
	return err
}

func dialCoder(url string, n int, msg []byte) error {
	ctx := context.Background()
	c, _, err := coder.Dial(ctx, url, nil)
	if err != nil {
		return err
	}
	defer c.CloseNow()
	c.SetReadLimit(1 << 20)
	for i := 0; i < n; i++ {
		if err := c.Write(ctx, coder.MessageBinary, msg); err != nil {
			return err
		}
		if _, _, err := c.Read(ctx); err != nil {
			return err
		}
	}
	return c.Close(coder.StatusGoingAway, "bye")
}

func dialNhooyr(url string, n int, msg []byte) error {
	ctx := context.Background()
	c, _, err := nhooyr.Dial(ctx, url, nil)
	if err != nil {
		return err
	}
	defer c.CloseNow()
	for i := 0; i < n; i++ {
		if err := c.Write(ctx, nhooyr.MessageBinary, msg); err != nil {
			return err
		}
		if _, _, err := c.Read(ctx); err != nil {
			return err
		}
	}
	return c.Close(nhooyr.StatusGoingAway, "bye")
}

func dial(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	n, _ := strconv.Atoi(q.Get("n"))
	size, _ := strconv.Atoi(q.Get("size"))
	msg := bytes.Repeat([]byte{'x'}, size)
	if m := q.Get("msg"); m != "" {
		msg = []byte(m)
	}
	f := map[string]func(string, int, []byte) error{"gorilla": dialGorilla, "coder": dialCoder, "nhooyr": dialNhooyr}[q.Get("lib")]
	if f == nil {
		http.Error(w, "no such library", http.StatusBadRequest)
		return
	}
	if err := f(q.Get("url"), n, msg); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	io.WriteString(w, "ok")
}

func main() {
	log.SetFlags(0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	called = "http://" + l.Addr().String() + "/plain"
	mux := http.NewServeMux()
	mux.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	mux.HandleFunc("/gorilla", serveGorilla)
	mux.HandleFunc("/coder", serveCoder)
	mux.HandleFunc("/nhooyr", serveNhooyr)
	mux.HandleFunc("/dial", dial)
	go func() { log.Fatal(http.Serve(l, mux)) }()
	fmt.Printf("ready {\"pid\":%d,\"http\":%q}\n", os.Getpid(), l.Addr())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
